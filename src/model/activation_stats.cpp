#include "model/activation_stats.h"

#include <algorithm>
#include <utility>

#include "core/threads.h"

namespace laos::model {

ActivationStats::ActivationStats(const hf::Config& config, const OnlineTransforms& online)
    : online_(online) {
  for (const LinearGroup group : kAllLinearGroups) {
    const auto width = static_cast<size_t>(in_features(config, linears_of(group).front()));
    groups_[static_cast<size_t>(group)].peak.assign(width, 0.0f);
    groups_[static_cast<size_t>(group)].fourth_sum.assign(width, 0.0);
    groups_[static_cast<size_t>(group)].relative_fourth_sum.assign(width, 0.0);
  }
}

void ActivationStats::observe(const Ragged& batch, const LayerSaved<float>& saved) {
  for (const LinearGroup group : kAllLinearGroups) {
    const Mat<float>& input = saved.input_of(group);
    if (input.size() == 0) continue;  // down where all layers are mixtures
    for (int64_t s = 0; s < batch.num_sequences(); ++s) {
      const MatView<const float> x = input.view().slice_rows(
          batch.offsets[static_cast<size_t>(s)], batch.offsets[static_cast<size_t>(s + 1)]);
      Group& stats = groups_[static_cast<size_t>(group)];
      if (const KroneckerTransform* rotation = online_.of(group)) {
        Mat<float> rotated(x.rows, x.cols);  // [tokens of the sample, in_features]
        rotation->apply(x, rotated.view());
        observe_sample(stats, std::as_const(rotated).view(), batch.past > 0);
      } else {
        observe_sample(stats, x, batch.past > 0);
      }
    }
  }
}

void ActivationStats::observe_sample(Group& group, MatView<const float> x, bool goes_on) {
  constexpr int64_t kColumns = 256;  // a task's share; rows are walked in full lines
  std::vector<float> min(static_cast<size_t>(x.cols), 0.0f), max(min);  // [in_features]
  std::vector<double> inv_mean_square(static_cast<size_t>(x.rows));     // of each token; 0 of zeros
  parallel_for(x.rows, [&](int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < x.cols; ++j) sum += static_cast<double>(x.row(i)[j]) * x.row(i)[j];
    if (sum > 0) inv_mean_square[static_cast<size_t>(i)] = static_cast<double>(x.cols) / sum;
  });
  parallel_for_ranges(x.cols, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < x.rows; ++i) {
      const float* row = x.row(i);
      for (int64_t j = begin; j < end; ++j) {
        const auto column = static_cast<size_t>(j);
        min[column] = std::min(min[column], row[j]);
        max[column] = std::max(max[column], row[j]);
        const double square = static_cast<double>(row[j]) * row[j];
        group.fourth_sum[column] += square * square;
        const double relative = square * inv_mean_square[static_cast<size_t>(i)];
        group.relative_fourth_sum[column] += relative * relative;
      }
    }
  });
  if (group.histogram) group.histogram->observe(x);
  float sample_min = 0, sample_max = 0;
  for (size_t j = 0; j < min.size(); ++j) {
    group.peak[j] = std::max({group.peak[j], max[j], -min[j]});
    sample_min = std::min(sample_min, min[j]);
    sample_max = std::max(sample_max, max[j]);
  }
  group.min = std::min(group.min, sample_min);
  group.max = std::max(group.max, sample_max);
  if (goes_on) {
    sample_min = std::min(sample_min, group.last_min);
    sample_max = std::max(sample_max, group.last_max);
  } else {
    group.earlier_min_sum = group.min_sum;
    group.earlier_max_sum = group.max_sum;
    ++group.num_samples;
  }
  group.min_sum = group.earlier_min_sum + sample_min;
  group.max_sum = group.earlier_max_sum + sample_max;
  group.last_min = sample_min;
  group.last_max = sample_max;
  group.num_tokens += x.rows;
}

}  // namespace laos::model
