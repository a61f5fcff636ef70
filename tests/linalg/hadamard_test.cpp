#include "linalg/hadamard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "core/isa.h"
#include "linalg/kernels/hadamard.h"
#include "linalg/kernels/hadamard_scalar.h"

namespace laos::linalg {
namespace {

// Orders and their matrices as they were before Paley's constructions gave more: FNV-1a of the
// bytes. A rotation of these sizes is the published scheme's.
TEST(HadamardKernel, OfThePublishedOrdersKeepsItsBytes) {
  const std::pair<int64_t, uint64_t> kernels[] = {
      {1, 0x44bd2ad473ccf5e6},   {12, 0xcf2e92bb25ee3d7b},  {20, 0x1bd7c199695888a3},
      {28, 0x228a15fb2effbf63},  {36, 0x787630e3526d3c23},  {40, 0x884147b6c8221843},
      {52, 0x795a6be4023fbba3},  {60, 0xff0429d83e3ffe63},  {68, 0xadba7aac064717a3},
      {76, 0x0b59a7ef069fca63},  {80, 0xe8df0456f20b0fb3},  {108, 0x4174bb0937c95ae3},
      {136, 0x6b184e67c8aab643}, {140, 0x67cc0a022a7835b3}, {156, 0x64ed66acd66dba63},
      {160, 0x0dec639f30e11a83}, {172, 0x74eb27ba802de163}, {200, 0x6e4826d80824cf8b}};
  for (const auto& [order, expected] : kernels) {
    uint64_t hash = 1469598103934665603u;
    for (const int8_t entry : hadamard_kernel(order))
      hash = (hash ^ static_cast<uint8_t>(entry)) * 1099511628211u;
    EXPECT_EQ(hash, expected) << order;
  }
}

// Every order that some size factors into, up to 256, and a few above.
std::vector<int64_t> known_orders() {
  std::vector<int64_t> orders = {1, 80};
  for (int64_t size = 4; size <= 256; size += 4)
    if (hadamard_order(size) == size) orders.push_back(size);
  for (const int64_t order : {368, 388, 464}) orders.push_back(order);
  return orders;
}

class HadamardKernels : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(EveryOrder, HadamardKernels, testing::ValuesIn(known_orders()),
                         testing::PrintToStringParamName());

TEST_P(HadamardKernels, TimesItsTransposeIsOrderTimesIdentity) {
  const int64_t n = GetParam();
  const std::vector<int8_t> a = hadamard_kernel(n);
  ASSERT_EQ(static_cast<int64_t>(a.size()), n * n);
  for (const int8_t entry : a) ASSERT_TRUE(entry == 1 || entry == -1);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int64_t dot = 0;
      for (int64_t k = 0; k < n; ++k) dot += a[i * n + k] * a[j * n + k];
      ASSERT_EQ(dot, i == j ? n : 0) << i << "," << j;
    }
  }
}

TEST(HadamardOrder, PicksTheLargestKernelOfQwen3Dimensions) {
  const std::pair<int64_t, int64_t> cases[] = {
      {4096, 1},    {5120, 160}, {2048, 1}, {2560, 160}, {128, 1}, {12288, 12}, {17408, 136},
      {25600, 200}, {768, 12},   {1, 1},    {0, 0},      {-4, 0},  {7, 0},      {13824, 108}};
  for (const auto& [size, order] : cases) EXPECT_EQ(hadamard_order(size), order) << size;
}

// 9 * 64, 7 * 128, 19 * 256, 35 * 256, 37 * 512: hidden sizes and widths of small models. 44 and
// 368 are of Paley's first construction, 100 and 148 of the second, 100 over a field of 7².
TEST(HadamardOrder, FactorsTheSizesOfManyModels) {
  const std::pair<int64_t, int64_t> cases[] = {{576, 36},    {896, 28},    {4864, 76},
                                               {8960, 140},  {18944, 148}, {5632, 44},
                                               {11008, 172}, {1472, 368},  {100, 100}};
  for (const auto& [size, order] : cases) EXPECT_EQ(hadamard_order(size), order) << size;
  // No Hadamard matrix is known to this program: the odd factor stands in.
  for (const int64_t size : {int64_t{13696}, int64_t{92}, int64_t{7}, int64_t{22}})
    EXPECT_EQ(hadamard_order(size), 0) << size;
  EXPECT_EQ(stand_in_order(13696), 107);
  EXPECT_EQ(stand_in_order(92), 23);
  EXPECT_EQ(stand_in_order(7), 7);
  EXPECT_EQ(stand_in_order(576), 0);
  EXPECT_EQ(stand_in_order(1024 * 1025), 0);
}

