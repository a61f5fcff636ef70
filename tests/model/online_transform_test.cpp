#include "model/online_transform.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <ostream>
#include <utility>

#include "linalg/polar.h"
#include "support/random.h"

namespace laos::model {
namespace {

using test::normal_matrix;
// left ⊗ right as one matrix [size, size] in f64: y = x K.
Mat<double> dense_of(const KroneckerTransform& rotation) {
  const int64_t m = rotation.left.rows(), n = rotation.cols;
  Mat<double> k(m * n, m * n);
  for (int64_t p = 0; p < m; ++p)
    for (int64_t q = 0; q < n; ++q)
      for (int64_t a = 0; a < m; ++a)
        for (int64_t b = 0; b < n; ++b) {
          const double right =
              rotation.right.size() == 0 ? (q == b ? 1.0 : 0.0) : rotation.right(q, b);
          k(p * n + q, a * n + b) = rotation.left(p, a) * right;
        }
  return k;
}

// A sum of products in f64, and that of their magnitudes, which bounds what f32 may be off by.
struct Sum {
  double value = 0;
  double magnitude = 0;
  void add(double term) {
    value += term;
    magnitude += std::fabs(term);
  }
};

struct Sizes {
  const char* name;
  int64_t m, n;
  bool has_right;
};
void PrintTo(const Sizes& sizes, std::ostream* out) { *out << sizes.name; }

class Kronecker : public testing::TestWithParam<Sizes> {
 protected:
  // Not orthogonal, so that a transpose in the wrong place shows.
  KroneckerTransform any() const {
    const auto [name, m, n, has_right] = GetParam();
    return {normal_matrix(m, m, 1), has_right ? normal_matrix(n, n, 2) : Mat<float>(), n};
  }
  KroneckerTransform orthogonal() const {
    KroneckerTransform rotation = any();
    rotation.left = linalg::polar_factor(std::as_const(rotation.left).view()).factor;
    if (rotation.right.size() != 0)
      rotation.right = linalg::polar_factor(std::as_const(rotation.right).view()).factor;
    return rotation;
  }
  static constexpr int64_t kRows = 37;  // more than two tasks' worth, and not a multiple of one's
};
INSTANTIATE_TEST_SUITE_P(OddSizes, Kronecker,
                         testing::Values(Sizes{"3x5", 3, 5, true}, Sizes{"7x3", 7, 3, true},
                                         Sizes{"1x6", 1, 6, true}, Sizes{"5x1", 5, 1, true},
                                         Sizes{"3x5RightIsIdentity", 3, 5, false}),
                         [](const auto& p) { return p.param.name; });

TEST_P(Kronecker, ApplyEqualsLeftTransposedTimesTheRowTimesRight) {
  const KroneckerTransform rotation = any();
  const auto [name, m, n, has_right] = GetParam();
  ASSERT_EQ(rotation.size(), m * n);
  const Mat<double> k = dense_of(rotation);
  const Mat<float> x = normal_matrix(kRows, m * n, 3);
  Mat<float> y(kRows, m * n);
  rotation.apply(x.view(), y.view());
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < m * n; ++j) {
      Sum expected;
      for (int64_t l = 0; l < m * n; ++l) expected.add(x(i, l) * k(l, j));
      // Two f32 sums in a row, of n and of m terms; half of FLT_EPSILON a term and a product.
      const double tolerance = static_cast<double>(m + n) * FLT_EPSILON * expected.magnitude;
      ASSERT_NEAR(y(i, j), expected.value, tolerance) << i << ", " << j;
    }
}

TEST_P(Kronecker, ApplyTransposedUndoesApplyOfAnOrthogonalPair) {
  const KroneckerTransform rotation = orthogonal();
  const auto [name, m, n, has_right] = GetParam();
  const Mat<float> x = normal_matrix(kRows, m * n, 4);
  Mat<float> y(kRows, m * n), back(kRows, m * n);
  rotation.apply(x.view(), y.view());
  rotation.apply_transposed(std::as_const(y).view(), back.view());
  double defect = static_cast<double>(m) * linalg::orthogonality_error(rotation.left.view());
  if (has_right)
    defect += static_cast<double>(n) * linalg::orthogonality_error(rotation.right.view());
  for (int64_t i = 0; i < kRows; ++i) {
    double norm = 0;
    for (int64_t j = 0; j < m * n; ++j) norm += static_cast<double>(x(i, j)) * x(i, j);
    norm = std::sqrt(norm);
    // Four products; an element of each is off by at most half of FLT_EPSILON a term times the
    // row's norm, which the ones behind it keep: sqrt(m n) in norm for all elements.
    const double tolerance =
        norm *
        (static_cast<double>(m + n) * std::sqrt(static_cast<double>(m * n)) * FLT_EPSILON + defect);
    for (int64_t j = 0; j < m * n; ++j) ASSERT_NEAR(back(i, j), x(i, j), tolerance);
  }
}

TEST_P(Kronecker, BlocksOfARowShareThePair) {
  const KroneckerTransform transform = any();
  const int64_t size = transform.size();
  const Mat<float> x = normal_matrix(kRows, 3 * size, 6);
  Mat<float> y(kRows, 3 * size), part(kRows, size);
  transform.apply(x.view(), y.view());
  for (int64_t block = 0; block < 3; ++block) {
    transform.apply(x.view().slice_cols(block * size, (block + 1) * size), part.view());
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t j = 0; j < size; ++j) ASSERT_EQ(y(i, block * size + j), part(i, j));
  }
}

