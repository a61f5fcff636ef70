#include "model/online_rotation.h"

#include <algorithm>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"

namespace laos::model {

using linalg::Trans;

void KroneckerRotation::run(MatView<const float> x, MatView<float> y, bool inverse) const {
  LAOS_ASSERT(x.cols == size() && y.cols == x.cols && y.rows == x.rows);
  constexpr int64_t kRowGrain = 16;
  const int64_t m = left.rows();
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    Mat<float> part(m, cols);  // [m, cols]: x right
    for (int64_t i = begin; i < end; ++i) {
      const MatView<const float> row{x.row(i), m, cols, cols};  // [m, cols]
      if (right.size() != 0)
        linalg::gemm_one_thread(Trans::kNo, inverse ? Trans::kYes : Trans::kNo, 1.0f, row,
                                right.view(), 0.0f, part.view());
      else
        std::copy_n(row.data, m * cols, part.data());
      linalg::gemm_one_thread(inverse ? Trans::kNo : Trans::kYes, Trans::kNo, 1.0f, left.view(),
                              std::as_const(part).view(), 0.0f,
                              MatView<float>{y.row(i), m, cols, cols});
    }
  });
}

void KroneckerRotation::apply(MatView<const float> x, MatView<float> y) const { run(x, y, false); }

void KroneckerRotation::apply_inverse(MatView<const float> x, MatView<float> y) const {
  run(x, y, true);
}

MatView<const float> OnlineLinears::rotated(const KroneckerRotation& rotation,
                                            MatView<const float> x) {
  const MatView<float> target = grown(scratch_, x.rows, x.cols);  // [tokens, in_features]
  rotation.apply(x, target);
  return target;
}

void OnlineLinears::forward(LinearGroup group, MatView<const float> x,
                            std::span<const MatView<float>> ys) {
  const KroneckerRotation* rotation = rotation_.of(group);
  forward_.forward(group, rotation == nullptr ? x : rotated(*rotation, x), ys);
}

void OnlineLinears::input_gradient(LinearGroup group, std::span<const MatView<const float>> d_ys,
                                   MatView<float> d_x) {
  LAOS_ASSERT(backward_ != nullptr);
  backward_->input_gradient(group, d_ys, d_x);
  if (const KroneckerRotation* rotation = rotation_.of(group)) rotation->apply_inverse(d_x, d_x);
}

void OnlineLinears::weight_gradient(LinearGroup group, MatView<const float> x,
                                    std::span<const MatView<const float>> d_ys,
                                    std::span<const int64_t> ends) {
  LAOS_ASSERT(backward_ != nullptr);
  const KroneckerRotation* rotation = rotation_.of(group);
  backward_->weight_gradient(group, rotation == nullptr ? x : rotated(*rotation, x), d_ys, ends);
}

}  // namespace laos::model