// What the published scheme factors, by the largest of its orders, is factored as it was.
TEST(HadamardOrder, OfSizesOfThePublishedSchemeIsItsOwn) {
  for (int64_t size = 1; size <= 30'000; ++size)
    for (const int64_t order : {200, 172, 160, 156, 140, 136, 108, 76, 60, 52, 40, 36, 28, 20, 12})
      if (size % order == 0 && ((size / order) & (size / order - 1)) == 0) {
        EXPECT_EQ(hadamard_order(size), order) << size;
        break;
      }
}

TEST(HadamardOrder, IsSaidByTheOnesThatAreMissing) {
  EXPECT_EQ(hadamard_sizes(),
            "Hadamard matrices are known of powers of two, of the multiples of four up to 256 but "
            "for 92, 116, 184, 188, 232 and 236, of some above, and of these times powers of two");
}

struct SignAt {
  int64_t row, col;
  int sign;
};
void expect_signs(int64_t n, const std::vector<SignAt>& expected) {
  const Mat<float> matrix = RandomHadamard(n).dense();
  for (const SignAt& at : expected) {
    const double entry = matrix(at.row, at.col) * std::sqrt(static_cast<double>(n));
    EXPECT_NEAR(entry, at.sign, 1e-4) << n << " at " << at.row << "," << at.col;
  }
}

// Signs of M * sqrt(n) that the published scheme has at these sizes.
TEST(RandomHadamard, MatchesTheReferenceSignsAt4096) {
  expect_signs(4096, {{1, 1, -1},
                      {2, 3, 1},
                      {31, 5, -1},
                      {32, 0, -1},
                      {33, 64, 1},
                      {100, 2000, 1},
                      {2000, 100, -1},
                      {4095, 4095, 1}});
}
TEST(RandomHadamard, MatchesTheReferenceSignsAt5120) {
  expect_signs(5120, {{1, 1, -1},
                      {2, 3, 1},
                      {31, 5, -1},
                      {32, 0, 1},
                      {33, 64, 1},
                      {100, 2000, 1},
                      {2000, 100, 1},
                      {5119, 5119, -1}});
}

class RandomHadamardSizes : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};
INSTANTIATE_TEST_SUITE_P(OrdersAndBlocks, RandomHadamardSizes,
                         testing::Values(std::pair{1, -1}, std::pair{2, -1}, std::pair{64, -1},
                                         std::pair{24, -1}, std::pair{40, -1}, std::pair{80, -1},
                                         std::pair{160, -1}, std::pair{56, -1}, std::pair{144, -1},
                                         std::pair{272, -1}, std::pair{320, -1}, std::pair{768, -1},
                                         std::pair{96, 32}, std::pair{128, 1}, std::pair{400, -1},
                                         std::pair{44, -1}, std::pair{148, -1}, std::pair{736, -1}),
                         [](const auto& sizes) {
                           const int64_t block = sizes.param.second;
                           return std::to_string(sizes.param.first) +
                                  (block == -1 ? "Whole" : "Block" + std::to_string(block));
                         });

// The formula of linalg/hadamard.h for an entry, term by term.
TEST_P(RandomHadamardSizes, EqualsItsDefinition) {
  const auto [n, block] = GetParam();
  const int64_t m = block == -1 ? n : block, order = hadamard_order(m), r = m / order;
  const std::vector<int8_t> kernel = hadamard_kernel(order);
  std::mt19937 generator(1234);
  std::vector<int> signs(static_cast<size_t>(m));
  for (int& sign : signs) sign = generator() % 2 == 1 ? 1 : -1;
  const RandomHadamard transform(n, block);
  const Mat<float> matrix = transform.dense();
  Mat<float> rows(n, n);  // of the identity, transformed
  rows.fill_zero();
  for (int64_t i = 0; i < n; ++i) rows(i, i) = 1;
  transform.apply_right(rows.view());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double expected = 0;
      if (i / m == j / m) {
        const int64_t q = i % m / r, t = i % r, p = j % m / r, u = j % r;
        expected = signs[static_cast<size_t>(i % m)] * kernel[p * order + q] *
                   (__builtin_popcountll(static_cast<uint64_t>(t & u)) % 2 ? -1.0 : 1.0) /
                   std::sqrt(static_cast<double>(m));
      }
      ASSERT_NEAR(matrix(i, j), expected, 1e-6) << i << "," << j;
      ASSERT_NEAR(rows(i, j), expected, 1e-6) << i << "," << j;
    }
  }
}

class HadamardSteps : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { use_isa(GetParam()); }
  void TearDown() override { restore_isa(); }
  static std::vector<float> normal(int64_t n) {
    std::mt19937 generator(static_cast<uint32_t>(n));
    std::normal_distribution<float> distribution;
    std::vector<float> x(static_cast<size_t>(n));
    for (float& value : x) value = distribution(generator);
    return x;
  }
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, HadamardSteps, testing::ValuesIn(supported_isas()),
                         [](const auto& p) { return p.param.name; });

