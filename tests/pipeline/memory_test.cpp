// What a run takes and may take: --max-memory, --tmp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "core/units.h"
#include "pipeline/quant_options.h"
#include "pipeline/run.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using ::testing::HasSubstr;

// Samples that are too long to go through a layer at once.
class Memory : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny"), .seed = 3}, directory_ / "model");
    std::ofstream calib(directory_ / "calib.jsonl");
    for (int s = 0; s < 9; ++s) {
      std::string text;
      while (text.size() < 1200u + 400u * static_cast<size_t>(s))
        text += "word " + std::to_string(text.size() * 7) + " ";
      calib << R"({"inputs_pretokenized": ")" << text << "\"}\n";
    }
    calib.close();
    std::ofstream(directory_ / "recipe.yaml") << R"(
apiversion: modelslim_v1
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 2}]
  process:
    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}
    - type: autoround_quant
      iters: 2
      strategies:
        - include: ["*"]
          qconfig:
            weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
            act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";
  }

  QuantOptions options(const std::string& save_path) const {
    return quant_options(directory_.path(), save_path);
  }

  std::string weights(const QuantOptions& options) const {
    Progress progress;
    run(make_plan(options), progress);
    std::stringstream content;
    content << std::ifstream(options.save_path / "quant_model_weights-00001-of-00001.safetensors",
                             std::ios::binary)
                   .rdbuf();
    return content.str();
  }

  test::TemporaryDirectory directory_;
};

TEST_F(Memory, ThatIsShortGivesTheSameBytesInPieces) {
  const std::string expected = weights(options("whole"));
  ASSERT_FALSE(expected.empty());
  QuantOptions tight = options("pieces");
  tight.max_memory = peak_ram_bytes(make_plan(tight)) - 1;
  const Plan plan = make_plan(tight);
  EXPECT_LT(peak_ram_bytes(plan), tight.max_memory);
  EXPECT_EQ(weights(tight), expected);
}

TEST_F(Memory, ThatIsTooLittleIsRefusedWithWhatIsNeeded) {
  QuantOptions tight = options("out");
  tight.max_memory = 1'000'000;
  Plan in_pieces = make_plan(options("out"));
  in_pieces.steps.back()->save_memory(1);
  try {
    make_plan(tight);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResource);
    EXPECT_THAT(error.what(), HasSubstr("--max-memory"));
    EXPECT_THAT(error.what(), HasSubstr(bytes_text(peak_ram_bytes(in_pieces))));
  }
  EXPECT_FALSE(std::filesystem::exists(tight.save_path));
}

TEST_F(Memory, OfHiddenStatesIsAFileThatThePlanPricesAndNobodySees) {
  const Plan plan = make_plan(options("out"));
  int64_t tokens = 0;
  for (const std::vector<int32_t>& sample : *plan.samples) tokens += std::ssize(sample);
  int64_t layer = 0;  // weights of a layer
  for (const PlannedLinear& linear : plan.linears)
    if (linear.layer_idx == 0)
      layer += model::out_features(plan.checkpoint.config(), linear.linear) *
               model::in_features(plan.checkpoint.config(), linear.linear);
  EXPECT_EQ(scratch_bytes(plan), 2 * 4 * tokens * 64 + 6 * layer);
  QuantOptions elsewhere = options("elsewhere");
  elsewhere.scratch_path = directory_ / "tmp";
  EXPECT_THROW(make_plan(elsewhere), Error);
  std::filesystem::create_directory(elsewhere.scratch_path);
  EXPECT_EQ(weights(elsewhere), weights(options("out")));
  EXPECT_TRUE(std::filesystem::is_empty(elsewhere.scratch_path));
}

}  // namespace
}  // namespace laos::pipeline
