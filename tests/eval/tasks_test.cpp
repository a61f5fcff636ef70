#include "eval/tasks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/threads.h"

namespace laos::eval {
namespace {

using ::testing::ElementsAre;

const std::filesystem::path kHome = LAOS_SOURCE_DIR;
const std::filesystem::path kBundled = kHome / "models/qwen3-tiny";

hf::TaskItem choice(const std::string& question, std::vector<std::string> choices, size_t right,
                    const std::string& task = "") {
  return {.task = task,
          .context = question,
          .answers = std::move(choices),
          .right = right,
          .delimiter = " ",
          .where = "here"};
}

TEST(PairEncoder, ScoresWhatComesBehindTheContextWithItsLastSpace) {
  const PairEncoder encoder(kBundled);
  const Window pair = encoder.encode("In the beginning ", "God");
  EXPECT_EQ(encoder.tokenizer().decode(pair.ids), "In the beginning God");
  EXPECT_EQ(pair, encoder.encode("In the beginning", " God"));
  EXPECT_EQ(pair.num_context, std::ssize(encoder.tokenizer().encode("In the beginning")));
  // Both together may be fewer tokens than the context alone.
  EXPECT_GE(encoder.encode("beg", "inning").num_scored(), 1);
  // One token together, which stands behind that of a text's beginning.
  ASSERT_EQ(std::ssize(encoder.tokenizer().encode("th")), 1);
  EXPECT_EQ(encoder.encode("t", "h"), encoder.encode("", "th"));
  // Behind nothing: the token at the end of texts, for the model has none for their beginning.
  const Window alone = encoder.encode("", "God");
  EXPECT_EQ(alone.ids.front(), 4093);
  EXPECT_EQ(alone.num_context, 1);
  EXPECT_THROW(encoder.encode("God", ""), Error);
  EXPECT_THROW(encoder.encode("God", "\xff"), Error);
}

TEST(Fit, CutsContextsAtTheirBeginningAndLongTextsIntoWindows) {
  const Window pair = {.ids = {0, 1, 2, 3, 4, 5}, .num_context = 4};
  EXPECT_THAT(fit(pair, 0), ElementsAre(pair));
  EXPECT_THAT(fit(pair, 5), ElementsAre(pair));
  EXPECT_THAT(fit(pair, 3), ElementsAre(Window{.ids = {2, 3, 4, 5}, .num_context = 2}));
  EXPECT_THROW(fit(pair, 1), Error);
  const Window text = {.ids = {0, 1, 2, 3, 4, 5}, .num_context = 1};
  EXPECT_THAT(fit(text, 3), ElementsAre(Window{.ids = {0, 1, 2, 3}, .num_context = 1},
                                        Window{.ids = {2, 3, 4, 5}, .num_context = 2}));
}

// tests/golden/loglikelihood.jsonl, made by transformers in f32.
TEST(Likelihoods, EqualThoseOfTransformers) {
  const PairEncoder encoder(kBundled);
  const std::unique_ptr<EvalModel> model = open_eval_model(kBundled);
  std::ifstream file(kHome / "tests/golden/loglikelihood.jsonl");
  std::vector<nlohmann::json> expected;
  Windows windows;
  for (std::string line; std::getline(file, line);) {
    expected.push_back(nlohmann::json::parse(line));
    windows.push_back(encoder.encode(expected.back()["context"].get<std::string>(),
                                     expected.back()["continuation"].get<std::string>()));
  }
  ASSERT_GE(windows.size(), 6U);
  const TokenScores scores = score_tokens(target_hidden(*model, windows), nullptr, windows);
  const std::vector<Likelihood> found = likelihoods(scores.nll, scores.hits, windows);
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i].logprob, expected[i]["logprob"].get<double>(), 1e-3) << i;
    EXPECT_EQ(found[i].greedy, expected[i]["greedy"].get<bool>()) << i;
  }
}

TEST(RunTasks, AnswersWhatTheModelKnowsTheSameOnAnyThreads) {
  const PairEncoder encoder(kBundled);
  const std::unique_ptr<EvalModel> model = open_eval_model(kBundled);
  const std::vector<hf::TaskItem> items = {
      choice("And God said, Let there be", {"light", "sheep of gold upon a hill"}, 0),
      choice("And God said, Let there be", {"sheep", "light"}, 0),
      {.kind = hf::TaskKind::kCloze,
       .context = "And it came to",
       .answers = {"pass"},
       .delimiter = " "},
      {.kind = hf::TaskKind::kCloze,
       .context = "And it came to",
       .answers = {"naught"},
       .delimiter = " "},
      {.kind = hf::TaskKind::kGenerate, .context = "And it came to", .answers = {" pass,\n"}}};
  const std::vector<EncodedItem> encoded = encode_items(items, encoder, 0);
  const auto run = [&](int threads, int64_t tokens) {
    set_num_threads(threads);
    int64_t steps = 0;
    const TaskAnswers answers =
        run_tasks({model.get()}, nullptr, items, encoded, encoder.tokenizer(),
                  {.max_new_tokens = tokens}, [&](int64_t done, int64_t total) {
                    EXPECT_EQ(done, ++steps);
                    EXPECT_EQ(total, 8 + 1);  // layers, and what is generated
                  })[0];
    EXPECT_EQ(steps, 9);
    return answers;
  };
  const TaskAnswers answers = run(1, 2);
  EXPECT_TRUE(answers[0].right);
  EXPECT_FALSE(answers[1].right);
  EXPECT_EQ(answers[1].choice, 1U);
  EXPECT_TRUE(answers[2].right);
  EXPECT_FALSE(answers[3].right);
  EXPECT_EQ(answers[4].text, "pass,");
  EXPECT_TRUE(answers[4].right);
  const TaskAnswers others = run(3, 2);
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i].logprob, others[i].logprob);
  EXPECT_FALSE(run(1, 1)[4].right);
}

