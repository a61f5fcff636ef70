// Attention against its definition in f64: every query and key by itself, nothing blocked.
#include "model/attention.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/threads.h"

namespace laos::model {
namespace {

using linalg::ComputeType;

struct Case {
  const char* name;
  int64_t heads, kv_heads, head_dim;
  std::vector<int64_t> lengths;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

hf::Config config_of(const Case& c) {
  hf::Config config;
  config.num_attention_heads = c.heads;
  config.num_key_value_heads = c.kv_heads;
  config.head_dim = c.head_dim;
  return config;
}

Ragged batch_of(const std::vector<int64_t>& lengths) {
  Ragged batch;
  for (const int64_t length : lengths) batch.append(length);
  return batch;
}

template <class T>
Mat<T> filled(int64_t rows, int64_t cols, T value) {
  Mat<T> matrix(rows, cols);
  std::fill_n(matrix.data(), matrix.size(), value);
  return matrix;
}

// Inputs, rounded to bfloat16 so that they are the same operands in every type.
template <class T>
struct Inputs {
  Mat<T> q, k, v, d_out;

  explicit Inputs(const hf::Config& config, int64_t n) {
    std::mt19937 generator(11);
    std::normal_distribution<float> distribution;
    const auto normal = [&](int64_t heads) {
      Mat<T> matrix(n, heads * config.head_dim);
      for (int64_t i = 0; i < matrix.size(); ++i)
        matrix.data()[i] = static_cast<T>(bf16_to_float(float_to_bf16(distribution(generator))));
      return matrix;
    };
    q = normal(config.num_attention_heads);
    k = normal(config.num_key_value_heads);
    v = normal(config.num_key_value_heads);
    d_out = normal(config.num_attention_heads);
  }
};

template <class T>
struct Outputs {
  Mat<T> out, d_q, d_k, d_v;

  Outputs(const hf::Config& config, int64_t n, T value = T(7))
      : out(filled(n, config.num_attention_heads * config.head_dim, value)),
        d_q(filled(n, config.num_attention_heads * config.head_dim, value)),
        d_k(filled(n, config.num_key_value_heads * config.head_dim, value)),
        d_v(filled(n, config.num_key_value_heads * config.head_dim, value)) {}
};

// The definition; and, of every output, the sum of the magnitudes of its terms, which rounding
// errors are in proportion to.
void define(const hf::Config& config, const Ragged& batch, const Inputs<double>& in,
            Outputs<double>& y, Outputs<double>& magnitude) {
  for (Outputs<double>* o : {&y, &magnitude})
    for (Mat<double>* m : {&o->out, &o->d_q, &o->d_k, &o->d_v}) m->fill_zero();
  const int64_t hd = config.head_dim,
                group = config.num_attention_heads / config.num_key_value_heads;
  const double scale = 1 / std::sqrt(static_cast<double>(hd));
  for (int64_t s = 0; s < batch.num_sequences(); ++s)
    for (int64_t h = 0; h < config.num_attention_heads; ++h)
      for (int64_t i = 0; i < batch.length(s); ++i) {
        const int64_t first = batch.offsets[static_cast<size_t>(s)], row = first + i;
        const int64_t at = h * hd, kv_at = h / group * hd;
        std::vector<double> p(static_cast<size_t>(i + 1)), d_p(p);
        double largest = -1e300, sum = 0, mean = 0;
        for (int64_t j = 0; j <= i; ++j) {
          double dot = 0, d_dot = 0;
          for (int64_t c = 0; c < hd; ++c) {
            dot += in.q(row, at + c) * in.k(first + j, kv_at + c);
            d_dot += in.d_out(row, at + c) * in.v(first + j, kv_at + c);
          }
          p[static_cast<size_t>(j)] = dot * scale;
          d_p[static_cast<size_t>(j)] = d_dot;
          largest = std::max(largest, dot * scale);
        }
        for (double& value : p) sum += value = std::exp(value - largest);
        for (size_t j = 0; j < p.size(); ++j) mean += (p[j] /= sum) * d_p[j];
        for (int64_t j = 0; j <= i; ++j) {
          const double probability = p[static_cast<size_t>(j)],
                       d_score = scale * probability * (d_p[static_cast<size_t>(j)] - mean);
          for (int64_t c = 0; c < hd; ++c) {
            const auto add = [](Mat<double>& sums, Mat<double>& sizes, int64_t r, int64_t col,
                                double term) {
              sums(r, col) += term;
              sizes(r, col) += std::fabs(term);
            };
            add(y.out, magnitude.out, row, at + c, probability * in.v(first + j, kv_at + c));
            add(y.d_v, magnitude.d_v, first + j, kv_at + c, probability * in.d_out(row, at + c));
            add(y.d_q, magnitude.d_q, row, at + c, d_score * in.k(first + j, kv_at + c));
            add(y.d_k, magnitude.d_k, first + j, kv_at + c, d_score * in.q(row, at + c));
          }
        }
      }
}

template <class T>
void run(const hf::Config& config, const Ragged& batch, ComputeType compute, const Inputs<T>& in,
         Outputs<T>& y) {
  attention_forward<T>(config, batch, compute, in.q.view(), in.k.view(), in.v.view(), y.out.view());
  attention_backward<T>(config, batch, compute, in.q.view(), in.k.view(), in.v.view(),
                        in.d_out.view(), y.d_q.view(), y.d_k.view(), y.d_v.view());
}

template <class T>
void expect_near(const Mat<T>& actual, const Mat<double>& truth, const Mat<double>& magnitude,
                 double relative, double absolute, const char* what) {
  for (int64_t i = 0; i < truth.size(); ++i)
    ASSERT_NEAR(static_cast<double>(actual.data()[i]), truth.data()[i],
                relative * magnitude.data()[i] + absolute)
        << what << " at " << i / truth.cols() << ", " << i % truth.cols();
}

class Attention : public testing::TestWithParam<Case> {
 protected:
  hf::Config config_ = config_of(GetParam());
  Ragged batch_ = batch_of(GetParam().lengths);
  int64_t n_ = batch_.num_tokens();

