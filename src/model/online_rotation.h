// Rotations of the inputs of o_proj and down_proj that happen while the model runs: the
// weights hold the inverse, so the layer's function stays the same.
#pragma once

#include <cstdint>
#include <memory>

#include "core/tensor.h"
#include "model/decoder_layer.h"

namespace laos::model {

// left ⊗ right on rows of left.rows() * cols elements: a row viewed as [left.rows(), cols] becomes
// leftᵀ x right. Both are orthogonal.
struct KroneckerRotation {
  Mat<float> left;   // [m, m]
  Mat<float> right;  // [cols, cols]; empty = identity
  int64_t cols = 0;

  int64_t size() const noexcept { return left.rows() * cols; }
  // y = rotated rows of x [n, size()]; y may be x.
  void apply(MatView<const float> x, MatView<float> y) const;
  // The inverse: left x rightᵀ.
  void apply_inverse(MatView<const float> x, MatView<float> y) const;

 private:
  void run(MatView<const float> x, MatView<float> y, bool inverse) const;
};

// Of one layer; null = the linear reads its input as it is.
struct OnlineRotation {
  std::shared_ptr<const KroneckerRotation> o;     // over [num_attention_heads, head_dim]
  std::shared_ptr<const KroneckerRotation> down;  // over intermediate_size = m * n

  const KroneckerRotation* of(LinearGroup group) const noexcept {
    if (group == LinearGroup::kO) return o.get();
    return group == LinearGroup::kDown ? down.get() : nullptr;
  }
};

// Rotates what o_proj and down_proj read before `linears` gets it, and the gradient back.
class OnlineLinears : public LinearsForward<float>, public LinearsBackward<float> {
 public:
  // References must outlive this. `backward` may be null where only forward is used.
  OnlineLinears(const OnlineRotation& rotation, LinearsForward<float>& forward,
                LinearsBackward<float>* backward = nullptr)
      : rotation_(rotation), forward_(forward), backward_(backward) {}

  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override;
  void input_gradient(LinearGroup group, std::span<const MatView<const float>> d_ys,
                      MatView<float> d_x) override;
  void weight_gradient(LinearGroup group, MatView<const float> x,
                       std::span<const MatView<const float>> d_ys,
                       std::span<const int64_t> ends) override;

 private:
  // x rotated for `group`, in scratch memory that is kept from call to call.
  MatView<const float> rotated(const KroneckerRotation& rotation, MatView<const float> x);

  const OnlineRotation& rotation_;
  LinearsForward<float>& forward_;
  LinearsBackward<float>* backward_;
  Buffer<float> scratch_;
};

}  // namespace laos::model
