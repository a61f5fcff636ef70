// The check of finished checkpoints: of the bundled model, sound and spoiled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <tuple>

#include "hf/ascendv1.h"
#include "io/safetensors.h"
#include "pipeline/record.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kRoot = LAOS_SOURCE_DIR;

class CheckCheckpoint : public testing::Test {
 protected:
  void quantize(const std::string& recipe) {
    QuantOptions options;
    options.model_path = kRoot / "models/qwen3-tiny";
    options.save_path = save_;
    options.recipe_path = kRoot / "recipes" / (recipe + ".yaml");
    options.model_type = "qwen3-tiny";
    options.calib_directories = {kRoot / "calib"};
    Progress progress;
    const Plan plan = make_plan(options);
    text_ = health_text(plan);
    result_ = run(plan, progress);
  }
  // Lets `change` have the scales of the layer's linears whose name ends so.
  void spoil(int64_t layer_idx, const std::string& linear,
             const std::function<void(std::vector<float>&)>& change) {
    const std::filesystem::path file = hf::top_level_safetensors(save_).front();
    const std::string prefix = "model.layers." + std::to_string(layer_idx) + ".",
                      suffix = linear + ".weight_scale";
    std::vector<std::pair<int64_t, std::vector<float>>> changed;  // offset in the file
    {
      const io::TensorFiles files = io::TensorFiles::open_files({file});
      const std::byte* first = nullptr;
      int64_t data_bytes = 0;
      for (const auto& [name, tensor] : files.tensors()) {
        if (first == nullptr || tensor.data < first) first = tensor.data;
        data_bytes += tensor.size_bytes();
      }
      const auto header = static_cast<int64_t>(std::filesystem::file_size(file)) - data_bytes;
      for (const auto& [name, tensor] : files.tensors()) {
        if (name.rfind(prefix, 0) != 0 || !name.ends_with(suffix)) continue;
        std::vector<float> values(static_cast<size_t>(num_elements(tensor.shape)));
        std::memcpy(values.data(), tensor.data, values.size() * sizeof(float));
        change(values);
        changed.emplace_back(header + (tensor.data - first), std::move(values));
      }
    }
    ASSERT_FALSE(changed.empty());
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    for (const auto& [offset, values] : changed) {
      stream.seekp(offset);
      stream.write(reinterpret_cast<const char*>(values.data()),
                   static_cast<std::streamsize>(values.size() * sizeof(float)));
    }
  }
  report::Health check() {
    Progress progress;
    return check_checkpoint(save_, kRoot / "models/qwen3-tiny", text_, progress);
  }

  test::TemporaryDirectory directory_;
  const std::filesystem::path save_ = directory_ / "out";
  HealthText text_;
  RunResult result_;
};

TEST_F(CheckCheckpoint, CallsW8A8GoodOnTextItWasNotCalibratedOn) {
  quantize("qwen3-tiny-w8a8");
  const report::Health health = check();
  EXPECT_EQ(eval::judge(health.figures).verdict, eval::Verdict::kGood);
  EXPECT_FALSE(health.calibrated);
  // A model so small has the whole check, whatever the run costs.
  EXPECT_EQ(health.figures.num_tokens, HealthSize{}.tokens());
  EXPECT_FALSE(health.figures.continuations.empty());
  EXPECT_LT(health.figures.kl_mean, 0.01);
  // The basis was rotated and the check found it: bf16 rounding of the embedding is what is left.
  EXPECT_GT(health.figures.embedding_error, 1e-4);
  EXPECT_LT(health.figures.embedding_error, 3e-3);
  // Rotation lowers the outliers of what reads the residual stream.
  for (const eval::LayerHealth& layer : health.figures.layers)
    EXPECT_LT(layer.after[0].max_to_rms, layer.before[0].max_to_rms);
}

TEST_F(CheckCheckpoint, CostsAtMostATenthOfTheRestOrLittle) {
  for (const std::string recipe : {"w8a8", "w4a4-rtn", "w4a4-rotation", "w4a4-fast", "w4a4"}) {
    SCOPED_TRACE(recipe);
    QuantOptions options;
    options.model_path = kRoot / "models/qwen3-tiny";
    options.save_path = save_;
    options.recipe_path = kRoot / "recipes" / ("qwen3-tiny-" + recipe + ".yaml");
    options.model_type = "qwen3-tiny";
    options.calib_directories = {kRoot / "calib"};
    const Plan plan = make_plan(options);
    const PlanCosts costs = costs_of(plan);
    EXPECT_LE(costs.health, std::max(kFreeHealthFlops, 0.1 * (costs.total() + costs.save)));
    EXPECT_EQ(health_size(plan, costs), HealthSize{});  // of a small model
    // Of wider layers whose steps cost no more: first without continuations, then in shorter
    // windows, then in fewer, of which one is left.
    HealthSize before;
    for (PlanCosts wider = costs; before.tokens() > kLeastHealthWindowTokens;
         wider.per_token *= 1.1) {
      const HealthSize size = health_size(plan, wider);
      EXPECT_LE(size.passes, before.passes);
      EXPECT_TRUE(size.window_tokens == kHealthWindowTokens || size.passes == 0);
      EXPECT_TRUE(size.windows == kHealthWindows || size.window_tokens == kLeastHealthWindowTokens);
      EXPECT_LE(size.tokens(), before.tokens());
      before = size;
    }
    EXPECT_EQ(before, (HealthSize{1, kLeastHealthWindowTokens, 0}));
    // It stands in the plan's time.
    const Estimate whole = estimate(plan);
    EXPECT_GT(whole.health_seconds, 0);
    EXPECT_LT(whole.health_seconds, whole.seconds);
    options.checks = false;
    EXPECT_EQ(costs_of(make_plan(options)).health, 0);
  }
}