  template <class T>
  void expect_definition(ComputeType compute, double relative, double absolute) {
    Outputs<double> truth(config_, n_), magnitude(config_, n_);
    define(config_, batch_, Inputs<double>(config_, n_), truth, magnitude);
    Outputs<T> y(config_, n_);
    run<T>(config_, batch_, compute, Inputs<T>(config_, n_), y);
    expect_near(y.out, truth.out, magnitude.out, relative, absolute, "out");
    expect_near(y.d_q, truth.d_q, magnitude.d_q, relative, absolute, "d_q");
    expect_near(y.d_k, truth.d_k, magnitude.d_k, relative, absolute, "d_k");
    expect_near(y.d_v, truth.d_v, magnitude.d_v, relative, absolute, "d_v");
  }
};

TEST_P(Attention, EqualsItsDefinitionInF64) {
  expect_definition<double>(ComputeType::kF32, 1e-12, 1e-13);
}

// A score carries the error of a sum of head_dim products, at most head_dim * eps of their
// magnitude, which exp makes a relative error of the probability; what follows adds less.
TEST_P(Attention, IsWithinF32RoundingOfIt) {
  const double eps = FLT_EPSILON * static_cast<double>(2 * config_.head_dim + 64);
  expect_definition<float>(ComputeType::kF32, eps, 16 * eps);
}

// Operands are bfloat16 numbers already, so that only probabilities and their gradients round: by
// 2^-8 of each term at most.
TEST_P(Attention, InBf16IsWithinTheRoundingOfProbabilities) {
  const double eps = FLT_EPSILON * static_cast<double>(2 * config_.head_dim + 64);
  expect_definition<float>(ComputeType::kBf16, 0x1p-8 + eps, 16 * eps);
}

template <class T>
bool same(const Mat<T>& a, const Mat<T>& b) {
  return std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(T)) == 0;
}

TEST_P(Attention, IsTheSameOnAnyNumberOfThreads) {
  const int before = num_threads();
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBf16}) {
    const Inputs<float> in(config_, n_);
    Outputs<float> one(config_, n_), many(config_, n_, 9.0f);
    set_num_threads(1);
    run<float>(config_, batch_, compute, in, one);
    set_num_threads(3);
    run<float>(config_, batch_, compute, in, many);
    set_num_threads(before);
    EXPECT_TRUE(same(one.out, many.out) && same(one.d_q, many.d_q) && same(one.d_k, many.d_k) &&
                same(one.d_v, many.d_v));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    testing::Values(Case{"OneToken", 2, 1, 8, {1}}, Case{"NoGroups", 2, 2, 8, {130, 5}},
                    Case{"Pairs", 4, 2, 16, {64, 65, 1, 63}}, Case{"Eights", 8, 1, 8, {100, 17}},
                    Case{"Threes", 6, 2, 4, {97}}, Case{"ManyHeads", 32, 1, 4, {33}},
                    Case{"MoreThanAChunkOfKeys", 2, 1, 4, {1100}}),
    [](const auto& test) { return std::string(test.param.name); });

// Keys of all parts, queries of one part after the other: the same bits as at once.
TEST(AttentionInParts, HasTheBitsOfAWholeSequence) {
  constexpr int64_t kPart = 256, kLength = 700;
  const Case shape{"", 4, 2, 8, {kLength}};
  const hf::Config config = config_of(shape);
  const Inputs<float> in(config, kLength);
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBf16}) {
    Outputs<float> whole(config, kLength), parts(config, kLength, 9.0f);
    run<float>(config, batch_of(shape.lengths), compute, in, whole);
    for (int64_t past = 0; past < kLength; past += kPart) {
      Ragged part{.offsets = {0}, .past = past};
      part.append(std::min(kPart, kLength - past));
      const int64_t end = past + part.num_tokens();
      const auto keys = [&](const auto& m) { return m.view().slice_rows(0, end); };
      const auto queries = [&](const auto& m) { return m.view().slice_rows(past, end); };
      attention_forward<float>(config, part, compute, queries(in.q), keys(in.k), keys(in.v),
                               parts.out.view().slice_rows(past, end));
      attention_backward<float>(config, part, compute, queries(in.q), keys(in.k), keys(in.v),
                                queries(in.d_out), parts.d_q.view().slice_rows(past, end),
                                parts.d_k.view().slice_rows(0, end),
                                parts.d_v.view().slice_rows(0, end));
    }
    EXPECT_TRUE(same(whole.out, parts.out) && same(whole.d_q, parts.d_q) &&
                same(whole.d_k, parts.d_k) && same(whole.d_v, parts.d_v));
  }
}

}  // namespace
}  // namespace laos::model
