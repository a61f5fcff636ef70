// The linears of a decoder layer while their rounding is learned. What is learned of a linear: an
// offset V for each weight, and two factors α in [0, 1] for each row (or group) that shares a
// scale, which shrink its smallest and its largest weight:
//   scale = max(α_max max(w), -α_min min(w)) / steps, of the sign that quant::scale_of gives it
//   Ŵ = scale * clamp(round(w / scale + V))
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <vector>

#include "autoround/options.h"
#include "io/paged_mat.h"
#include "model/decoder_layer.h"
#include "model/online_transform.h"
#include "quant/int_weight.h"

namespace laos::autoround {

// What each linear of a layer is quantized to; nullopt = not trained.
using LayerScheme = model::PerLinear<std::optional<quant::LinearScheme>>;

// Activation bits of the linears of a layer that are not trained; 0 = float.
using ActBits = model::PerLinear<int>;

// The integer weights of a layer; those of linears that are not trained are empty.
using LayerCodes = model::PerLinear<quant::IntWeight>;

// Bytes of the gradient of a linear [out_features, in_features] that exist at a time in f32; in
// bf16 each thread has rows of its own.
int64_t gradient_block_bytes(int64_t out_features, int64_t in_features) noexcept;

// Output rows whose gradient a thread makes at a time in bf16.
inline constexpr int64_t kGradientRows = 128;

// Applies quantize-dequantized weights Ŵ(V, α) in forward. In backward each linear's weight
// gradient is made a few output rows at a time and spent at once: sign-SGD on the rows' V and α,
// and the rows of Ŵ quantized again for the next iteration. The gradient is never stored whole,
// unless the batch comes in pieces: then keep_gradients() makes room for it, weight_gradient adds
// to it, and step() spends it, with the same result.
// With act_aware, forward rounds what each linear reads as its dynamic activations will be;
// backward takes that rounding's derivative as 1.
// With options.compute kBf16 the operands of all products (Ŵ, weights that are not trained, inputs,
// gradients of outputs) are rounded to bfloat16; sums, V and α stay f32.
class TrainableLinears : public model::LinearsForward<float>, public model::LinearsBackward<float> {
 public:
  // `weights` [out, in] must outlive this; `online` says how activations are clipped. Starts at
  // plain rounding: V = 0, α = 1.
  TrainableLinears(const model::LayerWeights& weights, const LayerScheme& scheme,
                   const TrainOptions& options, const ActBits& untrained = {},
                   const model::OnlineTransforms& online = {});

  void forward(model::LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override;
  void input_gradient(model::LinearGroup group, std::span<const MatView<const float>> d_ys,
                      MatView<float> d_x) override;
  void weight_gradient(model::LinearGroup group, MatView<const float> x,
                       std::span<const MatView<const float>> d_ys,
                       std::span<const int64_t> ends) override;
  void keep_gradients();
  void step();

  // Puts the weights that are trained, which each iteration reads once, into files in `directory`;
  // `weights` is what the constructor got. restore_weights brings them back, at the end: it frees
  // what forward applies and the offsets first.
  void put_weights_aside(model::LayerWeights& weights, const std::filesystem::path& directory);
  void restore_weights(model::LayerWeights& weights);

  // The step that weights take.
  void set_learning_rate(float lr) noexcept { lr_ = lr; }
  // V = 0, α = 1: plain rounding.
  void reset();

  // The integer weights that forward applies at a moment.
  struct Snapshot {
    std::filesystem::path directory;  // of the files that hold the codes; empty: in memory
    model::PerLinear<quant::WeightSpec> specs = {};
    model::PerLinear<io::PagedMat<int8_t>> q = {};
    model::PerLinear<std::vector<float>> scale = {};

    LayerCodes codes() const;
  };
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
    Mat<int16_t> offsets;  // V = unit * offset; empty when rounding is not learned
    float unit = 0;
    Mat<float> dequantized;  // Ŵ [out, in]; in bf16 it stands in narrow_
  };

  bool is_bf16() const noexcept { return options_.compute == linalg::ComputeType::kBf16; }
  MatView<const float> applied(model::Linear linear) const noexcept;
  MatView<const uint16_t> applied_bf16(model::Linear linear) const noexcept;
  // What the linear multiplies: x, or x rounded to the linear's activation bits.
  MatView<const float> input_of(model::Linear linear, MatView<const float> x);
  // The same in bfloat16, see narrow_pieces.
  MatView<const uint16_t> narrow_input_of(model::Linear linear, MatView<const float> x,
                                          std::span<const int64_t> ends);
  // Ŵ of a row from V and α; of a row of given codes. `scratch` [group_size] is overwritten.
  void requantize_row(model::Linear linear, int64_t row, float* scratch) noexcept;
  void dequantize_row(model::Linear linear, int64_t row, const int8_t* codes,
                      float* scratch) noexcept;
  // The step; overwrites d_weight.
  void update_row(model::Linear linear, int64_t row, float* d_weight) noexcept;
  // update_row for output rows [begin, end), whose gradient lies at d_weight.
  void update_rows(model::Linear linear, int64_t begin, int64_t end, float* d_weight) noexcept;

  TrainOptions options_;
  float lr_ = 0;
  std::vector<model::Linear> linears_;     // of the layer
  model::PerLinear<const float*> biases_;  // null: none
  model::PerLinear<MatView<const float>> float_weights_;
  model::PerLinear<int> act_bits_ = {};  // 0: not rounded
  model::PerLinear<float> clips_ = {};   // see model::KroneckerTransform
  Buffer<float> rounded_;                // what input_of has made, of...
  int rounded_bits_ = 0;                 // ...this width, in this call
  model::PerLinear<std::optional<Trained>> trained_;
  model::PerLinear<io::PagedMat<float>> aside_;  // weights, once put aside
  bool keeps_gradients_ = false;
  model::PerLinear<Mat<float>> gradients_;
  model::PerLinear<bool> has_gradient_ = {};
  Buffer<float> gradient_block_;  // f32 only
  // bf16 only: what every linear applies, [out, in], and the operands of the call at work.
  model::PerLinear<Mat<uint16_t>> narrow_;
  Buffer<uint16_t> narrow_input_, narrow_d_y_;
  int narrow_bits_ = -1;  // act bits of what narrow_input_ holds in this call, -1: nothing
};

}  // namespace laos::autoround
