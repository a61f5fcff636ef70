// The linears of a decoder layer while their rounding is learned (spec 8.2, 8.4).
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "autoround/options.h"
#include "model/decoder_layer.h"
#include "quant/int_weight.h"

namespace laos::autoround {

// What each linear of a layer is quantized to; nullopt = not trained.
using LayerScheme = std::array<std::optional<quant::LinearScheme>, model::kNumLinears>;

// Activation bits of the linears of a layer that are not trained; 0 = float.
using ActBits = std::array<int, model::kNumLinears>;

// Applies quantize-dequantized weights Ŵ(V, α) in forward. In backward each linear's weight
// gradient is made a few output rows at a time and spent at once: sign-SGD on the rows' V and α,
// and the rows of Ŵ quantized again for the next iteration. The gradient is never stored whole.
// With act_aware, forward rounds what each linear reads as its dynamic activations will be;
// backward takes that rounding's derivative as 1.
class TrainableLinears : public model::LinearsForward<float>, public model::LinearsBackward<float> {
 public:
  // `weights` [out, in] must outlive this. Starts at plain rounding: V = 0, α = 1.
  TrainableLinears(const model::LayerWeights& weights, const LayerScheme& scheme,
                   const TrainOptions& options, const ActBits& untrained = {});

  void forward(model::LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override;
  void backward(model::LinearGroup group, MatView<const float> x,
                std::span<const MatView<const float>> d_ys, MatView<float> d_x) override;

  // The step that backward takes.
  void set_learning_rate(float lr) noexcept { lr_ = lr; }
  // V = 0, α = 1: plain rounding.
  void reset();

  // The integer weights that forward applies now.
  using Snapshot = std::array<quant::IntWeight, model::kNumLinears>;
  // Into `snapshot`, whose memory is reused.
  void save(Snapshot& snapshot) const;
  // Makes forward apply `snapshot`; V and α stay as they are.
  void apply(const Snapshot& snapshot);

 private:
  struct Trained {
    quant::WeightSpec spec;
    int64_t group_size = 0;
    MatView<const float> weight;  // [out * num_groups, group_size]: a row is what shares a scale
    std::vector<float> min, max;  // of each row with 0, fixed
    std::vector<float> alpha_min, alpha_max;
    std::vector<float> scale;
    Mat<float> offsets;      // V; empty when rounding is not learned
    Mat<float> dequantized;  // Ŵ [out, in]
  };

  MatView<const float> applied(model::Linear linear) const noexcept;
  // What the linear multiplies: x, or x rounded to the linear's activation bits.
  MatView<const float> input_of(model::Linear linear, MatView<const float> x);
  static void requantize_row(Trained& t, int64_t row) noexcept;
  void update_row(Trained& t, int64_t row, const float* d_weight) const noexcept;

  TrainOptions options_;
  float lr_ = 0;
  std::array<MatView<const float>, model::kNumLinears> float_weights_;
  std::array<int, model::kNumLinears> act_bits_ = {};  // 0: not rounded
  Buffer<float> rounded_;                              // what input_of has made, of...
  int rounded_bits_ = 0;                               // ...this width, in this call
  std::array<std::optional<Trained>, model::kNumLinears> trained_;
};

}  // namespace laos::autoround
