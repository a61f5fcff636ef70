// Random inputs of tests.
#pragma once

#include <cstdint>
#include <random>

#include "core/tensor.h"

namespace laos::test {

// Independent normal values; equal arguments give equal bits.
inline Mat<float> normal_matrix(int64_t rows, int64_t cols, uint32_t seed, float sigma = 1,
                                float mean = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(mean, sigma);
  Mat<float> matrix(rows, cols);
  for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal(generator);
  return matrix;
}

}  // namespace laos::test