// As the engine's operator does: the product with right leaves in the model's dtype, that with left
// in f16.
TEST_P(Kronecker, RoundsWhatEachProductGives) {
  KroneckerTransform transform = any();
  const auto [name, m, n, has_right] = GetParam();
  const Mat<float> x = normal_matrix(kRows, m * n, 7);
  KroneckerTransform right_alone = any();
  right_alone.left.fill_zero();
  for (int64_t i = 0; i < m; ++i) right_alone.left(i, i) = 1;
  Mat<float> part(kRows, m * n), expected(kRows, m * n), actual(kRows, m * n);
  right_alone.apply(x.view(), part.view());
  for (int64_t i = 0; i < part.size(); ++i) part.data()[i] = round_to(DType::kBF16, part.data()[i]);
  KroneckerTransform left_alone{.left = transform.left.clone(), .right = {}, .cols = n};
  left_alone.apply(std::as_const(part).view(), expected.view());
  transform.right_dtype = DType::kBF16;
  transform.left_dtype = DType::kF16;
  transform.apply(x.view(), actual.view());
  for (int64_t i = 0; i < actual.size(); ++i)
    ASSERT_EQ(actual.data()[i], round_to(DType::kF16, expected.data()[i])) << i;
}

TEST_P(Kronecker, InPlaceAndBetweenOtherColumnsGivesTheSameBits) {
  const KroneckerTransform rotation = any();
  const int64_t size = rotation.size();
  const Mat<float> wide = normal_matrix(kRows, size + 4, 5);
  const MatView<const float> x = wide.view().slice_cols(1, size + 1);
  for (const bool inverse : {false, true}) {
    const auto run = [&](MatView<const float> from, MatView<float> to) {
      inverse ? rotation.apply_transposed(from, to) : rotation.apply(from, to);
    };
    Mat<float> apart(kRows, size), within = wide.clone();
    run(x, apart.view());
    const MatView<float> window = within.view().slice_cols(1, size + 1);
    run(window, window);
    for (int64_t i = 0; i < kRows; ++i) {
      for (int64_t j = 0; j < size; ++j) ASSERT_EQ(window.row(i)[j], apart(i, j));
      for (const int64_t j : {int64_t{0}, size + 1, size + 2, size + 3})
        ASSERT_EQ(within(i, j), wide(i, j));
    }
  }
}

// Float linears that note what they were given.
class NotedLinears : public LinearsForward<float>, public LinearsBackward<float> {
 public:
  struct Call {
    LinearGroup group;
    const float* x_data;
    Mat<float> x;
  };
  std::vector<Call> calls;

  NotedLinears(const FloatLinears<float>::Weights& weights, const FloatLinears<float>::Grads& grads)
      : linears_(weights, grads) {}
  void forward(LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    note(group, x);
    linears_.forward(group, x, ys);
  }
  void input_gradient(LinearGroup group, std::span<const MatView<const float>> d_ys,
                      MatView<float> d_x) override {
    linears_.input_gradient(group, d_ys, d_x);
  }
  void weight_gradient(LinearGroup group, MatView<const float> x,
                       std::span<const MatView<const float>> d_ys,
                       std::span<const int64_t> ends) override {
    note(group, x);
    linears_.weight_gradient(group, x, d_ys, ends);
  }

