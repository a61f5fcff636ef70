// The linears of a quantized decoder layer while a factor on each row of their weights is learned:
// codes and activations as the checkpoint has them, scales times exp(log factor).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "hf/quantized_checkpoint.h"
#include "linalg/gemm.h"
#include "model/decoder_layer.h"
#include "model/online_transform.h"
#include "quant/int_weight.h"
#include "tune/operand.h"

namespace laos::tune {

// Of the rows of each linear of a layer; empty where the linear has none to learn.
using RowValues = model::PerLinear<std::vector<float>>;

// Whether the scales of a linear of this label can be learned here: those of weights alone, and
// those beside dynamic activations. False for a label that is not known.
bool has_factors(const std::string& label);

// Holds one layer at a time, in memory that is kept from layer to layer. Products are of codes,
// which bfloat16 holds exactly, with f32 sums; a linear whose rows have several scales, or that is
// float, has its weights rounded to the operand's type. Rounding of activations counts as the
// identity in backward.
class ScaleLinears : public model::LinearsForward<float>, public model::LinearsBackward<float> {
 public:
  ScaleLinears(const hf::QuantizedCheckpoint& checkpoint, linalg::ComputeType compute)
      : checkpoint_(checkpoint), compute_(compute) {}

  // Takes a layer: its `log_factors`, its biases and its transforms, which must outlive its use.
  // Gradients are zero then.
  void load(int64_t layer_idx, const RowValues& log_factors, const model::LayerWeights& small,
            const model::OnlineTransforms& online);

  void forward(model::LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override;
  void input_gradient(model::LinearGroup group, std::span<const MatView<const float>> d_ys,
                      MatView<float> d_x) override;
  // Adds ∂loss/∂log factor to `gradients`: of a row it is the sum over tokens of what the row gave,
  // without the bias, times its gradient, so that no product is needed. What forward gave is kept
  // for it where keep_outputs(true) was called before.
  void weight_gradient(model::LinearGroup group, MatView<const float> x,
                       std::span<const MatView<const float>> d_ys,
                       std::span<const int64_t> ends) override;
  void keep_outputs(bool keeps) noexcept { keeps_ = keeps; }
  const RowValues& gradients() const noexcept { return gradients_; }

  // Bytes that a layer takes, of `num_tokens` whose outputs are kept.
  static int64_t size_bytes(const hf::Config& config, int64_t num_tokens,
                            linalg::ComputeType compute);

 private:
  struct Entry {
    int64_t out = 0, in = 0;
    int act_bits = 0;  // dynamic, or 0: inputs as they are, or rounded to `range`
    float clip = 1;
    std::optional<quant::StaticRange> range;
    std::vector<float> row_scale;  // of the operand's rows, with the factors
    Buffer<float> wide;            // the operand [out, in], one of the two
    Buffer<uint16_t> narrow;
    Buffer<float> output;  // of the last forward, without bias, [num_tokens, out]
    int64_t num_tokens = 0;
  };

  bool is_bf16() const noexcept { return compute_ == linalg::ComputeType::kBf16; }
  Operand operand(const Entry& entry) const;
  void load(const std::string& name, Entry& entry);
  // What the linear's operand is multiplied with: x, or its codes, into input_.
  MatView<const float> round_input(const Entry& entry, MatView<const float> x);

  const hf::QuantizedCheckpoint& checkpoint_;
  linalg::ComputeType compute_;
  model::PerLinear<Entry> entries_;
  const model::LayerWeights* small_ = nullptr;
  bool keeps_ = false;
  RowValues gradients_;
  Buffer<float> input_, token_scale_, d_y_;  // what a group reads, its tokens' scales
  Buffer<uint16_t> narrow_input_;
};

}  // namespace laos::tune
