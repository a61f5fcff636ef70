#include "rotation/rotation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <utility>

#include "core/threads.h"
#include "hf/family.h"
#include "linalg/gemm.h"
#include "linalg/polar.h"
#include "model/hidden_states.h"
#include "rotation/fit.h"
#include "support/layer.h"
#include "support/random.h"

namespace laos::rotation {
namespace {

using model::Linear;
using test::normal_matrix;
using test::random_layer;
using test::run_layer;

hf::Config small_config() {
  hf::Config config;
  config.hidden_size = 48;  // 12 * 4
  config.intermediate_size = 40;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  return config;
}

// The same with biases wherever the family may have them, and with or without norms of heads.
hf::Config small_config_of(const hf::Family& family) {
  hf::Config config = small_config();
  config.family = &family;
  config.qkv_bias = family.qkv_bias || family.attention_bias;
  config.o_bias = family.attention_bias;
  config.mlp_bias = family.mlp_bias;
  return config;
}

class Rotations : public testing::TestWithParam<std::tuple<bool, size_t>> {};
INSTANTIATE_TEST_SUITE_P(HadamardAndDense, Rotations,
                         testing::Combine(testing::Bool(),
                                          testing::Range<size_t>(0, hf::families().size())),
                         [](const auto& p) {
                           return std::string(std::get<0>(p.param) ? "Dense" : "Hadamard") +
                                  std::string(hf::families()[std::get<1>(p.param)].architecture);
                         });

TEST_P(Rotations, PreservesTheLayersFunctionInTheRotatedBasis) {
  const hf::Config config = small_config_of(hf::families()[std::get<1>(GetParam())]);
  std::optional<Mat<float>> fitted;
  if (std::get<0>(GetParam()))
    fitted = linalg::polar_factor(normal_matrix(48, 48, 9).view()).factor;
  const ModelRotation rotation = make_rotation(config, {}, std::move(fitted));
  Mat<float> x = normal_matrix(13, 48, 30);
  Mat<float> expected = run_layer(config, random_layer(config, 0.5f), x);
  rotation.residual.apply_right(expected.view());

  model::LayerWeights rotated = random_layer(config, 0.5f);
  fold_norms(rotated);
  rotate_layer(config, rotation, rotated);
  rotation.residual.apply_right(x.view());
  const Mat<float> y = run_layer(config, rotated, x);
  // f32 rounding of a dozen products of at most 48 terms, of values of order 10.
  for (int64_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(y.data()[i], expected.data()[i], 12 * 48 * FLT_EPSILON * 10) << i;
  EXPECT_EQ(rotated.input_layernorm(0, 3), 1.0f);
}

TEST_P(Rotations, ApplyLeftTransposedIsTheDenseProduct) {
  const Rotation rotation =
      std::get<0>(GetParam())
          ? Rotation(linalg::polar_factor(normal_matrix(48, 48, 9).view()).factor)
          : Rotation(linalg::RandomHadamard(48));
  const Mat<float> r = rotation.matrix(), w = normal_matrix(48, 70, 2);
  Mat<float> expected(48, 70), actual = w.clone();
  linalg::gemm(linalg::Trans::kYes, linalg::Trans::kNo, 1.0f, r.view(), w.view(), 0.0f,
               expected.view());
  rotation.apply_left_transposed(actual.view());
  for (int64_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual.data()[i], expected.data()[i], 48 * 48 * FLT_EPSILON);
}

hf::Config online_config() {
  hf::Config config = small_config();
  config.intermediate_size = 48;  // 4 * 12
  config.num_attention_heads = 8;
  return config;
}

// Blocks of two heads; down_proj is rotated in layer 1 only.
const RotateOptions kOnline{.online = true, .down_online_layers = {1}, .max_tp_size = 2};

TEST(KroneckerFactors, AreThoseOfTheSpecification) {
  using Factors = std::pair<int64_t, int64_t>;
  EXPECT_EQ(kronecker_factors(12288), Factors(96, 128));
  EXPECT_EQ(kronecker_factors(17408), Factors(128, 136));
  EXPECT_EQ(kronecker_factors(25600), Factors(160, 160));
  EXPECT_EQ(kronecker_factors(65536), Factors(256, 256));
}

// All pairs m <= n of allowed factors with a whole mean, the smallest mean first.
TEST(KroneckerFactors, AreThePairNearestToTheRootOrNone) {
  const auto is_factor = [](int64_t n) { return n == 1 || n == 2 || n % 4 == 0; };
  int64_t num_without = 0;
  const auto check = [&](int64_t size) {
    std::optional<std::pair<int64_t, int64_t>> nearest;
    for (int64_t m = 1; m * m <= size; ++m) {
      const int64_t n = size / m;
      if (m * n == size && n <= 256 && is_factor(m) && is_factor(n) && (m + n) % 2 == 0)
        nearest = {m, n};  // the largest m is the nearest
    }
    EXPECT_EQ(kronecker_factors(size), nearest) << size;
    if (!nearest) ++num_without;
  };
  for (int64_t size = 1; size <= 3000; ++size) check(size);
  for (const int64_t size : {3072, 6144, 9728, 11008, 13824, 18944, 65532, 65540, 1 << 20})
    check(size);
  EXPECT_GT(num_without, 1000);
}

double product_with_itself(const Mat<float>& q, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t k = 0; k < q.rows(); ++k) sum += static_cast<double>(q(k, i)) * q(k, j);
  return sum;
}

void expect_orthogonal(const Mat<float>& q) {
  ASSERT_EQ(q.rows(), q.cols());
  // Entries are ±1/sqrt(m), each off by half of FLT_EPSILON of itself: FLT_EPSILON for a sum of
  // squares, doubled.
  for (int64_t i = 0; i < q.rows(); ++i)
    for (int64_t j = 0; j < q.cols(); ++j)
      ASSERT_NEAR(product_with_itself(q, i, j), i == j ? 1 : 0, 2 * FLT_EPSILON);
}

void expect_block_diagonal(const Mat<float>& q, int64_t block) {
  for (int64_t i = 0; i < q.rows(); ++i)
    for (int64_t j = 0; j < q.cols(); ++j)
      EXPECT_EQ(q(i, j) != 0, i / block == j / block) << i << ", " << j;
}

TEST(OnlineRotations, AreOrthogonalAndMixNoMoreThanMaxTpSize) {
  for (const int64_t block : {2, 4}) {
    RotateOptions options = kOnline;
    options.max_tp_size = block;
    const ModelRotation rotation = make_rotation(online_config(), options, std::nullopt);
    ASSERT_TRUE(rotation.online.of(model::LinearGroup::kO) != nullptr &&
                rotation.online.of(model::LinearGroup::kDown) != nullptr);
    const model::KroneckerTransform &heads = *rotation.online.of(model::LinearGroup::kO),
                                    &down = *rotation.online.of(model::LinearGroup::kDown);
    ASSERT_EQ(heads.left.rows(), 8);
    EXPECT_EQ(heads.cols, 8);
    EXPECT_EQ(heads.right.size(), 0);
    expect_orthogonal(heads.left);
    expect_block_diagonal(heads.left, block);
    ASSERT_EQ(down.left.rows(), 4);
    ASSERT_EQ(down.right.rows(), 12);
    EXPECT_EQ(down.cols, 12);
    expect_orthogonal(down.left);
    expect_block_diagonal(down.left, block);
    expect_orthogonal(down.right);
    expect_block_diagonal(down.right, 12);
  }
}

TEST(OnlineRotations, AreThereOnlyWhenAskedForAndOfDownOnlyInItsLayers) {
  const ModelRotation offline = make_rotation(online_config(), {}, std::nullopt);
  EXPECT_FALSE(offline.online.of(model::LinearGroup::kO) != nullptr ||
               offline.online.of(model::LinearGroup::kDown) != nullptr);
  EXPECT_EQ(offline.online_of(1).of(model::LinearGroup::kO), nullptr);
  RotateOptions options = kOnline;
  options.down_online_layers = {3, 1};
  const ModelRotation rotation = make_rotation(online_config(), options, std::nullopt);
  for (int64_t layer_idx = 0; layer_idx < 5; ++layer_idx) {
    const model::OnlineTransforms online = rotation.online_of(layer_idx);
    EXPECT_EQ(online.of(model::LinearGroup::kO), rotation.online.of(model::LinearGroup::kO));
    EXPECT_EQ(online.of(model::LinearGroup::kDown) != nullptr, layer_idx == 1 || layer_idx == 3)
        << layer_idx;
  }
}

TEST(OnlineRotations, RefuseSizesThatHaveNone) {
  hf::Config config = online_config();
  config.intermediate_size = 42;
  EXPECT_THROW(make_rotation(config, kOnline, std::nullopt), Error);
  EXPECT_NO_THROW(make_rotation(config, {}, std::nullopt));
  config = online_config();
  config.num_attention_heads = 6;  // blocks of 2 divide them, blocks of 4 do not
  EXPECT_NO_THROW(make_rotation(config, kOnline, std::nullopt));
  RotateOptions four = kOnline;
  four.max_tp_size = 4;
  EXPECT_THROW(make_rotation(config, four, std::nullopt), Error);
}

class OnlineLayers : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(WithoutAndWithDown, OnlineLayers, testing::Values(0, 1),
                         testing::PrintToStringParamName());

TEST_P(OnlineLayers, KeepTheLayersFunctionInTheRotatedBasis) {
  const hf::Config config = online_config();
  const ModelRotation rotation = make_rotation(config, kOnline, std::nullopt);
  const model::OnlineTransforms online = rotation.online_of(GetParam());
  Mat<float> x = normal_matrix(13, 48, 30);
  Mat<float> expected = run_layer(config, random_layer(config, 0.5f), x);
  rotation.residual.apply_right(expected.view());

  model::LayerWeights rotated = random_layer(config, 0.5f);
  fold_norms(rotated);
  rotate_layer(config, rotation, rotated);
  const Mat<float> down = rotated[Linear::kDownProj].clone(), o = rotated[Linear::kOProj].clone();
  rotate_online(online, rotated);
  EXPECT_NE(std::memcmp(rotated[Linear::kOProj].data(), o.data(),
                        static_cast<size_t>(o.size()) * sizeof(float)),
            0);
  EXPECT_EQ(std::memcmp(rotated[Linear::kDownProj].data(), down.data(),
                        static_cast<size_t>(down.size()) * sizeof(float)) == 0,
            GetParam() == 0);
  rotation.residual.apply_right(x.view());
  const Mat<float> y = run_layer(config, rotated, x, online);
  // f32 rounding of 16 products of at most 64 terms, of values of order 10.
  for (int64_t i = 0; i < y.size(); ++i)
    ASSERT_NEAR(y.data()[i], expected.data()[i], 16 * 64 * FLT_EPSILON * 10) << i;
}

class FitRows : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(FullAndDeficientRank, FitRows, testing::Values(1, 10, 300),
                         testing::PrintToStringParamName());

TEST_P(FitRows, IsOrthogonalNeverWorseThanHadamardAndTheSameOnAnyNumberOfThreads) {
  // A few channels far above the rest, as real residual streams have.
  Mat<float> rows = normal_matrix(GetParam(), 48, 5);
  for (int64_t i = 0; i < rows.rows(); ++i) rows(i, 7) *= 30, rows(i, 20) *= 12;
  const int before = num_threads();
  set_num_threads(1);
  const FitResult one = fit_rotation(rows.clone(), {.steps = 8});
  set_num_threads(3);
  const FitResult three = fit_rotation(rows.clone(), {.steps = 8});
  set_num_threads(before);
  EXPECT_EQ(std::memcmp(one.rotation.data(), three.rotation.data(), 48 * 48 * sizeof(float)), 0);
  EXPECT_LT(one.orthogonality, 1e-5);
  double best = one.steps.front().loss;
  for (const FitStep& step : one.steps) best = std::min(best, step.loss);
  EXPECT_EQ(one.steps[static_cast<size_t>(one.best_step)].loss, best);
  if (GetParam() == 300) {
    EXPECT_GT(one.best_step, 0);
  }
}

TEST(FitRotation, RefusesToFitNothing) { EXPECT_THROW(fit_rotation(Mat<float>(0, 48), {}), Error); }

TEST(FittedLinears, AreThoseThatReadTheResidualStream) {
  EXPECT_EQ(fitted_linears({}, {.layer_type = {"up_proj"}}), std::vector{Linear::kUpProj});
  EXPECT_EQ(fitted_linears({}, {.layer_type = {"self_attn.k", "gate"}}),
            (std::vector{Linear::kKProj, Linear::kGateProj}));
  EXPECT_THROW(fitted_linears({}, {.layer_type = {"down_proj"}}), Error);
  EXPECT_THROW(fitted_linears({}, {.layer_type = {"experts"}}), Error);
}

TEST(ActivationRows, KeepsTokenMeansAndSpreadsWhatItDrops) {
  hf::Config config = small_config();
  config.num_hidden_layers = 1;
  model::LayerSaved<float> saved(config, 8, false);
  model::Ragged batch;
  for (int i = 0; i < 4; ++i) batch.append(2);
  for (int64_t i = 0; i < 8; ++i)
    for (int64_t j = 0; j < 48; ++j) saved.hidden_normed(i, j) = static_cast<float>(i);
  ActivationRows rows(config, {.layer_type = {"up_proj"}, .max_samples = 3}, batch, 1);
  rows.observe(batch, saved);
  rows.finish_layer();
  const Mat<float> kept = rows.take();
  // Means 0.5, 2.5, 4.5, 6.5; trunc(linspace(0, 3, 3)) = 0, 1, 3.
  ASSERT_EQ(kept.rows(), 3);
  EXPECT_EQ(kept(0, 0), 0.5f);
  EXPECT_EQ(kept(1, 0), 2.5f);
  EXPECT_EQ(kept(2, 47), 6.5f);
}

TEST(ActivationRows, OfChunksAreTheMeansOfEqualPartsOfEachSample) {
  hf::Config config = small_config();
  config.num_hidden_layers = 2;
  model::LayerSaved<float> saved(config, 9, false);
  const model::Ragged batch{{0, 7, 9}};
  saved.input_normed = normal_matrix(9, 48, 40);
  saved.hidden_normed = normal_matrix(9, 48, 41, 5);
  ActivationRows rows(config, {.layer_type = {"up_proj", "q_proj"}}, batch, 3);
  rows.observe(batch, saved);
  rows.finish_layer();
  rows.observe(batch, saved);
  rows.finish_layer();
  const Mat<float> kept = rows.take();
  // 7 tokens in 3 parts; a sample of 2 has no third.
  const std::pair<int64_t, int64_t> parts[] = {{0, 2}, {2, 4}, {4, 7}, {7, 8}, {8, 9}};
  ASSERT_EQ(kept.rows(), 2 * 2 * 5);
  int64_t row = 0;
  for (int layer_idx = 0; layer_idx < 2; ++layer_idx)
    for (const Mat<float>* inputs : {&saved.input_normed, &saved.hidden_normed})
      for (const auto& [begin, end] : parts) {
        for (int64_t j = 0; j < 48; ++j) {
          double sum = 0;
          for (int64_t i = begin; i < end; ++i) sum += (*inputs)(i, j);
          // Equal in f64 but for the last bit, then rounded to f32.
          ASSERT_FLOAT_EQ(kept(row, j), static_cast<float>(sum / static_cast<double>(end - begin)))
              << row << ", " << j;
        }
        ++row;
      }
}

TEST(ActivationRows, DoNotDependOnWhereASampleIsCut) {
  hf::Config config = small_config();
  config.num_hidden_layers = 1;
  const model::Ragged samples{{0, 7, 20}};
  const Mat<float> all = normal_matrix(20, 48, 42);
  for (const int64_t chunks : {1, 3, 5, 100})
    for (const int64_t max_samples : {3, 1000}) {
      const FitOptions options{.layer_type = {"up_proj"}, .max_samples = max_samples};
      ActivationRows whole(config, options, samples, chunks), cut(config, options, samples, chunks);
      const auto observe = [&](ActivationRows& rows, const model::Ragged& batch, int64_t begin) {
        model::LayerSaved<float> saved(config, batch.num_tokens(), false);
        std::copy_n(all.row(begin), batch.num_tokens() * 48, saved.hidden_normed.data());
        rows.observe(batch, saved);
      };
      observe(whole, samples, 0);
      whole.finish_layer();
      for (const auto& [begin, end] :
           std::vector<std::pair<int64_t, int64_t>>{{0, 7}, {7, 13}, {13, 19}, {19, 20}})
        observe(cut, {.offsets = {0, end - begin}, .past = begin < 7 ? 0 : begin - 7}, begin);
      cut.finish_layer();
      const Mat<float> expected = whole.take(), actual = cut.take();
      ASSERT_EQ(actual.rows(), expected.rows());
      EXPECT_EQ(std::memcmp(actual.data(), expected.data(),
                            static_cast<size_t>(actual.size()) * sizeof(float)),
                0)
          << chunks << " chunks, " << max_samples << " kept";
    }
}

model::Ragged samples_of(const std::vector<int64_t>& lengths) {
  model::Ragged samples;
  for (const int64_t length : lengths) samples.append(length);
  return samples;
}

TEST(NumFitRows, IsWhatActivationRowsKeep) {
  hf::Config config = small_config();
  config.num_hidden_layers = 3;
  const model::Ragged samples = samples_of({7, 2, 1, 30});
  model::LayerSaved<float> saved(config, samples.num_tokens(), false);
  saved.input_normed.fill_zero();
  saved.hidden_normed.fill_zero();
  for (const std::vector<std::string>& linears : std::vector<std::vector<std::string>>{
           {"up_proj"}, {"gate_proj", "up_proj"}, {"k_proj"}, {"q_proj", "up_proj"}})
    for (const int64_t max_samples : {1, 5, 1000})
      for (const int64_t chunks : {1, 2, 4, 8, 100}) {
        const FitOptions options{.layer_type = linears, .max_samples = max_samples};
        ActivationRows rows(config, options, samples, chunks);
        for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
          rows.observe(samples, saved);
          rows.finish_layer();
        }
        EXPECT_EQ(num_fit_rows(config, options, samples, chunks), rows.take().rows())
            << linears.front() << ", " << max_samples << ", " << chunks;
      }
}

TEST(ChunksForFullRank, AreOneWhereTokenMeansSuffice) {
  hf::Config config = small_config();  // hidden_size 48
  config.num_hidden_layers = 2;
  EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of(std::vector<int64_t>(24, 9))), 1);
  EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of(std::vector<int64_t>(23, 9))), 2);
  // Inputs of attention and of the MLP are two rows a sample.
  EXPECT_EQ(chunks_for_full_rank(config, {.layer_type = {"q_proj", "up_proj"}},
                                 samples_of(std::vector<int64_t>(12, 9))),
            1);
}

