// What is done to the inputs of a layer's linears while the model runs: a pair of matrices, whose
// inverse the weights hold, so that the layer's function stays the same.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/tensor.h"
#include "model/decoder_layer.h"

namespace laos::model {

// left ⊗ right on every size() elements of a row: viewed as [left.rows(), cols] they become
// leftᵀ x right. A row is one such block, or several that share the pair.
struct KroneckerTransform {
  Mat<float> left;   // [m, m]
  Mat<float> right;  // [cols, cols]; empty = identity
  int64_t cols = 0;
  // Of the largest magnitude of a token, the part that the largest 4-bit code stands for: larger
  // values saturate.
  float clip = 1;
  // What the product with right is rounded to, and then that with left, as an engine does.
  DType right_dtype = DType::kF32, left_dtype = DType::kF32;

  int64_t size() const noexcept { return left.rows() * cols; }
  // y = transformed rows of x [n, a multiple of size()]; y may be x.
  void apply(MatView<const float> x, MatView<float> y) const;
  // left x rightᵀ: what gradients go through, and the inverse where both are orthogonal.
  void apply_transposed(MatView<const float> x, MatView<float> y) const;

 private:
  void run(MatView<const float> x, MatView<float> y, bool transposed) const;
};

// Of one layer; null = the linears of the group read their input as it is. Experts always do.
class OnlineTransforms {
 public:
  std::shared_ptr<const KroneckerTransform>& operator[](LinearGroup group) noexcept {
    return groups_[static_cast<size_t>(group)];
  }
  const KroneckerTransform* of(LinearGroup group) const noexcept {
    return hf::expert_of(group) >= 0 ? nullptr : groups_[static_cast<size_t>(group)].get();
  }
  float clip_of(LinearGroup group) const noexcept {
    return of(group) == nullptr ? 1.0f : of(group)->clip;
  }

 private:
  std::array<std::shared_ptr<const KroneckerTransform>, kAllLinearGroups.size()> groups_;
};

// Transforms what linears read before `linears` gets it, and the gradient back.
class OnlineLinears : public LinearsForward<float>, public LinearsBackward<float> {
 public:
  // References must outlive this. `backward` may be null where only forward is used.
  OnlineLinears(const OnlineTransforms& transforms, LinearsForward<float>& forward,
                LinearsBackward<float>* backward = nullptr)
      : transforms_(transforms), forward_(forward), backward_(backward) {}

  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override;
  void input_gradient(LinearGroup group, std::span<const MatView<const float>> d_ys,
                      MatView<float> d_x) override;
  void weight_gradient(LinearGroup group, MatView<const float> x,
                       std::span<const MatView<const float>> d_ys,
                       std::span<const int64_t> ends) override;

 private:
  // x transformed for `group`, in scratch memory that is kept from call to call.
  MatView<const float> transformed(const KroneckerTransform& transform, MatView<const float> x);

  const OnlineTransforms& transforms_;
  LinearsForward<float>& forward_;
  LinearsBackward<float>* backward_;
  Buffer<float> scratch_;
};

}  // namespace laos::model
