// How large the inputs of a layer's linears become over the calibration samples.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "model/decoder_layer.h"
#include "model/online_transform.h"
#include "model/range_histogram.h"

namespace laos::model {

// Gathered from what forward saves; one thread at a time. Does not depend on how samples are
// batched.
class ActivationStats {
 public:
  struct Group {
    std::vector<float> peak;         // max |x| of each input channel
    std::vector<double> fourth_sum;  // Σ x⁴ of each, over all tokens
    // The same of x over its token's rms: what the token's own range will see.
    std::vector<double> relative_fourth_sum;
    std::optional<RangeHistogram> histogram;  // where it is asked for
    int64_t num_tokens = 0;
    float min = 0, max = 0;           // over all samples, with 0
    double min_sum = 0, max_sum = 0;  // of the samples' own ranges
    int64_t num_samples = 0;
    // Of the samples before the last, and of the last: it may go on with the next batch.
    double earlier_min_sum = 0, earlier_max_sum = 0;
    float last_min = 0, last_max = 0;
  };

  // `online` must outlive this: groups it rotates are seen as the linear sees them.
  ActivationStats(const hf::Config& config, const OnlineTransforms& online);
  void keep_histogram(LinearGroup group) {
    groups_[static_cast<size_t>(group)].histogram.emplace();
  }

  void observe(const Ragged& batch, const LayerSaved<float>& saved);
  const Group& operator[](LinearGroup group) const noexcept {
    return groups_[static_cast<size_t>(group)];
  }

 private:
  static void observe_sample(Group& group, MatView<const float> x, bool goes_on);

  const OnlineTransforms& online_;
  std::array<Group, kAllLinearGroups.size()> groups_;
};

}  // namespace laos::model