TEST(RunTasks, OfAModelBesideItselfChangesNothing) {
  const PairEncoder encoder(kBundled);
  const std::unique_ptr<EvalModel> model = open_eval_model(kBundled);
  const std::vector<hf::TaskItem> items = {choice("And God said", {"unto Moses", "nothing"}, 1),
                                           choice("The LORD is my", {"shepherd", "horn"}, 0)};
  const std::vector<TaskAnswers> answers = run_tasks(
      {model.get()}, model.get(), items, encode_items(items, encoder, 0), encoder.tokenizer(), {});
  const TaskSummary all = summarize_tasks(items, answers[0], &answers[1]).back();
  EXPECT_EQ(all.lost + all.gained + all.changed, 0);
  EXPECT_EQ(all.num_likelihoods, 2);
  EXPECT_EQ(all.logprob_change.value, 0);
  EXPECT_EQ(all.kl.value, 0);
  EXPECT_LT(answers[1][0].logprob, 0);
}

TEST(RunTasks, NormalisesByCharactersAndNotByBytes) {
  const PairEncoder encoder(kBundled);
  const std::unique_ptr<EvalModel> model = open_eval_model(kBundled);
  const std::vector<hf::TaskItem> items = {choice("God", {"said", "\u00e9\u00e9\u00e9"}, 0)};
  const std::vector<EncodedItem> encoded = encode_items(items, encoder, 0);
  const TaskAnswers answers =
      run_tasks({model.get()}, nullptr, items, encoded, encoder.tokenizer(), {})[0];
  EXPECT_TRUE(answers[0].right_normalised);
  EXPECT_THROW(encode_items(items, encoder, 2), Error);
}

TEST(SummarizeTasks, CountsByTaskWhatFlippedAndTheErrorOfTheMeans) {
  const std::vector<hf::TaskItem> items = {
      choice("", {"a", "b", "c"}, 0, "x"),
      choice("", {"a", "b", "c"}, 0, "x"),
      choice("", {"a", "b", "c"}, 0, "y"),
      {.kind = hf::TaskKind::kGenerate, .task = "y", .answers = {"a"}}};
  const auto picked = [](size_t c, double logprob) {
    return TaskAnswer{.right = c == 0,
                      .right_normalised = true,
                      .choice = c,
                      .text = "",
                      .logprob = logprob,
                      .kl = {0.5, 0.25 * static_cast<double>(c)}};
  };
  TaskAnswers before = {picked(0, -1), picked(1, -2), picked(1, -3), {}};
  TaskAnswers now = {picked(1, -2), picked(0, -1), picked(2, -4), {}};
  before[3].text = "b";
  now[3].text = "c";
  const std::vector<TaskSummary> all = summarize_tasks(items, now, &before);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].task, "x");
  EXPECT_EQ(all[0].num_items, 2);
  EXPECT_EQ(all[0].lost, 1);
  EXPECT_EQ(all[0].gained, 1);
  EXPECT_EQ(all[0].changed, 2);
  EXPECT_DOUBLE_EQ(all[0].accuracy.value, 0.5);
  EXPECT_DOUBLE_EQ(all[0].accuracy.std_error, 0.5);
  EXPECT_EQ(all[1].task, "y");
  EXPECT_EQ(all[1].num_choice, 1);
  EXPECT_EQ(all[1].changed, 2);
  EXPECT_EQ(all[1].lost + all[1].gained, 0);
  EXPECT_DOUBLE_EQ(all[1].logprob_change.value, -1);
  EXPECT_TRUE(std::isnan(all[1].logprob_change.std_error));
  EXPECT_EQ(all[2].task, "all");
  EXPECT_EQ(all[2].num_items, 4);
  EXPECT_EQ(all[2].num_likelihoods, 3);
  EXPECT_DOUBLE_EQ(all[2].accuracy.value, 0.25);
  EXPECT_DOUBLE_EQ(all[2].accuracy_normalised.value, 1);
  EXPECT_DOUBLE_EQ(all[2].kl.value, (0.5 * 3 + 0.25 + 0 + 0.5) / 6);
  EXPECT_EQ(summarize_tasks({items[0], items[1]}, {now[0], now[1]}, nullptr).size(), 1U);
}

}  // namespace
}  // namespace laos::eval
