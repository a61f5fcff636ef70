#include "eval/generate.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "core/threads.h"
#include "eval/health.h"
#include "hf/tokenizer.h"

namespace laos::eval {
namespace {

const std::filesystem::path kModel = std::filesystem::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";

using Ids = std::vector<int32_t>;

std::vector<Ids> ids_of(const std::vector<Generated>& results) {
  std::vector<Ids> ids;
  for (const Generated& result : results) ids.push_back(result.ids);
  return ids;
}

class Generate : public testing::Test {
 protected:
  std::vector<Ids> ids(const GenerateOptions& options) const {
    return ids_of(generator_.run(prompts_, options));
  }

  const std::unique_ptr<EvalModel> model_ = open_eval_model(kModel);
  const Generator generator_{*model_};
  const hf::Tokenizer tokenizer_ = hf::Tokenizer::load(kModel);
  const std::vector<Ids> prompts_ = {tokenizer_.encode("In the beginning God"),
                                     tokenizer_.encode("And"),
                                     tokenizer_.encode("The LORD is my shepherd; I shall not")};
};

TEST_F(Generate, GreedyTextIsWhatTheModelFindsLikeliest) {
  // The same by another path: everything computed anew with the library's products.
  EXPECT_EQ(ids({.max_new_tokens = 24}), greedy_continuations(*model_, prompts_, 24, {}));
}

TEST_F(Generate, TokensAreTheSameWithAndWithoutCacheInAnyBatchOnAnyThreads) {
  for (const double temperature : {0.0, 1.2}) {
    GenerateOptions options = {.sampling = {.temperature = temperature, .seed = 5},
                               .max_new_tokens = 20};
    set_num_threads(1);
    const std::vector<Ids> expected = ids(options);
    options.kv_cache = false;
    EXPECT_EQ(ids(options), expected);
    set_num_threads(3);
    options.batch = 1;
    EXPECT_EQ(ids(options), expected);
    options.kv_cache = true;
    options.batch = 2;
    EXPECT_EQ(ids(options), expected);
  }
}

TEST_F(Generate, PromptsLongerThanAPieceAreReadInPieces) {
  std::string text;
  while (text.size() < 6000) text += "And it came to pass in those days, that he went out. ";
  Ids prompt = tokenizer_.encode(text);
  ASSERT_GT(prompt.size(), 1100U);
  prompt.resize(1100);
  const std::vector<Ids> prompts = {prompts_[0], prompt, prompts_[1]};
  const std::vector<Ids> all = ids_of(generator_.run(prompts, {.max_new_tokens = 6}));
  EXPECT_EQ(all, greedy_continuations(*model_, prompts, 6, {}));
}

TEST_F(Generate, StopsBeforeAStopTokenAndAtTheLastPosition) {
  const std::vector<Ids> free = ids({.max_new_tokens = 12});
  const std::vector<Generated> stopped =
      generator_.run(prompts_, {.max_new_tokens = 12, .stop_ids = {free[0][5]}});
  EXPECT_EQ(stopped[0].finish, Generated::Finish::kStop);
  EXPECT_EQ(stopped[0].ids,
            Ids(free[0].begin(), std::find(free[0].begin(), free[0].end(), free[0][5])));

  const int64_t positions = model_->config().max_position_embeddings;
  Ids prompt;
  while (std::ssize(prompt) < positions - 2)
    prompt.insert(prompt.end(), prompts_[2].begin(), prompts_[2].end());
  prompt.resize(static_cast<size_t>(positions - 2));
  const Generated last = generator_.run({prompt}, {.max_new_tokens = 12}).front();
  EXPECT_EQ(last.finish, Generated::Finish::kContext);
  EXPECT_EQ(last.ids.size(), 3U);  // two are run, the third is only chosen
  prompt.resize(static_cast<size_t>(positions + 1), 0);
  EXPECT_THROW(generator_.run({prompt}, {}), Error);
}

TEST_F(Generate, CallsBackWithEveryToken) {
  std::vector<Ids> heard(prompts_.size());
  const std::vector<Generated> results =
      generator_.run(prompts_, {.max_new_tokens = 9, .batch = 2},
                     [&](size_t prompt, int32_t token) { heard[prompt].push_back(token); });
  EXPECT_EQ(heard, ids_of(results));
  EXPECT_EQ(results[0].ids.size(), 9U);
  EXPECT_EQ(results[0].finish, Generated::Finish::kLength);
}

TEST_F(Generate, MemoryIsThatOfTheLargestBatch) {
  const int64_t token = 2 * 4 * 8 * 2 * 64;  // keys and values, f32, layers, heads, head_dim
  const auto cache = [&](int64_t batch) {
    return generator_.memory(prompts_, {.max_new_tokens = 10, .batch = batch}).kv_cache;
  };
  const auto size = [&](size_t i) { return std::ssize(prompts_[i]) + 9; };
  EXPECT_EQ(cache(1), token * size(2));
  EXPECT_EQ(cache(2), token * std::max(size(0) + size(1), size(2)));
  EXPECT_EQ(cache(3), token * (size(0) + size(1) + size(2)));
  EXPECT_EQ(generator_.memory(prompts_, {}).weights, 2 * 7'345'408);
}

}  // namespace
}  // namespace laos::eval
