#include "model/online_transform.h"

#include <algorithm>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"

namespace laos::model {

using linalg::Trans;

namespace {

void round_to_dtype(DType dtype, MatView<float> x) noexcept {
  if (dtype == DType::kF32) return;
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) x.row(i)[j] = round_to(dtype, x.row(i)[j]);
}

}  // namespace

void KroneckerTransform::run(MatView<const float> x, MatView<float> y, bool transposed) const {
  LAOS_ASSERT(x.cols % size() == 0 && y.cols == x.cols && y.rows == x.rows);
  constexpr int64_t kRowGrain = 16;
  const int64_t m = left.rows();
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    Mat<float> part(m, cols);  // [m, cols]: x right
    for (int64_t i = begin; i < end; ++i)
      for (int64_t block = 0; block < x.cols; block += size()) {
        const MatView<const float> source{x.row(i) + block, m, cols, cols};  // [m, cols]
        const MatView<float> target{y.row(i) + block, m, cols, cols};        // [m, cols]
        if (right.size() != 0)
          linalg::gemm_one_thread(Trans::kNo, transposed ? Trans::kYes : Trans::kNo, 1.0f, source,
                                  right.view(), 0.0f, part.view());
        else
          std::copy_n(source.data, m * cols, part.data());
        round_to_dtype(right_dtype, part.view());
        linalg::gemm_one_thread(transposed ? Trans::kNo : Trans::kYes, Trans::kNo, 1.0f,
                                left.view(), std::as_const(part).view(), 0.0f, target);
        round_to_dtype(left_dtype, target);
      }
  });
}

void KroneckerTransform::apply(MatView<const float> x, MatView<float> y) const { run(x, y, false); }

void KroneckerTransform::apply_transposed(MatView<const float> x, MatView<float> y) const {
  run(x, y, true);
}

MatView<const float> OnlineLinears::transformed(const KroneckerTransform& transform,
                                                MatView<const float> x) {
  const MatView<float> target = grown(scratch_, x.rows, x.cols);  // [tokens, in_features]
  transform.apply(x, target);
  return target;
}

void OnlineLinears::forward(LinearGroup group, MatView<const float> x,
                            std::span<const MatView<float>> ys) {
  const KroneckerTransform* transform = transforms_.of(group);
  forward_.forward(group, transform == nullptr ? x : transformed(*transform, x), ys);
}

void OnlineLinears::input_gradient(LinearGroup group, std::span<const MatView<const float>> d_ys,
                                   MatView<float> d_x) {
  LAOS_ASSERT(backward_ != nullptr);
  backward_->input_gradient(group, d_ys, d_x);
  if (const KroneckerTransform* transform = transforms_.of(group))
    transform->apply_transposed(d_x, d_x);
}

void OnlineLinears::weight_gradient(LinearGroup group, MatView<const float> x,
                                    std::span<const MatView<const float>> d_ys,
                                    std::span<const int64_t> ends) {
  LAOS_ASSERT(backward_ != nullptr);
  const KroneckerTransform* transform = transforms_.of(group);
  backward_->weight_gradient(group, transform == nullptr ? x : transformed(*transform, x), d_ys,
                             ends);
}

}  // namespace laos::model
