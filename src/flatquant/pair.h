// Pairs of matrices as they are fitted: in f32, not yet rounded to what a checkpoint holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/tensor.h"
#include "model/online_transform.h"

namespace laos::flatquant {

struct Pair {
  std::string kind;        // "hadamard", ...
  Mat<float> left, right;  // [l, l], [r, r]
};

inline model::KroneckerTransform transform_of(const Mat<float>& left, const Mat<float>& right) {
  return {.left = left.clone(), .right = right.clone(), .cols = right.rows()};
}

// m⁻ᵀ as f32; nullopt when m is singular.
std::optional<Mat<float>> inverse_transposed(const Mat<float>& m);

template <class T>
double square_norm(const Mat<T>& m) {
  double sum = 0;
  for (int64_t i = 0; i < m.size(); ++i) sum += static_cast<double>(m.data()[i]) * m.data()[i];
  return sum;
}

// Rows whose blocks [m, n] are transposed, [n, m].
template <class T>
Mat<T> transposed_blocks(MatView<const T> rows, int64_t m, int64_t n);

}  // namespace laos::flatquant
