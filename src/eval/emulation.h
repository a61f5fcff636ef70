// The arithmetic of the engine that serves AscendV1 checkpoints, vLLM-Ascend.
#pragma once

#include <map>
#include <string>

#include "core/dtype.h"
#include "core/tensor.h"
#include "model/decoder_layer.h"

namespace laos::eval {

// What the engine does where `laos eval` computes in f32: activations are of the model's dtype
// between operations; scales of W8A8_DYNAMIC and W8A16 are rounded to it when they are loaded; the
// products of W4A4_DYNAMIC come out in f16 and are then cast.
struct Emulation {
  DType dtype = DType::kBF16;  // the model's
  // The largest magnitude of each W4A4 linear's output so far, before it is rounded to f16.
  std::map<std::string, float> w4a4_peaks = {};
};

// From this magnitude on a value rounds to infinity in f16.
inline constexpr float kF16Overflow = 65520.0f;

DType dtype_of(const Emulation* emulation) noexcept;  // kF32 for null

// Rounds every value to what `dtype` holds. kF32 does nothing.
void round_rows(MatView<float> rows, DType dtype);

// The outputs of other linears, rounded to `dtype`.
class RoundedLinears : public model::LinearsForward<float> {
 public:
  // `linears` must outlive this.
  RoundedLinears(model::LinearsForward<float>& linears, DType dtype)
      : linears_(linears), dtype_(dtype) {}
  void forward(model::LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    linears_.forward(group, x, ys);
    for (const MatView<float> y : ys) round_rows(y, dtype_);
  }

 private:
  model::LinearsForward<float>& linears_;
  DType dtype_;
};

}  // namespace laos::eval
