#include "eval/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "hf/dataset.h"
#include "hf/tokenizer.h"

namespace laos::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Eight sound layers of 4-bit linears and a small divergence.
Health sound() {
  Health health;
  health.kl_mean = 0.05;
  health.top1_agreement = 0.9;
  for (int i = 0; i < 8; ++i)
    health.layers.push_back({.labels = "w4", .error = 0.1 + 0.01 * i, .drift = 0.1});
  return health;
}

TEST(Judge, CallsASoundCheckpointGoodAndRanksItsLayersWorstFirst) {
  const Judgement judgement = judge(sound());
  EXPECT_EQ(judgement.verdict, Verdict::kGood);
  EXPECT_THAT(judgement.reasons, IsEmpty());
  EXPECT_THAT(judgement.worst, ElementsAre(7, 6, 5, 4, 3, 2, 1, 0));
}

TEST(Judge, CallsNaNInATensorALayerOrTheLogitsBroken) {
  Health tensor = sound(), layer = sound(), logits = sound();
  tensor.not_finite = {"lm_head.weight"};
  layer.layers[2].error = std::nan("");
  logits.kl_mean = std::nan("");
  for (const Health& health : {tensor, layer, logits})
    EXPECT_EQ(judge(health).verdict, Verdict::kBroken);
  EXPECT_THAT(judge(tensor).reasons.front(), HasSubstr("lm_head.weight"));
  EXPECT_EQ(judge(layer).worst.front(), 2);
}

TEST(Judge, DrawsItsLinesWhereItsBoundsSay) {
  const auto verdict = [](auto&& change) {
    Health health = sound();
    change(health);
    return judge(health).verdict;
  };
  EXPECT_EQ(verdict([](Health& h) { h.kl_mean = kDegradedKl; }), Verdict::kGood);
  EXPECT_EQ(verdict([](Health& h) { h.kl_mean = kDegradedKl * 1.01; }), Verdict::kDegraded);
  EXPECT_EQ(verdict([](Health& h) { h.kl_mean = kBrokenKl * 1.01; }), Verdict::kBroken);
  EXPECT_EQ(verdict([](Health& h) { h.top1_agreement = kDegradedTop1 - 0.01; }),
            Verdict::kDegraded);
  EXPECT_EQ(verdict([](Health& h) { h.embedding_error = kBrokenEmbedding * 1.01; }),
            Verdict::kBroken);
  // Where all layers are alike, none stands out and the error itself counts.
  const auto all = [&](double error) {
    return verdict([&](Health& h) {
      for (LayerHealth& layer : h.layers) layer.error = error;
    });
  };
  EXPECT_EQ(all(kDegradedLayer), Verdict::kGood);
  EXPECT_EQ(all(kDegradedLayer * 1.01), Verdict::kDegraded);
  EXPECT_EQ(all(kBrokenLayer * 1.01), Verdict::kBroken);
}

TEST(Judge, ComparesALayerWithThoseOfItsLabelsOnly) {
  Health health = sound();
  health.layers[3].error = 0.47;  // over three times its peers' median of 0.15
  const Judgement judgement = judge(health);
  EXPECT_EQ(judgement.verdict, Verdict::kDegraded);
  EXPECT_THAT(judgement.reasons, ElementsAre(HasSubstr("model.layers.3")));
  health.layers[3].labels = "w2";
  EXPECT_EQ(judge(health).verdict, Verdict::kGood);
  // Eight-bit layers a hundred times better than the rest are no reason to complain of the rest.
  for (int i = 4; i < 8; ++i)
    health.layers[static_cast<size_t>(i)] = {.labels = "w8", .error = 0.001, .drift = 0.1};
  EXPECT_EQ(judge(health).verdict, Verdict::kGood);
}

TEST(GreedyContinuations, AreTheSameWhateverTheDraft) {
  const std::filesystem::path root = LAOS_SOURCE_DIR, directory = root / "models/qwen3-tiny";
  const hf::Tokenizer tokenizer = hf::Tokenizer::load(directory);
  const std::unique_ptr<EvalModel> model = open_eval_model(directory);
  const std::vector<std::vector<int32_t>> prompts = {
      tokenizer.encode("In the beginning God created the heaven and"),
      tokenizer.encode("And it came to")};
  const auto expected = greedy_continuations(*model, prompts, 6, {});
  ASSERT_EQ(expected.size(), 2u);
  EXPECT_EQ(expected[0].size(), 6u);
  // One token after the other, by the definition.
  for (size_t p = 0; p < prompts.size(); ++p) {
    std::vector<int32_t> sequence = prompts[p];
    sequence.insert(sequence.end(), expected[p].begin(), expected[p].end() - 1);
    EXPECT_EQ(greedy_continuations(*model, {sequence}, 1, {})[0][0], expected[p].back());
  }
  EXPECT_EQ(greedy_continuations(*model, prompts, 6, expected), expected);
  std::vector<std::vector<int32_t>> wrong = expected, longer = expected;
  wrong[0][2] = 17;
  wrong[1].clear();
  longer[0].resize(50, 3);
  EXPECT_EQ(greedy_continuations(*model, prompts, 6, wrong), expected);
  EXPECT_EQ(greedy_continuations(*model, prompts, 6, longer), expected);
  EXPECT_THAT(tokenizer.decode(expected[0]), HasSubstr("the earth"));
}

TEST(CheckHealth, OfAFloatCheckpointAgainstItselfFindsNothing) {
  const std::filesystem::path root = LAOS_SOURCE_DIR, model = root / "models/qwen3-tiny";
  Windows windows(1);
  windows[0].ids = hf::load_dataset(root / "calib/health.jsonl", model).samples.at(0);
  windows[0].ids.resize(40);
  const std::unique_ptr<EvalModel> exact = open_eval_model(model);
  const Health health = check_health(model, *exact, *exact, windows);
  EXPECT_EQ(health.num_tokens, 40);
  EXPECT_EQ(health.kl_mean, 0);
  EXPECT_EQ(health.top1_agreement, 1);
  EXPECT_EQ(health.embedding_error, 0);
  ASSERT_EQ(health.layers.size(), 8u);
  for (const LayerHealth& layer : health.layers) {
    EXPECT_EQ(layer.error, 0);
    EXPECT_EQ(layer.drift, 0);
    EXPECT_EQ(layer.before, layer.after);
    EXPECT_GT(layer.before[0].max_to_rms, 1);
  }
}

}  // namespace
}  // namespace laos::eval
