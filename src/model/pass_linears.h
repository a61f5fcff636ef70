// Linears of a float layer that samples are passed through, in the dtype of its products.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "linalg/gemm.h"
#include "model/decoder_layer.h"

namespace laos::model {

// Weights and inputs are rounded to bfloat16, sums and outputs are f32. Experts stay in f32: each
// sees few tokens of a piece, and copies of them all would be half a layer more of memory.
class Bf16Linears : public LinearsForward<float> {
 public:
  // Views must outlive this.
  explicit Bf16Linears(const FloatLinears<float>::Weights& weights);

  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override;

 private:
  PerLinear<const float*> biases_;
  PerLinear<Mat<uint16_t>> narrow_;  // [out_features, in_features]
  FloatLinears<float> experts_;
  Buffer<uint16_t> x_;
};

// `weights`' views must outlive it.
std::unique_ptr<LinearsForward<float>> pass_linears(linalg::ComputeType compute,
                                                    const FloatLinears<float>::Weights& weights);
// Bytes that it takes at the most, of any layer, with inputs of `tokens` tokens at a time.
int64_t pass_linears_bytes(linalg::ComputeType compute, const hf::Config& config, int64_t tokens);

}  // namespace laos::model
