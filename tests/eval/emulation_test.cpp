// --emulate transformers: against its definition, and against what transformers computes;
// tests/golden/compressed-tensors/make.py made the checkpoint and its logits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <filesystem>
#include <memory>
#include <vector>

#include "eval/eval_model.h"
#include "hf/quantized_checkpoint.h"
#include "io/safetensors.h"
#include "linalg/gemm.h"

namespace laos::eval {
namespace {

const std::filesystem::path kCheckpoint = LAOS_SOURCE_DIR "/tests/golden/compressed-tensors/model";

// A token's codes times their step, which is max|x| / (q_max + 1/2).
// In floats: a largest value that is negative is within a rounding of the middle of two codes.
std::vector<double> in_steps(const float* x, int64_t n, int bits) {
  const auto q_max = static_cast<float>((1 << (bits - 1)) - 1);
  float peak = 0;
  for (int64_t j = 0; j < n; ++j) peak = std::max(peak, std::fabs(x[j]));
  const float step = peak / (q_max + 0.5f);
  std::vector<double> values;
  for (int64_t j = 0; j < n; ++j)
    values.push_back(double{step} * std::clamp(std::nearbyint(x[j] / step), -q_max - 1, q_max));
  return values;
}

TEST(EmulatedTransformers, TakesTheStepsOfThePackageByDefinition) {
  const auto model = open_eval_model(kCheckpoint, Arithmetic::kTransformers);
  const auto checkpoint = hf::open_quantized(kCheckpoint);
  constexpr int64_t kTokens = 50;
  Mat<float> x(kTokens, model->config().hidden_size);
  for (int64_t i = 0; i < x.size(); ++i)
    x.data()[i] = std::sin(static_cast<float>(i * i + 1)) * static_cast<float>(1 + i % 7);
  int negative = 0;
  for (int64_t i = 0; i < kTokens; ++i) {
    const auto [low, high] = std::minmax_element(x.row(i), x.row(i) + x.cols());
    negative += -*low > *high;
  }
  EXPECT_GT(negative, 5);
  EXPECT_LT(negative, 45);
  for (const bool resident : {false, true}) {
    const auto layer = resident ? model->load_resident_layer(1) : model->load_layer(1);
    for (const model::LinearGroup group : {model::LinearGroup::kQkv, model::LinearGroup::kGateUp}) {
      const std::span<const model::Linear> linears = model::linears_of(group);
      std::vector<Mat<float>> outputs;
      std::vector<MatView<float>> views;
      for (const model::Linear l : linears)
        outputs.emplace_back(kTokens,
                             checkpoint->codes(model::name_of(model->config(), 1, l)).rows());
      for (Mat<float>& y : outputs) views.push_back(y.view());
      layer->linears().forward(group, std::as_const(x).view(), views);
      for (size_t k = 0; k < linears.size(); ++k) {
        const std::string name = model::name_of(model->config(), 1, linears[k]);
        const int bits = checkpoint->label(name) == "W4A4_DYNAMIC" ? 4 : 8;
        const Mat<int8_t> codes = checkpoint->codes(name);
        const std::vector<float> scale = checkpoint->weight_scale(name);
        for (int64_t i = 0; i < kTokens; ++i) {
          const std::vector<double> input = in_steps(x.row(i), x.cols(), bits);
          for (int64_t r = 0; r < codes.rows(); ++r) {
            double sum = 0, magnitude = 0;
            for (int64_t j = 0; j < codes.cols(); ++j) {
              const double product =
                  input[static_cast<size_t>(j)] * codes(r, j) * scale[static_cast<size_t>(r)];
              sum += product;
              magnitude += std::fabs(product);
            }
            ASSERT_NEAR(outputs[k](i, r), sum, 8 * FLT_EPSILON * magnitude) << name;
          }
        }
      }
    }
  }
}

TEST(EmulatedTransformers, GivesTheLogitsOfTransformers) {
  const io::TensorFiles golden =
      io::TensorFiles::open_files({kCheckpoint.parent_path() / "logits.safetensors"});
  const Mat<float> ids = to_f32(golden.at("ids")), expected = to_f32(golden.at("logits"));
  std::vector<int32_t> sequence;
  for (int64_t i = 0; i < ids.size(); ++i) sequence.push_back(static_cast<int32_t>(ids.data()[i]));
  const auto distance = [&](Arithmetic arithmetic) {
    const auto model = open_eval_model(kCheckpoint, arithmetic);
    const model::HiddenStates hidden = final_hidden(*model, {sequence});
    const Mat<float> head = to_f32(model->lm_head());
    Mat<float> logits(expected.rows(), expected.cols());
    linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, std::as_const(hidden.rows).view(),
                 head.view(), 0.0f, logits.view());
    double squares = 0, size = 0;
    for (int64_t i = 0; i < logits.size(); ++i) {
      squares += std::pow(double{logits.data()[i]} - expected.data()[i], 2);
      size += std::pow(double{expected.data()[i]}, 2);
    }
    return std::sqrt(squares / size);
  };
  EXPECT_LT(distance(Arithmetic::kTransformers), 1e-5);
  EXPECT_GT(distance(Arithmetic::kExact), 1e-2);
}

}  // namespace
}  // namespace laos::eval