TEST_F(CheckCheckpoint, FindsTheSameWithTheRotationThatTheRunKnowsAndWithout) {
  quantize("qwen3-tiny-w8a8");
  Progress progress;
  const report::Health found = check(),
                       known = check_checkpoint(save_, kRoot / "models/qwen3-tiny", text_, progress,
                                                &result_.rotation);
  ASSERT_GT(result_.rotation.size(), 0);
  EXPECT_EQ(found.figures.kl_mean, known.figures.kl_mean);
  EXPECT_NEAR(found.figures.embedding_error, known.figures.embedding_error, 1e-4);
  for (size_t i = 0; i < known.figures.layers.size(); ++i)
    EXPECT_NEAR(found.figures.layers[i].error, known.figures.layers[i].error,
                0.05 * known.figures.layers[i].error);
}

TEST_F(CheckCheckpoint, NamesTheLayerFirstWhoseScalesAreSpoiled) {
  quantize("qwen3-tiny-w8a8");
  spoil(5, "proj", [](auto& scales) {
    for (float& scale : scales) scale *= 1.5f;
  });
  const eval::Judgement judgement = eval::judge(check().figures);
  EXPECT_EQ(judgement.verdict, eval::Verdict::kBroken);
  EXPECT_EQ(judgement.worst.front(), 5);
  EXPECT_THAT(judgement.reasons.front(), HasSubstr("model.layers.5"));
}

TEST_F(CheckCheckpoint, SlowFindsScalesSpoiledInManyWays) {
  using Scales = std::vector<float>;
  const std::tuple<const char*, const char*, std::function<void(Scales&)>> ways[] = {
      {"doubled", "proj",
       [](Scales& s) {
         for (float& x : s) x *= 2;
       }},
      {"a fifth more", "proj",
       [](Scales& s) {
         for (float& x : s) x *= 1.2f;
       }},
      {"zero", "proj", [](Scales& s) { std::fill(s.begin(), s.end(), 0.0f); }},
      {"reversed", "down_proj", [](Scales& s) { std::reverse(s.begin(), s.end()); }},
      {"one a hundredfold", "o_proj", [](Scales& s) { s[7] *= 100; }},
      {"one NaN", "up_proj", [](Scales& s) { s[7] = std::nanf(""); }}};
  quantize("qwen3-tiny-w8a8");
  const std::filesystem::path file = hf::top_level_safetensors(save_).front(),
                              copy = directory_ / "copy.safetensors";
  std::filesystem::copy_file(file, copy);
  for (const int64_t layer : {0, 5}) {
    for (const auto& [how, linear, change] : ways) {
      spoil(layer, linear, change);
      const eval::Judgement judgement = eval::judge(check().figures);
      EXPECT_NE(judgement.verdict, eval::Verdict::kGood) << how << " in layer " << layer;
      EXPECT_EQ(judgement.worst.front(), layer) << how;
      ASSERT_FALSE(judgement.reasons.empty());
      EXPECT_THAT(judgement.reasons.front(), HasSubstr("model.layers." + std::to_string(layer)));
      std::filesystem::copy_file(copy, file, std::filesystem::copy_options::overwrite_existing);
    }
  }
}

TEST_F(CheckCheckpoint, RefusesTheCheckpointOfAnotherModel) {
  quantize("qwen3-tiny-w8a8");
  Progress progress;
  EXPECT_THROW(check_checkpoint(save_, directory_ / "nothing", text_, progress), Error);
}

TEST_F(CheckCheckpoint, EmulatedEngineRoundsToItsTypesAndShowsWhereF16Overflows) {
  quantize("qwen3-tiny-w4a4-rtn");
  eval::Windows windows(2);
  for (size_t w = 0; w < windows.size(); ++w)
    for (int32_t i = 0; i < 40; ++i)
      windows[w].ids.push_back(static_cast<int32_t>(w) * 100 + 17 * i);
  const auto exact = eval::open_eval_model(save_),
             engine = eval::open_eval_model(save_, eval::Arithmetic::kVllmAscend);
  EXPECT_EQ(exact->emulation(), nullptr);
  const eval::ScoredHidden hidden = eval::scored_hidden(*engine, windows);
  for (int64_t i = 0; i < hidden.rows.size(); ++i)
    ASSERT_EQ(hidden.rows.data()[i], round_to(DType::kBF16, hidden.rows.data()[i]));
  // bfloat16 between operations moves the model, and not far.
  const eval::Comparison c = eval::compare(hidden, eval::scored_hidden(*exact, windows), windows);
  EXPECT_GT(c.divergence.kl.value, 1e-5);
  EXPECT_LT(c.divergence.kl.value, 0.1);
  const auto& peaks = engine->emulation()->w4a4_peaks;
  EXPECT_EQ(peaks.size(), 16u);  // gate_proj and up_proj of eight layers
  for (const auto& [linear, peak] : peaks) EXPECT_LT(peak, 1000) << linear;

  spoil(3, "up_proj", [](auto& scales) {
    for (float& scale : scales) scale *= 1e6f;
  });
  const auto spoiled = eval::open_eval_model(save_, eval::Arithmetic::kVllmAscend);
  eval::scored_hidden(*spoiled, windows);
  for (const auto& [linear, peak] : spoiled->emulation()->w4a4_peaks)
    if (linear < "model.layers.3.mlp.up_proj") {
      EXPECT_LT(peak, eval::kF16Overflow) << linear;
    }
  EXPECT_GE(spoiled->emulation()->w4a4_peaks.at("model.layers.3.mlp.up_proj"), eval::kF16Overflow);
}

}  // namespace
}  // namespace laos::pipeline
