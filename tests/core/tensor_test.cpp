#include "core/tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "support/own_memory.h"

namespace laos {
namespace {

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ(num_elements({}), 1);
  EXPECT_EQ(num_elements({3, 0, 5}), 0);
  EXPECT_EQ(num_elements({2, 3, 4}), 24);
  EXPECT_EQ(to_string(Shape{}), "[]");
  EXPECT_EQ(to_string(Shape{7}), "[7]");
  EXPECT_EQ(to_string(Shape{2, 3}), "[2, 3]");
  // Beyond 32 bits: embeddings of large models have that many bytes.
  EXPECT_EQ((TensorView{"embed", DType::kBF16, {300000, 10000}, nullptr}.size_bytes()), 6000000000);
}

TEST(MatView, SlicesAreWindowsIntoTheSameMemory) {
  Mat<int> matrix(5, 7);
  std::iota(matrix.data(), matrix.data() + matrix.size(), 0);
  const MatView<int> window = matrix.view().slice_rows(1, 4).slice_cols(2, 6);
  ASSERT_EQ(window.rows, 3);
  ASSERT_EQ(window.cols, 4);
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t j = 0; j < 4; ++j) EXPECT_EQ(window.row(i)[j], (i + 1) * 7 + j + 2);
  const MatView<int> swapped = matrix.view().slice_cols(2, 6).slice_rows(1, 4);
  EXPECT_EQ(swapped.data, window.data);
  EXPECT_EQ(swapped.rows, window.rows);
  EXPECT_EQ(swapped.cols, window.cols);
  window.row(2)[3] = -1;
  EXPECT_EQ(matrix(3, 5), -1);
  const MatView<const int> read_only = window;
  EXPECT_EQ(read_only.row(2)[3], -1);
  EXPECT_EQ(read_only.stride, 7);
}

TEST(Buffer, IsAlignedAndEmptyOnesOwnNothing) {
  for (const int64_t size : {1, 15, 16, 17, 1000}) {
    const Buffer<float> buffer(size);
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(std::bit_cast<uintptr_t>(buffer.data()) % 64, 0u);
  }
  EXPECT_EQ(Buffer<float>(0).data(), nullptr);
  EXPECT_EQ(Buffer<float>().size(), 0);
}

TEST(Buffer, OfSizesNoMachineHasIsRefused) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer ends the program there";
#endif
  for (const int64_t size : {int64_t{1} << 50, int64_t{1} << 62, int64_t{-1}}) {
    try {
      const Buffer<char> buffer(size);
      ADD_FAILURE() << size;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kResource);
    }
  }
}

// Whatever lies between them, and however large the next ones are.
TEST(Buffer, LargeOnesGoBackToTheSystem) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep memory that was freed";
#endif
  const auto own_memory = [] { return test::own_memory(::getpid()); };
  if (own_memory() == 0) GTEST_SKIP() << "the system does not say how much memory is in use";
  for (const int64_t size : {1'100'000, 3'000'000, 4'194'304, 5'000'001}) {
    std::vector<Buffer<char>> buffers;
    for (int i = 0; i < 20; ++i) {
      buffers.emplace_back(size);
      EXPECT_EQ(std::bit_cast<uintptr_t>(buffers.back().data()) % 64, 0u);
      std::memset(buffers.back().data(), i, static_cast<size_t>(size));
    }
    const int64_t held = own_memory();
    for (size_t i = 0; i < buffers.size(); i += 2) buffers[i] = {};
    EXPECT_NEAR(static_cast<double>(held - own_memory()), 10.0 * static_cast<double>(size), 2e6);
    for (size_t i = 1; i < buffers.size(); i += 2) {
      EXPECT_EQ(buffers[i][0], static_cast<char>(i));
      EXPECT_EQ(buffers[i][size - 1], static_cast<char>(i));
    }
  }
}

TEST(Mat, ClonesAreApartAndEmptyOnesAreHarmless) {
  Mat<float> matrix(2, 3);
  matrix.fill_zero();
  matrix(1, 2) = 5;
  const Mat<float> copy = matrix.clone();
  matrix(1, 2) = 6;
  EXPECT_EQ(copy(1, 2), 5);
  EXPECT_EQ(copy(0, 0), 0);
  EXPECT_EQ(copy.row(1) - copy.row(0), 3);
  const Mat<float> empty(0, 3);
  empty.fill_zero();
  EXPECT_EQ(empty.clone().cols(), 3);
}

class FloatTypes : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Each, FloatTypes, testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                         [](const auto& p) { return std::string(to_string(p.param)); });

// File data begins at any byte.
TEST_P(FloatTypes, ConvertRoundedAtAnyAddress) {
  const std::vector<float> values = {0.0f,   1.0f,     -1.00390625f, 3.1415927f,    -1e-6f,
                                     1e-30f, 65519.0f, -7e4f,        1.00048828125f};
  const auto n = static_cast<int64_t>(values.size());
  for (size_t shift = 0; shift < 4; ++shift) {
    std::vector<std::byte> bytes(shift + values.size() * 4 + 1, std::byte{0x5a});
    from_f32(values.data(), n, GetParam(), bytes.data() + shift);
    const TensorView view{"x", GetParam(), {3, 3}, bytes.data() + shift};
    EXPECT_EQ(bytes[shift + static_cast<size_t>(view.size_bytes())], std::byte{0x5a});
    const Mat<float> matrix = to_f32(view);
    ASSERT_EQ(matrix.rows(), 3);
    ASSERT_EQ(matrix.cols(), 3);
    std::vector<float> plain(values.size());
    to_f32(view, plain.data());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(matrix.data()[i], round_to(GetParam(), values[i])) << i;
      EXPECT_EQ(plain[i], matrix.data()[i]) << i;
    }
  }
}

TEST(ToF32, MakesAVectorOneRowAndRefusesIntegersByName) {
  const float values[] = {1, 2, 3};
  const Mat<float> row =
      to_f32({"norm", DType::kF32, {3}, reinterpret_cast<const std::byte*>(values)});
  EXPECT_EQ(row.rows(), 1);
  EXPECT_EQ(row(0, 2), 3);
  for (const DType dtype : {DType::kF64, DType::kI8, DType::kI32}) {
    try {
      to_f32({"model.norm.weight", dtype, {1}, reinterpret_cast<const std::byte*>(values)});
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kFormat);
      EXPECT_EQ(error.problems().front().where, "model.norm.weight");
      EXPECT_NE(error.problems().front().what.find(to_string(dtype)), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace laos