TEST(ChunksForFullRank, AreTheFewestThatSuffice) {
  hf::Config config = small_config();
  config.num_hidden_layers = 2;
  // 24 rows a layer: 10 of the first sample and 14 of the second.
  EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of({10, 20})), 14);
  EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of({24})), 24);
  std::mt19937 generator(1);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<int64_t> lengths(1 + generator() % 6);
    for (int64_t& length : lengths) length = 1 + static_cast<int64_t>(generator() % 40);
    int64_t fewest = 0;  // by trying all
    for (int64_t chunks = 40; chunks >= 1; --chunks) {
      int64_t rows = 0;
      for (const int64_t length : lengths) rows += std::min(chunks, length);
      if (2 * rows >= 48) fewest = chunks;
    }
    EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of(lengths)), fewest) << trial;
  }
}

TEST(ChunksForFullRank, AreNoneWhereTokensOrKeptRowsAreTooFew) {
  hf::Config config = small_config();
  config.num_hidden_layers = 2;
  EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of({10, 13})), 0);
  EXPECT_EQ(chunks_for_full_rank(config, {}, samples_of({})), 0);
  EXPECT_EQ(chunks_for_full_rank(config, {.max_samples = 23}, samples_of({500})), 0);
  EXPECT_EQ(chunks_for_full_rank(config, {.max_samples = 24}, samples_of({500})), 24);
}

}  // namespace
}  // namespace laos::rotation
