#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <numeric>

#include "autoround/best_rule.h"
#include "autoround/kernels/update.h"
#include "autoround/kernels/update_scalar.h"
#include "autoround/problem.h"
#include "autoround/train_layer.h"
#include "core/isa.h"
#include "core/threads.h"
#include "support/random.h"
#include "support/temporary_directory.h"

namespace laos::autoround {
namespace {

using model::Linear;
using test::normal_matrix;

// The published scheme's rates for 400 iterations: 5 / 400, falling to 0 along a line.
TEST(LearningRate, FallsLinearlyFromFiveOverIters) {
  const double published = TrainOptions().lr_scale;
  EXPECT_DOUBLE_EQ(learning_rate(published, 0, 400), 0.0125);
  EXPECT_DOUBLE_EQ(learning_rate(published, 1, 400), 0.01246875);
  EXPECT_DOUBLE_EQ(learning_rate(published, 399, 400), 3.125e-5);
  EXPECT_DOUBLE_EQ(learning_rate(1, 0, 200), 0.005);
}

// Sequences worked out by hand from the rule that BestRule states.
TEST(BestRule, KeepsTheFirstUntilTheTrailingMeanFallsBelowTheBar) {
  const auto accepted = [](const std::vector<double>& losses) {
    BestRule rule;
    std::vector<bool> result;
    for (const double loss : losses) result.push_back(rule.accept(loss));
    return result;
  };
  EXPECT_EQ(accepted({1, 2, 3}), (std::vector<bool>{true, false, false}));
  // Means 10, 9.5, 9, 8.5, 8 against bars 10, 9.85, 9.595, 9.2665: all below.
  EXPECT_EQ(accepted({10, 9, 8, 7, 6}), (std::vector<bool>{true, true, true, true, true}));
  // A single dip: mean 5.5 < 10 (bar 8.65), then (10 + 1 + 10) / 3 = 7 < 8.65 (bar 8.155), then 31
  // / 4 = 7.75 < 8.155 (bar 8.0335), then 41 / 5 = 8.2, not below; the dip leaves the window of
  // five after that.
  EXPECT_EQ(accepted({10, 1, 10, 10, 10, 10, 10}),
            (std::vector<bool>{true, true, true, true, false, false, false}));
}

class UpdateOffsets : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { use_isa(GetParam()); }
  void TearDown() override { restore_isa(); }
};
INSTANTIATE_TEST_SUITE_P(EveryIsa, UpdateOffsets, testing::ValuesIn(supported_isas()),
                         [](const auto& p) { return p.param.name; });

Mat<int16_t> offsets(int64_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> any(-32767, 32767);
  Mat<int16_t> v(1, n);
  for (int64_t i = 0; i < n; ++i) v(0, i) = static_cast<int16_t>(any(generator));
  return v;
}

TEST_P(UpdateOffsets, MatchesTheScalarDefinitionAtEveryTailLength) {
  constexpr float kUnit = 0.5f / 32767;
  for (int64_t n = 1; n <= 67; ++n) {
    const float scale = n % 2 == 0 ? 0.05f : -0.05f;
    const Mat<float> w = normal_matrix(1, n, 1, 0.3f);
    Mat<float> g = normal_matrix(1, n, 2);
    Mat<int16_t> v = offsets(n, static_cast<uint32_t>(n));
    g(0, n / 2) = 0;
    Mat<int16_t> expected = v.clone();
    const float d_scale =
        kernels::update_offsets(w.data(), g.data(), scale, 7, kUnit, 655, v.data(), n);
    const float d_expected = kernels::scalar::update_offsets(w.data(), g.data(), scale, 7, kUnit,
                                                             655, expected.data(), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(v(0, i), expected(0, i)) << i;
    // Sums of n terms of |g (q - x)| <= 4 * 8.
    ASSERT_NEAR(d_scale, d_expected,
                32.0 * static_cast<double>(n) * static_cast<double>(n) * FLT_EPSILON);
    const float d_only =
        kernels::update_offsets(w.data(), g.data(), scale, 7, kUnit, 655, nullptr, n);
    ASSERT_TRUE(std::isfinite(d_only));
  }
}

TEST_P(UpdateOffsets, QuantizesWithOffsetsBitForBitAtEveryTailLength) {
  for (int64_t n = 1; n <= 67; ++n) {
    const Mat<float> w = normal_matrix(1, n, 1, 0.3f);
    const Mat<int16_t> v = offsets(n, static_cast<uint32_t>(n));
    Mat<float> actual(1, n), expected(1, n);
    kernels::fake_quantize(w.data(), v.data(), 0.5f / 32767, 0.05f, 7, actual.data(), n);
    kernels::scalar::fake_quantize(w.data(), v.data(), 0.5f / 32767, 0.05f, 7, expected.data(), n);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(actual(0, i), expected(0, i)) << i;
  }
}

// The straight-through gradient: with round replaced by the identity inside the clamp,
// S q(S) has the derivative q - x inside and q outside, which finite differences of S * clamp(w / S
// + r) with r = round(x) - x held fixed give.
TEST(UpdateOffsets, ScaleGradientMatchesFiniteDifferenceOfTheStraightThroughForward) {
  constexpr int64_t kN = 64;
  const Mat<float> w = normal_matrix(1, kN, 4);
  Mat<float> g = normal_matrix(1, kN, 5);
  for (const double scale : {0.2, -0.2}) {
    // At a code of exactly -8 or 7 the clamp has a kink, where the convention is "inside": leave
    // those out.
    for (int64_t i = 0; i < kN; ++i) {
      const double code = std::nearbyint(w(0, i) / scale);
      if (code == -8 || code == 7) g(0, i) = 0;
    }
    const auto objective = [&](double s) {
      double sum = 0;
      for (int64_t i = 0; i < kN; ++i) {
        const double x0 = w(0, i) / scale, rest = std::nearbyint(x0) - x0;
        sum += g(0, i) * s * std::clamp(w(0, i) / s + rest, -8.0, 7.0);
      }
      return sum;
    };
    const double step = 1e-6,
                 expected = (objective(scale + step) - objective(scale - step)) / (2 * step);
    const float actual = kernels::update_offsets(w.data(), g.data(), static_cast<float>(scale), 7,
                                                 0.5f, 0, nullptr, kN);
    EXPECT_NEAR(actual, expected, 1e-3);
  }
}

TEST(UpdateOffsets,
     MovesAgainstTheSignStopsAtTheClipAndStandsStillAtZeroGradientAndOutsideTheRange) {
  const std::vector<float> w = {0.4f, 0.4f, 0.4f, 100.0f, 0.4f}, g = {1, -1, 0, 1, -2};
  std::vector<int16_t> v = {1000, 1000, 1000, 1000, 32700};
  kernels::update_offsets(w.data(), g.data(), 1.0f, 7, 1e-5f, 100, v.data(), 5);
  EXPECT_EQ(v, (std::vector<int16_t>{900, 1100, 1000, 1000, 32767}));
  // With a negative scale a larger offset makes a smaller weight.
  kernels::update_offsets(w.data(), g.data(), -1.0f, 7, 1e-5f, 100, v.data(), 5);
  EXPECT_EQ(v, (std::vector<int16_t>{1000, 1000, 1000, 1000, 32667}));
}

void expect_same(const LayerResult& a, const LayerResult& b) {
  for (const model::Linear l : model::kAllLinears) {
    ASSERT_EQ(a.weights[l].scale, b.weights[l].scale);
    ASSERT_EQ(std::memcmp(a.weights[l].q.data(), b.weights[l].q.data(),
                          static_cast<size_t>(a.weights[l].q.size())),
              0);
  }
}

TEST(TrainLayer, LowersTheErrorOfPlainRounding) {
  const LayerResult result = Problem(20).train({.iters = 100});
  EXPECT_EQ(result.report.losses.size(), 100u);
  EXPECT_LT(result.report.loss, 0.8 * result.report.rounding_loss);
  for (const quant::IntWeight& weight : result.weights)
    for (int64_t i = 0; i < weight.q.size(); ++i) {
      ASSERT_GE(weight.q.data()[i], -8);
      ASSERT_LE(weight.q.data()[i], 7);
    }
}

TEST(TrainLayer, EachTuningAloneHelpsToo) {
  const Problem problem(20);
  const LayerResult round_only = problem.train({.iters = 60, .enable_minmax_tuning = false});
  EXPECT_LT(round_only.report.loss, 0.9 * round_only.report.rounding_loss);
  const LayerResult plain =
      problem.train({.enable_round_tuning = false, .enable_minmax_tuning = false});
  for (const model::Linear l : model::kAllLinears)
    EXPECT_EQ(round_only.weights[l].scale, plain.weights[l].scale);
  const LayerResult minmax_only = problem.train({.iters = 60, .enable_round_tuning = false});
  EXPECT_LT(minmax_only.report.loss, minmax_only.report.rounding_loss);
}

TEST(TrainLayer, WithBothTuningsOffIsPlainRounding) {
  const Problem problem(4);
  const LayerResult result =
      problem.train({.enable_round_tuning = false, .enable_minmax_tuning = false});
  for (const Linear l : model::kAllLinears) {
    const quant::IntWeight expected = quant::quantize_rtn(problem.weights[l].view(), {.bits = 4});
    const quant::IntWeight& actual = result.weights[l];
    EXPECT_EQ(actual.scale, expected.scale);
    EXPECT_EQ(
        std::memcmp(actual.q.data(), expected.q.data(), static_cast<size_t>(expected.q.size())), 0);
  }
  EXPECT_TRUE(result.report.losses.empty());
}

TEST(TrainLayer, LeavesLinearsOutsideTheSchemeAlone) {
  Problem problem(6);
  problem.scheme[Linear::kDownProj] = std::nullopt;
  const LayerResult result = problem.train({.iters = 5});
  EXPECT_EQ(result.weights[Linear::kDownProj].q.size(), 0);
  EXPECT_GT(result.weights[Linear::kUpProj].q.size(), 0);
  problem.scheme = {};
  EXPECT_TRUE(problem.train({.iters = 5}).report.losses.empty());
}

// Mean absolute error of the layer with `codes` where there are any, over `samples`.
double error_of(const Problem& problem, const LayerCodes& codes,
                const std::vector<int64_t>& samples) {
  model::LayerWeights trained;
  for (const Linear l : model::kAllLinears) {
    const quant::IntWeight& weight = codes[l];
    trained[l] = weight.q.size() != 0 ? quant::dequantize(weight) : problem.weights[l].clone();
  }
  model::FloatLinears<float> linears(model::views_of(trained));
  model::HiddenStates outputs = {problem.inputs.samples,
                                 Mat<float>(problem.inputs.rows.rows(), 32)};
  model::LayerSaved<float> saved(problem.config, problem.inputs.rows.rows(), false);
  model::forward_all(problem.config, model::norms_of(problem.weights), linears, problem.rope(),
                     problem.inputs, 1000, saved, &outputs);
  double error = 0;
  int64_t count = 0;
  for (const int64_t s : samples) {
    const int64_t begin = outputs.samples.offsets[static_cast<size_t>(s)];
    for (int64_t row = begin; row < begin + outputs.samples.length(s); ++row)
      for (int64_t i = 0; i < 32; ++i, ++count)
        error += std::abs(double{outputs.rows.row(row)[i]} - problem.targets.rows.row(row)[i]);
  }
  return error / static_cast<double>(count);
}

// The loss of training that computes attention once is that of the whole layer.
TEST(TrainLayer, OfTheMlpAloneLowersTheErrorOfTheWholeLayer) {
  Problem problem(20);
  for (const Linear l : {Linear::kQProj, Linear::kKProj, Linear::kVProj, Linear::kOProj})
    problem.scheme[l] = std::nullopt;
  const LayerResult result = problem.train({.iters = 60});
  EXPECT_LT(result.report.loss, 0.8 * result.report.rounding_loss);
  for (const Linear l : model::kAllLinears) {
    EXPECT_EQ(result.weights[l].q.size() != 0, problem.scheme[l].has_value());
  }
  std::vector<int64_t> all(20);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_NEAR(result.report.loss, error_of(problem, result.weights, all),
              1e-5 * result.report.loss);
}

TEST(TrainLayer, UntilFlatTrainsInRoundsAndKeepsWhatIsBestOnSamplesItDoesNotDraw) {
  // Inputs that lie in a few directions, so that what is learned holds for samples not seen.
  Problem problem(std::vector<int64_t>(40, 30));
  const Mat<float> directions = normal_matrix(6, 32, 7);
  for (int64_t row = 0; row < problem.inputs.rows.rows(); ++row) {
    float* x = problem.inputs.rows.row(row);
    const std::vector<float> amounts(x, x + 6);
    for (int64_t i = 0; i < 32; ++i) {
      x[i] = 0;
      for (int64_t d = 0; d < 6; ++d) x[i] += amounts[static_cast<size_t>(d)] * directions(d, i);
    }
  }
  problem.aim();
  const LayerResult result = problem.train({.iters = 400, .until_flat = true});
  const size_t count = result.report.losses.size();
  EXPECT_TRUE(count == 100 || count == 200 || count == 400) << count;
  EXPECT_LT(result.report.loss, 0.9 * result.report.rounding_loss);
  // A quarter of the samples, spread over them.
  EXPECT_NEAR(result.report.loss,
              error_of(problem, result.weights, {0, 4, 8, 12, 16, 20, 24, 28, 32, 36}),
              1e-5 * result.report.loss);
  // The first round of many is a run of that many iterations.
  const LayerResult shorter = problem.train({.iters = 100, .until_flat = true});
  ASSERT_EQ(shorter.report.losses.size(), 100u);
  EXPECT_TRUE(std::equal(shorter.report.losses.begin(), shorter.report.losses.end(),
                         result.report.losses.begin()));
  EXPECT_LE(result.report.loss, shorter.report.loss);
  // A second round is tried if the first paid, and only then.
  EXPECT_EQ(count > 100, shorter.report.loss < 0.95 * shorter.report.rounding_loss);
}

TEST(TrainLayer, UntilFlatStopsAfterARoundThatDoesNotPay) {
  // At 8 bits there is next to nothing to win; weights that are codes already leave nothing at all.
  Problem problem(20, 8);
  for (const Linear l : model::kAllLinears)
    problem.weights[l] = quant::dequantize(quant::quantize_rtn(problem.weights[l].view(), {}));
  problem.aim();
  const LayerResult result = problem.train({.iters = 400, .until_flat = true});
  EXPECT_EQ(result.report.losses.size(), 100u);
  EXPECT_EQ(result.report.kept_iteration, 0);
  EXPECT_EQ(result.report.loss, result.report.rounding_loss);
}

TEST(TrainLayer, UntilFlatMakesDoWithASample) {
  for (const int64_t n : {1, 2, 3}) {
    const LayerResult result = Problem(n).train({.iters = 30, .until_flat = true});
    EXPECT_EQ(result.report.losses.size(), 30u);
    EXPECT_LE(result.report.loss, result.report.rounding_loss) << n << " samples";
  }
}

TEST(TrainLayer, NeverKeepsSomethingWorseThanPlainRounding) {
  // One iteration at learning rate 5: the update throws every offset to its clip.
  const LayerResult result = Problem(3, 8).train({.iters = 1});
  EXPECT_LE(result.report.loss, result.report.rounding_loss);
}

TEST(TrainLayer, HandlesFewerSamplesThanABatch) {
  for (const int64_t n : {1, 3, 8, 9}) {
    const LayerResult result = Problem(n).train({.iters = 30});
    EXPECT_LT(result.report.loss, result.report.rounding_loss) << n << " samples";
  }
}

TEST(TrainLayer, GivesTheSameBytesForASeedOnAnyNumberOfThreadsAndOthersForAnother) {
  const Problem problem(12);
  const int before = num_threads();
  set_num_threads(1);
  const LayerResult one = problem.train({.iters = 20});
  set_num_threads(3);
  const LayerResult three = problem.train({.iters = 20});
  const LayerResult other = problem.train({.iters = 20}, 43);
  set_num_threads(before);
  expect_same(one, three);
  EXPECT_EQ(one.report.losses, three.report.losses);
  EXPECT_NE(one.report.losses, other.report.losses);
}

// Samples that go through the layer in several pieces and, the first and the last, in parts.
TEST(TrainLayer, GivesTheSameBytesWhenBatchesAreTooLargeToBeSavedWhole) {
  for (const linalg::ComputeType compute : {linalg::ComputeType::kF32, linalg::ComputeType::kBf16})
    for (const bool act_aware : {false, true}) {
      const Problem problem(std::vector<int64_t>{4500, 700, 1500, 2049});
      TrainOptions options{.iters = 3, .act_aware = act_aware, .compute = compute};
      const LayerResult whole = problem.train(options);
      options.max_whole_tokens = 8000;
      const LayerResult pieces = problem.train(options);
      expect_same(whole, pieces);
      EXPECT_EQ(whole.report.losses, pieces.report.losses);
      EXPECT_EQ(whole.report.loss, pieces.report.loss);
    }
}

TEST(TrainLayer, GivesTheSameBytesWithWeightsPutAsideInFilesAndBringsThemBack) {
  const test::TemporaryDirectory directory;
  const Problem problem(12);
  const Mat<float> up = problem.weights[Linear::kUpProj].clone();
  const LayerResult in_memory = problem.train({.iters = 20});
  const LayerResult in_files = problem.train({.iters = 20}, 42, directory.path());
  expect_same(in_memory, in_files);
  EXPECT_EQ(in_memory.report.losses, in_files.report.losses);
  const Mat<float>& back = problem.weights[Linear::kUpProj];
  ASSERT_EQ(back.rows(), up.rows());
  EXPECT_EQ(std::memcmp(back.data(), up.data(), static_cast<size_t>(up.size()) * sizeof(float)), 0);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(TrainLayer, RefusesALossThatIsNotFinite) {
  Problem problem(4);
  problem.targets.rows(0, 0) = INFINITY;
  EXPECT_THROW(problem.train({.iters = 5}), Error);
}

// -------------------------------------------------------------------------------------------- bf16

constexpr TrainOptions kBf16 = {.iters = 20, .compute = linalg::ComputeType::kBf16};

TEST(Bf16, ForwardAndBackwardStayWithinTheRoundingOfTheOperands) {
  for (const int bits : {4, 8}) {
    Problem problem(4, bits);
    problem.scheme[Linear::kUpProj] = std::nullopt;
    TrainableLinears exact(problem.weights, problem.scheme, {});
    TrainableLinears narrow(problem.weights, problem.scheme, kBf16);
    const Mat<float> x = normal_matrix(7, 32, 90);
    const Mat<float> d_gate = normal_matrix(7, 48, 91), d_up = normal_matrix(7, 48, 92);
    Mat<float> gate(7, 48), up(7, 48), gate16(7, 48), up16(7, 48), d_x(7, 32), d_x16(7, 32);
    const std::array ys = {gate.view(), up.view()}, ys16 = {gate16.view(), up16.view()};
    exact.forward(model::LinearGroup::kGateUp, x.view(), ys);
    narrow.forward(model::LinearGroup::kGateUp, x.view(), ys16);
    const std::array d_ys = {d_gate.view(), d_up.view()};
    exact.backward(model::LinearGroup::kGateUp, x.view(), d_ys, d_x.view());
    narrow.backward(model::LinearGroup::kGateUp, x.view(), d_ys, d_x16.view());
    TrainableLinears::Snapshot saved;
    exact.save(saved);
    const LayerCodes codes = saved.codes();
    const Mat<float> weight_gate = quant::dequantize(codes[Linear::kGateProj]);
    const Mat<float>& weight_up = problem.weights[Linear::kUpProj];
    // Both operands rounded by at most 2^-9 of themselves; sums of at most 96 products in f32.
    const double unit = 2.01 / 512 + 2 * 96 * double{FLT_EPSILON};
    bool differs = false;
    for (int64_t i = 0; i < 7; ++i) {
      for (int64_t j = 0; j < 48; ++j) {
        double size_gate = 0, size_up = 0;
        for (int64_t c = 0; c < 32; ++c) {
          size_gate += std::abs(double{x(i, c)} * weight_gate(j, c));
          size_up += std::abs(double{x(i, c)} * weight_up(j, c));
        }
        ASSERT_NEAR(gate16(i, j), gate(i, j), unit * size_gate);
        ASSERT_NEAR(up16(i, j), up(i, j), unit * size_up);
        differs = differs || gate16(i, j) != gate(i, j);
      }
      for (int64_t c = 0; c < 32; ++c) {
        double size = 0;
        for (int64_t j = 0; j < 48; ++j)
          size += std::abs(double{d_gate(i, j)} * weight_gate(j, c)) +
                  std::abs(double{d_up(i, j)} * weight_up(j, c));
        ASSERT_NEAR(d_x16(i, c), d_x(i, c), unit * size);
      }
    }
    EXPECT_TRUE(differs);  // or nothing was rounded
  }
}

TEST(Bf16, StartsFromAndRestoresTheSameCodesAsF32) {
  for (const int bits : {4, 8}) {
    const Problem problem(4, bits);
    TrainableLinears::Snapshot exact, narrow, restored;
    TrainableLinears(problem.weights, problem.scheme, {}).save(exact);
    TrainableLinears linears(problem.weights, problem.scheme, kBf16);
    linears.save(narrow);
    linears.apply(exact);
    linears.save(restored);
    for (const model::Linear l : model::kAllLinears)
      for (const TrainableLinears::Snapshot* snapshot : {&narrow, &restored}) {
        ASSERT_EQ(exact.scale[l], snapshot->scale[l]);
        ASSERT_EQ(std::memcmp(exact.q[l].data(), snapshot->q[l].data(),
                              static_cast<size_t>(exact.q[l].size())),
                  0);
      }
  }
}

TEST(Bf16, TrainingLowersTheErrorOfPlainRounding) {
  TrainOptions options = kBf16;
  options.iters = 100;
  const LayerResult result = Problem(20).train(options);
  EXPECT_LT(result.report.loss, 0.8 * result.report.rounding_loss);
}

TEST(Bf16, TrainingGivesTheSameBytesOnAnyNumberOfThreads) {
  const Problem problem(12);
  const int before = num_threads();
  set_num_threads(1);
  const LayerResult one = problem.train(kBf16);
  set_num_threads(3);
  const LayerResult three = problem.train(kBf16);
  set_num_threads(before);
  expect_same(one, three);
  EXPECT_EQ(one.report.losses, three.report.losses);
}

// ------------------------------------------------------------------------------------- activations

TEST(ActAware, ForwardMultipliesRoundedInputsOfEachWidth) {
  Problem problem(4);
  problem.scheme[Linear::kKProj]->act.bits = 8;
  problem.scheme[Linear::kVProj] = std::nullopt;  // float weight, 4-bit input
  ActBits untrained = {};
  untrained[Linear::kVProj] = 4;
  TrainableLinears linears(problem.weights, problem.scheme, {.act_aware = true}, untrained);
  const Mat<float> x = normal_matrix(7, problem.config.hidden_size, 90);
  Mat<float> q(7, 32), k(7, 16), v(7, 16);
  const std::array<MatView<float>, 3> ys = {q.view(), k.view(), v.view()};
  linears.forward(model::LinearGroup::kQkv, x.view(), ys);
  TrainableLinears::Snapshot saved;
  linears.save(saved);
  const LayerCodes codes = saved.codes();
  const auto expect = [&](Linear l, int bits, const Mat<float>& y) {
    const Mat<float> weight =
        codes[l].q.size() != 0 ? quant::dequantize(codes[l]) : problem.weights[l].clone();
    Mat<float> rounded(7, 32);
    quant::fake_quantize_tokens(x.view(), {.bits = bits}, rounded.view());
    for (int64_t i = 0; i < y.rows(); ++i)
      for (int64_t j = 0; j < y.cols(); ++j) {
        double sum = 0, size = 0;
        for (int64_t c = 0; c < 32; ++c) {
          sum += double{rounded(i, c)} * weight(j, c);
          size += std::abs(double{rounded(i, c)} * weight(j, c));
        }
        EXPECT_NEAR(y(i, j), sum, 32 * 6e-8 * size);  // a sum of 32 products in f32
      }
  };
  expect(Linear::kQProj, 4, q);
  expect(Linear::kKProj, 8, k);
  expect(Linear::kVProj, 4, v);
}

TEST(ActAware, LowersTheErrorOfTheLayerThatRoundsItsActivations) {
  const Problem problem(32);
  const LayerResult aware = problem.train({.iters = 60, .act_aware = true});
  // The loss of training that looks away, measured with rounded activations.
  const LayerResult blind = problem.train({.iters = 60});
  const auto measured = [&](const LayerResult& result) {
    struct Rounded : model::LinearsForward<float> {
      model::PerLinear<Mat<float>> weights;
      void forward(model::LinearGroup group, MatView<const float> x,
                   std::span<const MatView<float>> ys) override {
        Mat<float> rounded(x.rows, x.cols);
        quant::fake_quantize_tokens(x, {.bits = 4}, rounded.view());
        const auto linears = model::linears_of(group);
        for (size_t i = 0; i < linears.size(); ++i)
          linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(rounded).view(),
                       std::as_const(weights[linears[i]]).view(), 0.0f, ys[i]);
      }
    } linears;
    for (const model::Linear l : model::kAllLinears)
      linears.weights[l] = quant::dequantize(result.weights[l]);
    model::HiddenStates outputs = {problem.inputs.samples,
                                   Mat<float>(problem.inputs.rows.rows(), 32)};
    model::LayerSaved<float> saved(problem.config, problem.inputs.rows.rows(), false);
    model::forward_all(problem.config, model::norms_of(problem.weights), linears, problem.rope(),
                       problem.inputs, 1000, saved, &outputs);
    double error = 0;
    for (int64_t i = 0; i < outputs.rows.size(); ++i)
      error += std::abs(double{outputs.rows.data()[i]} - problem.targets.rows.data()[i]);
    return error / static_cast<double>(outputs.rows.size());
  };
  EXPECT_NEAR(aware.report.loss, measured(aware), 1e-4 * aware.report.loss);
  EXPECT_LT(measured(aware), 0.97 * measured(blind));
}

}  // namespace
}  // namespace laos::autoround