 private:
  void note(LinearGroup group, MatView<const float> x) {
    Mat<float> copy(x.rows, x.cols);
    for (int64_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, copy.row(i));
    calls.push_back({group, x.data, std::move(copy)});
  }
  FloatLinears<float> linears_;
};

class Online : public testing::Test {
 protected:
  static constexpr int64_t kTokens = 9;

  Online() {
    config_.hidden_size = 6;
    config_.intermediate_size = 15;
    config_.num_attention_heads = 3;
    config_.num_key_value_heads = 1;
    config_.head_dim = 4;
    uint32_t seed = 10;
    for (const Linear l : kAllLinears) {
      weights_[l] = normal_matrix(out_features(config_, l), in_features(config_, l), ++seed);
      d_weights_[l] = Mat<float>(weights_[l].rows(), weights_[l].cols());
      weight_views_.linears[l] = std::as_const(weights_[l]).view();
      d_weight_views_[l] = d_weights_[l].view();
    }
    online_[LinearGroup::kO] = std::make_shared<KroneckerTransform>(
        KroneckerTransform{normal_matrix(3, 3, 1), Mat<float>(), 4});
    online_[LinearGroup::kDown] = std::make_shared<KroneckerTransform>(
        KroneckerTransform{normal_matrix(3, 3, 2), normal_matrix(5, 5, 3), 5});
  }

  Mat<float> input(LinearGroup group) const {
    return normal_matrix(kTokens, in_features(config_, linears_of(group).front()), 20);
  }
  std::vector<Mat<float>> outputs(LinearGroup group) const {
    std::vector<Mat<float>> ys;
    for (const Linear l : linears_of(group))
      ys.push_back(normal_matrix(kTokens, out_features(config_, l), 30 + static_cast<uint32_t>(l)));
    return ys;
  }
  template <class T>
  static std::vector<MatView<T>> views(std::vector<Mat<float>>& matrices) {
    std::vector<MatView<T>> all;
    for (Mat<float>& matrix : matrices) all.push_back(matrix.view());
    return all;
  }

  hf::Config config_;
  PerLinear<Mat<float>> weights_, d_weights_;
  FloatLinears<float>::Weights weight_views_;
  FloatLinears<float>::Grads d_weight_views_;
  OnlineTransforms online_;
};

TEST_F(Online, OtherGroupsGetTheirInputAsItIs) {
  NotedLinears inner(weight_views_, d_weight_views_);
  OnlineLinears linears(online_, inner, &inner);
  for (const LinearGroup group : {LinearGroup::kQkv, LinearGroup::kGateUp}) {
    const Mat<float> x = input(group);
    std::vector<Mat<float>> ys = outputs(group);
    Mat<float> d_x(kTokens, x.cols());
    linears.forward(group, x.view(), views<float>(ys));
    linears.backward(group, x.view(), views<const float>(ys), d_x.view());
    ASSERT_EQ(inner.calls.size(), 2u);
    for (const NotedLinears::Call& call : inner.calls) {
      EXPECT_EQ(call.group, group);
      EXPECT_EQ(call.x_data, x.data());
    }
    Mat<float> expected(kTokens, x.cols());
    inner.backward(group, x.view(), views<const float>(ys), expected.view());
    for (int64_t i = 0; i < d_x.size(); ++i) ASSERT_EQ(d_x.data()[i], expected.data()[i]);
    inner.calls.clear();
  }
}

TEST_F(Online, ALayerWithoutTheRotationOfDownGetsItsInputAsItIs) {
  online_[LinearGroup::kDown] = nullptr;
  NotedLinears inner(weight_views_, d_weight_views_);
  OnlineLinears linears(online_, inner, &inner);
  const Mat<float> x = input(LinearGroup::kDown);
  std::vector<Mat<float>> ys = outputs(LinearGroup::kDown);
  linears.forward(LinearGroup::kDown, x.view(), views<float>(ys));
  linears.backward(LinearGroup::kDown, x.view(), views<const float>(ys), {});
  ASSERT_EQ(inner.calls.size(), 2u);
  EXPECT_EQ(inner.calls[0].x_data, x.data());
  EXPECT_EQ(inner.calls[1].x_data, x.data());
}

