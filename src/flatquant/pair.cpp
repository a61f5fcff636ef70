#include "flatquant/pair.h"

#include "core/threads.h"
#include "flatquant/small_matrix.h"

namespace laos::flatquant {

std::optional<Mat<float>> inverse_transposed(const Mat<float>& m) {
  const std::optional<Mat<double>> inverted = inverse(m.view());
  if (!inverted) return std::nullopt;
  Mat<float> result(m.rows(), m.cols());
  for (int64_t i = 0; i < m.rows(); ++i)
    for (int64_t j = 0; j < m.cols(); ++j) result(i, j) = static_cast<float>((*inverted)(j, i));
  return result;
}

template <class T>
Mat<T> transposed_blocks(MatView<const T> rows, int64_t m, int64_t n) {
  Mat<T> result(rows.rows, rows.cols);
  parallel_for(rows.rows, [&](int64_t row) {
    for (int64_t block = 0; block < rows.cols; block += m * n)
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j)
          result(row, block + j * m + i) = rows.row(row)[block + i * n + j];
  });
  return result;
}

template Mat<float> transposed_blocks(MatView<const float>, int64_t, int64_t);
template Mat<double> transposed_blocks(MatView<const double>, int64_t, int64_t);

}  // namespace laos::flatquant