TEST_P(HadamardSteps, ButterfliesMatchTheScalarDefinitionBitForBit) {
  for (int64_t run = 1; run <= 1024; run *= 2)
    for (const int64_t count : {1, 2, 3, 10}) {
      std::vector<float> x = normal(run * count), expected = x;
      const std::vector<float> signs = normal(run * count);
      const bool is_doubled = count % 2 == 0;
      kernels::butterflies(x.data(), signs.data(), run * count, run, is_doubled, x.data());
      kernels::scalar::butterflies(expected.data(), signs.data(), run * count, run, is_doubled);
      ASSERT_EQ(std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)), 0) << run;
      if (x.size() % 2 != 0) continue;
      kernels::butterfly(x.data(), run * count / 2);
      kernels::scalar::butterfly(expected.data(), run * count / 2);
      ASSERT_EQ(std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)), 0) << run;
    }
}

TEST_P(HadamardSteps, MixingMatchesTheScalarDefinitionBitForBit) {
  std::mt19937 generator(3);
  for (const int64_t order : {4, 12, 80, 200, 256, 512})
    for (const int64_t run : {1, 2, 4, 8, 32, 33}) {
      std::vector<uint8_t> codes(static_cast<size_t>(order * order / 4));
      for (uint8_t& code : codes) code = generator() % 16;
      std::vector<float> x = normal(order * run), expected = x;
      kernels::mix(x.data(), codes.data(), order, run);
      kernels::scalar::mix(expected.data(), codes.data(), order, run, 0, run);
      ASSERT_EQ(std::memcmp(x.data(), expected.data(), x.size() * sizeof(float)), 0)
          << order << ", " << run;
    }
}

// Each of at most 24 steps (signs, butterflies, kernel or its convolution: twist, transform of 40
// points, product, and back) keeps the norm of a row but for a factor, and adds a few roundings of
// it. Sizes of 160 times a power of two have the convolution.
TEST_P(HadamardSteps, TransformOfRowsIsTheProductWithTheMatrix) {
  for (const int64_t size : {12, 64, 160, 200, 320, 640, 1280, 2560}) {
    const RandomHadamard transform(size);
    const Mat<float> matrix = transform.dense();
    Mat<float> rows(3, size), x(3, size);
    for (int64_t i = 0; i < rows.rows(); ++i) {
      const std::vector<float> values = normal(size + i);
      std::copy_n(values.data(), size, rows.row(i));
    }
    std::copy_n(rows.data(), rows.size(), x.data());
    transform.apply_right(x.view());
    for (int64_t i = 0; i < rows.rows(); ++i) {
      double norm = 0;
      std::vector<double> expected(static_cast<size_t>(size));
      for (int64_t q = 0; q < size; ++q) {
        const double value = rows(i, q);
        norm += value * value;
        for (int64_t p = 0; p < size; ++p) expected[static_cast<size_t>(p)] += value * matrix(q, p);
      }
      const double tolerance = 24 * std::ldexp(1.0, -24) * std::sqrt(norm);
      for (int64_t p = 0; p < size; ++p)
        ASSERT_NEAR(x(i, p), expected[static_cast<size_t>(p)], tolerance) << size << " at " << p;
    }
  }
}

// Hartley's matrix is orthogonal, its entries are at most sqrt(2) times as large as those of a
// Hadamard matrix, and rows are multiplied by it as by any other.
TEST(RandomHadamard, HasAStandInWhereNoHadamardMatrixIsKnown) {
  for (const auto& [size, block] :
       {std::pair<int64_t, int64_t>{7, -1}, {22, -1}, {92, -1}, {96, 3}, {856, -1}}) {
    const int64_t m = block == -1 ? size : block;
    const RandomHadamard transform(size, block);
    const Mat<float> matrix = transform.dense();
    Mat<float> rows(size, size);
    rows.fill_zero();
    for (int64_t i = 0; i < size; ++i) rows(i, i) = 1;
    transform.apply_right(rows.view());
    const double largest = std::sqrt(2.0 / static_cast<double>(m)) + 1e-6;
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j) {
        double dot = 0;
        for (int64_t k = 0; k < size; ++k) dot += matrix(i, k) * matrix(j, k);
        ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-6) << size << " at " << i << "," << j;
        ASSERT_LE(std::abs(matrix(i, j)), largest) << size << " at " << i << "," << j;
        ASSERT_NEAR(rows(i, j), matrix(i, j), 1e-6) << size << " at " << i << "," << j;
      }
  }
}

TEST(RandomHadamard, RefusesSizesAndBlocksWithoutAMatrix) {
  EXPECT_THROW(RandomHadamard(1031), Error);
  EXPECT_THROW(RandomHadamard(96, 64), Error);
  EXPECT_THROW(RandomHadamard(64, 128), Error);
}

}  // namespace
}  // namespace laos::linalg