class OnlineGroups : public Online, public testing::WithParamInterface<LinearGroup> {};
INSTANTIATE_TEST_SUITE_P(Rotated, OnlineGroups,
                         testing::Values(LinearGroup::kO, LinearGroup::kDown),
                         [](const auto& p) { return p.param == LinearGroup::kO ? "O" : "Down"; });

TEST_P(OnlineGroups, InnerLinearsSeeTheRotatedInput) {
  const Mat<float> x = input(GetParam());
  Mat<float> rotated(kTokens, x.cols());
  online_.of(GetParam())->apply(x.view(), rotated.view());
  NotedLinears inner(weight_views_, d_weight_views_);
  OnlineLinears linears(online_, inner, &inner);
  std::vector<Mat<float>> ys = outputs(GetParam()), expected = outputs(GetParam());
  FloatLinears<float>(weight_views_)
      .forward(GetParam(), std::as_const(rotated).view(), views<float>(expected));
  linears.forward(GetParam(), x.view(), views<float>(ys));
  linears.backward(GetParam(), x.view(), views<const float>(ys), {});
  ASSERT_EQ(inner.calls.size(), 2u);
  for (const NotedLinears::Call& call : inner.calls) {
    EXPECT_EQ(call.group, GetParam());
    ASSERT_EQ(call.x.size(), rotated.size());
    for (int64_t i = 0; i < rotated.size(); ++i) ASSERT_EQ(call.x.data()[i], rotated.data()[i]);
  }
  for (int64_t i = 0; i < ys[0].size(); ++i) ASSERT_EQ(ys[0].data()[i], expected[0].data()[i]);
}

// y = x K Wᵀ, so d_x = d_y W Kᵀ and d_W = d_yᵀ (x K).
TEST_P(OnlineGroups, BackwardIsTheDenseProductsInF64) {
  const Linear l = linears_of(GetParam()).front();
  const Mat<float>&w = weights_[l], &d_w = d_weights_[l];
  const Mat<float> x = input(GetParam());
  std::vector<Mat<float>> d_ys = outputs(GetParam());
  const Mat<float>& d_y = d_ys.front();
  const Mat<double> k = dense_of(*online_.of(GetParam()));
  const int64_t in = x.cols(), out = d_y.cols();
  Mat<float> d_x(kTokens, in);
  FloatLinears<float> inner(weight_views_, d_weight_views_);
  OnlineLinears(online_, inner, &inner)
      .backward(GetParam(), x.view(), views<const float>(d_ys), d_x.view());
  // Sums of `out` or kTokens terms, and of less than `in` for the rotation; each term's product and
  // sum is off by half of FLT_EPSILON.
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < in; ++i) {
      Sum expected;
      for (int64_t o = 0; o < out; ++o)
        for (int64_t j = 0; j < in; ++j)
          expected.add(static_cast<double>(d_y(t, o)) * w(o, j) * k(i, j));
      ASSERT_NEAR(d_x(t, i), expected.value,
                  static_cast<double>(out + in) * FLT_EPSILON * expected.magnitude);
    }
  for (int64_t o = 0; o < out; ++o)
    for (int64_t j = 0; j < in; ++j) {
      Sum expected;
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t i = 0; i < in; ++i)
          expected.add(static_cast<double>(d_y(t, o)) * x(t, i) * k(i, j));
      ASSERT_NEAR(d_w(o, j), expected.value,
                  static_cast<double>(kTokens + in) * FLT_EPSILON * expected.magnitude);
    }
}

TEST_F(Online, BackwardNeedsLinearsThatHaveOne) {
  FloatLinears<float> inner(weight_views_);
  OnlineLinears linears(online_, inner);
  const Mat<float> x = input(LinearGroup::kO);
  std::vector<Mat<float>> d_ys = outputs(LinearGroup::kO);
  EXPECT_THROW(linears.backward(LinearGroup::kO, x.view(), views<const float>(d_ys), {}), Error);
}

}  // namespace
}  // namespace laos::model
