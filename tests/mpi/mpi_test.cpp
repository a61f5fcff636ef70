// The program on several ranks: the bytes of one process, whatever happens to the ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>
#include <tuple>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

// Every kind of step, so that layers look at activations in every way there is.
constexpr const char* kMixedRecipe = R"(apiversion: modelslim_v1
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
w4g: &w4g
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 3, layer_type: [up_proj]}]
  process:
    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}
    - {type: iter_smooth, alpha: 0.5, enable_subgraph_type: [ov, up-down]}
    - type: autoround_quant
      iters: 2
      strategies:
        - {qconfig: *w8, include: ["*self_attn*"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]}
    - {type: gptq_quant, strategies: [{qconfig: *w4g, include: ["*.down_proj"]}]}
  kv_cache: {dtype: int8}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";

// Layers that only train, on the samples they draw.
constexpr const char* kTrainRecipe = R"(apiversion: modelslim_v1
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 2, layer_type: [up_proj]}]
  process:
    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}
    - {type: autoround_quant, iters: 2, strategies: [{qconfig: *w4, include: ["*"]}]}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";

// Of a model with experts.
constexpr const char* kExpertRecipe = R"(apiversion: modelslim_v1
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
spec:
  process:
    - {type: quarot}
    - {type: gptq_quant, refit: true, strategies: [{qconfig: *w4, include: ["*.experts.*"]}]}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";

std::string content_of(const fs::path& file) {
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

int64_t count_of(const std::string& part, const std::string& text) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Through the shell; what the command leaves of stdout and stderr.
test::CommandResult run_shell(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  test::CommandResult result;
  std::array<char, 4096> piece;
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
    result.output.append(piece.data(), count);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

class Ranks : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string(LAOS_MPIRUN).empty()) GTEST_SKIP() << "this build is without MPI";
    test::write_synthetic({.config = test::qwen3_config("tiny", 5), .seed = 3},
                          directory_ / "model");
    model_ = directory_ / "model";
    recipe(kMixedRecipe);
    std::ofstream calib(directory_ / "calib.jsonl");
    // More than one piece of forward_all, or there is nothing to share.
    for (int i = 0; i < 60; ++i) {
      calib << "{\"inputs_pretokenized\": \"";
      for (int j = 0; j < 20 + i % 7; ++j) calib << "word " << i * j << " and more, ";
      calib << "\"}\n";
    }
  }

  void recipe(const std::string& text) {
    recipe_ = directory_ / "recipe.yaml";
    std::ofstream(recipe_) << text;
  }

  static std::string mpirun(int ranks) {
    return "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 "
           "OMP_WAIT_POLICY=passive ASAN_OPTIONS=detect_leaks=0 '" LAOS_MPIRUN
           "' --oversubscribe --bind-to none -n " +
           std::to_string(ranks) + " ";
  }
  std::string arguments(const std::string& save_path) const {
    return "quant --no-health --model-type tiny --model-path '" + model_.string() +
           "' --config-path '" + recipe_.string() + "' --save-path '" +
           (directory_ / save_path).string() + "'";
  }
  test::CommandResult quantize(const std::string& save_path, int ranks) const {
    return test::run_laos(arguments(save_path), ranks == 0 ? "" : mpirun(ranks));
  }

  // Checksums of all files, which are true; of the directory and those of several formats.
  std::string manifest(const std::string& save_path) const {
    EXPECT_FALSE(fs::exists(directory_ / save_path / ".laos-partial"));
    std::string text;
    for (const char* name : {"", "ascendv1", "compressed-tensors"}) {
      const fs::path checkpoint = directory_ / save_path / name;
      if (!fs::exists(checkpoint / "config.json")) continue;
      EXPECT_EQ(test::run_laos("inspect --verify '" + checkpoint.string() + "'").exit_code, 0);
      text += content_of(checkpoint / "SHA256SUMS");
    }
    EXPECT_FALSE(text.empty());
    return text;
  }

  // mpirun as a child; its ranks are found by a mark in their environment.
  pid_t start(const std::string& save_path, int ranks, const std::string& variables = "") {
    mark_ = "LAOS_TEST_MARK=" + directory_.path().string() + std::to_string(++started_);
    const pid_t child = ::fork();
    if (child != 0) return child;
    const std::string command = mark_ + " " + variables + " exec env " + mpirun(ranks) + "'" +
                                LAOS_BINARY "' " + arguments(save_path) + " >'" +
                                (directory_ / "log").string() + "' 2>&1";
    ::execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  // 0 when it is not there (yet, or any more).
  pid_t process_of(int rank) const {
    const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/proc", error)) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string environment = content_of(entry.path() / "environ");
      if (environment.find(mark_ + '\0') == std::string::npos) continue;
      std::stringstream variables(environment);
      for (std::string line; std::getline(variables, line, '\0');)
        if (line == wanted) return static_cast<pid_t>(std::stol(name));
    }
    return 0;
  }
  static int wait_for(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string log() const { return content_of(directory_ / "log"); }
  template <class F>
  static bool wait_until(F&& holds, int seconds) {
    for (int i = 0; i < 50 * seconds; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  bool wait_until_log_has(const std::string& text, int seconds) const {
    return wait_until([&] { return log().find(text) != std::string::npos; }, seconds);
  }
  void without_end() {
    std::string text = kTrainRecipe;
    text.replace(text.find("iters: 2"), 8, "iters: 1000000");
    recipe(text);
  }

  test::TemporaryDirectory directory_;
  fs::path model_, recipe_;
  std::string mark_;
  int started_ = 0;
};

TEST_F(Ranks, MakeTheBytesOfOneProcess) {
  for (const char* text : {kMixedRecipe, kTrainRecipe}) {
    recipe(text);
    fs::remove_all(directory_ / "reference");
    ASSERT_EQ(quantize("reference", 0).exit_code, 0);
    for (const int ranks : {2, 3}) {
      SCOPED_TRACE(ranks);
      fs::remove_all(directory_ / "out");
      const test::CommandResult result = quantize("out", ranks);
      ASSERT_EQ(result.exit_code, 0) << result.output;
      ASSERT_EQ(manifest("out"), manifest("reference"));
      EXPECT_EQ(count_of("saved     ", result.output), 1) << result.output;
      const auto run = nlohmann::json::parse(content_of(directory_ / "out" / "run.json"));
      ASSERT_EQ(run["ranks"].size(), static_cast<size_t>(ranks));
      int64_t layers = 0, sent = 0, received = 0;
      for (const auto& rank : run["ranks"]) {
        layers += rank["layers"].get<int64_t>();
        sent += rank["sent_bytes"].get<int64_t>();
        EXPECT_LE(rank["wait_seconds"].get<double>(), rank["seconds"].get<double>());
        received += rank["received_bytes"].get<int64_t>();
        EXPECT_GT(rank["layers"], 0);
      }
      EXPECT_EQ(layers, 5);
      EXPECT_GT(sent, 0);
      EXPECT_GT(received, 0);
    }
  }
}

TEST_F(Ranks, MakeTheBytesOfOneProcessOfExperts) {
  fs::remove_all(model_);
  test::write_synthetic({.config = test::qwen3_config("tiny-moe", 4), .seed = 3}, model_);
  std::string trained = kExpertRecipe;
  const std::string solver = "gptq_quant, refit: true";
  trained.replace(trained.find(solver), solver.size(), "autoround_quant, iters: 2");
  trained.replace(trained.find("method: minmax"), 14, "method: autoround");
  for (const std::string& text : {std::string(kExpertRecipe), trained}) {
    recipe(text);
    fs::remove_all(directory_ / "reference");
    ASSERT_EQ(quantize("reference", 0).exit_code, 0);
    for (const int ranks : {1, 2, 3}) {
      SCOPED_TRACE(ranks);
      fs::remove_all(directory_ / "out");
      const test::CommandResult result = quantize("out", ranks);
      ASSERT_EQ(result.exit_code, 0) << result.output;
      EXPECT_EQ(manifest("out"), manifest("reference"));
    }
  }
}

TEST_F(Ranks, MakeTheBytesOfOneProcessOnTheBundledModelSlow) {
  model_ = fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";
  const fs::path recipes = fs::path(LAOS_SOURCE_DIR) / "recipes";
  fs::copy_file(fs::path(LAOS_SOURCE_DIR) / "calib/qwen3-tiny-calib.jsonl",
                directory_ / "qwen3-tiny-calib.jsonl");
  for (const char* name : {"qwen3-tiny-w4a4-rtn", "qwen3-tiny-w4a4-fast", "qwen3-tiny-w4a4"}) {
    SCOPED_TRACE(name);
    std::string text = content_of(recipes / (std::string(name) + ".yaml"));
    if (const size_t at = text.find("iters: 400"); at != std::string::npos)
      text.replace(at, 10, "iters: 2");
    recipe(text);
    fs::remove_all(directory_ / "reference");
    ASSERT_EQ(quantize("reference", 0).exit_code, 0);
    for (const int ranks : {1, 2, 3, 5}) {
      SCOPED_TRACE(ranks);
      fs::remove_all(directory_ / "out");
      const test::CommandResult result = quantize("out", ranks);
      ASSERT_EQ(result.exit_code, 0) << result.output;
      ASSERT_EQ(manifest("out"), manifest("reference"));
    }
  }
}

TEST_F(Ranks, MakeTheBytesOfOneProcessInSeveralFormats) {
  std::string text = kTrainRecipe;
  const std::string saver = "{type: ascendv1_saver}";
  text.insert(text.find(saver), "{type: compressed_tensors_saver}, ");
  recipe(text);
  ASSERT_EQ(quantize("reference", 0).exit_code, 0);
  const test::CommandResult result = quantize("out", 3);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(count_of("saved     ", result.output), 2) << result.output;
  EXPECT_EQ(manifest("out"), manifest("reference"));
}

TEST_F(Ranks, AnyNumberGoesOnAfterAKillWhateverRankItHits) {
  // Long enough for a rank to be killed between layers.
  std::string text = kTrainRecipe;
  text.replace(text.find("iters: 2"), 8, "iters: 40");
  recipe(text);
  ASSERT_EQ(quantize("reference", 0).exit_code, 0);
  for (const int hit : {0, 1}) {
    fs::remove_all(directory_ / "out");
    fs::remove(directory_ / "log");
    const pid_t child = start("out", 2);
    ASSERT_TRUE(wait_until_log_has("layer 1 by rank 0", 60)) << log();
    const pid_t victim = process_of(hit);
    ASSERT_GT(victim, 0);
    ::kill(victim, SIGKILL);
    EXPECT_NE(wait_for(child), 0);
    const auto status = nlohmann::json::parse(
        test::run_laos("status --json '" + (directory_ / "out").string() + "'").output);
    EXPECT_EQ(status["state"], "interrupted");
    EXPECT_GE(status["parts"]["layer"]["done"], 1);
    const test::CommandResult resumed = quantize("out", hit == 0 ? 0 : 3);
    ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
    EXPECT_THAT(resumed.output, HasSubstr("going on with an interrupted run"));
    ASSERT_EQ(manifest("out"), manifest("reference"));
  }
}

// LAOS_KILLS=20 for more of them.
TEST_F(Ranks, AnyNumberGoesOnAfterKillsAtRandomMomentsOnTheBundledModelSlow) {
  const char* wanted = std::getenv("LAOS_KILLS");
  const int64_t kills = wanted == nullptr ? 3 : std::atoll(wanted);
  model_ = fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";
  fs::copy_file(fs::path(LAOS_SOURCE_DIR) / "calib/qwen3-tiny-calib.jsonl",
                directory_ / "qwen3-tiny-calib.jsonl");
  std::string text = content_of(fs::path(LAOS_SOURCE_DIR) / "recipes/qwen3-tiny-w4a4.yaml");
  text.replace(text.find("iters: 400"), 10, "iters: 3");
  recipe(text);
  ASSERT_EQ(quantize("reference", 0).exit_code, 0);
  const std::string reference = manifest("reference");
  std::mt19937 random(8);
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(quantize("timed", 2).exit_code, 0);
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
  for (int64_t killed = 0; killed < kills;) {
    fs::remove_all(directory_ / "out");
    const int ranks = pick(2, 4), hit = pick(0, ranks - 1);
    const pid_t child = start("out", ranks);
    std::this_thread::sleep_for(whole * std::uniform_real_distribution<>(0.05, 1)(random));
    const pid_t victim = process_of(hit);
    if (victim > 0) ::kill(victim, SIGKILL);
    const int exit_code = wait_for(child);
    if (victim > 0 && exit_code != 0) ++killed;
    int again = pick(1, 4);
    if (again == ranks) again = 5;
    // What was done before the kill came is not begun again.
    const test::CommandResult resumed = quantize("out", again);
    ASSERT_EQ(resumed.exit_code, exit_code == 0 ? 2 : 0) << resumed.output;
    ASSERT_EQ(manifest("out"), reference)
        << "kill " << killed << " of rank " << hit << " of " << ranks << ", resumed with " << again;
  }
}

TEST_F(Ranks, AStoppedRankEndsTheJobAndIsNamed) {
  without_end();
  for (const int hit : {1, 0}) {
    fs::remove_all(directory_ / "out");
    fs::remove(directory_ / "log");
    const pid_t child = start("out", 3, "LAOS_RANK_TIMEOUT=5");
    ASSERT_TRUE(wait_until_log_has("fit rotation 2/2", 60)) << log();
    const pid_t victim = process_of(hit);
    ASSERT_GT(victim, 0);
    ::kill(victim, SIGSTOP);
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(wait_for(child), 1);
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(waited.count(), 30);
    EXPECT_THAT(log(), HasSubstr("laos: error: rank " + std::to_string(hit) + " on "));
    EXPECT_THAT(log(), HasSubstr("no sign of life for 5 seconds"));
    EXPECT_EQ(count_of("laos: error: ", log()), 1) << log();
    // The launcher ends it, and need not wait until the system has taken it away.
    EXPECT_TRUE(wait_until([&] { return process_of(hit) == 0; }, 10))
        << "the stopped rank is gone too";
  }
}

TEST_F(Ranks, AnErrorIsToldOnce) {
  // Of all ranks alike, before and after they join.
  for (const auto& [flags, code, text] :
       {std::tuple{"--config-path nowhere.yaml", 1, "nowhere.yaml"},
        std::tuple{"--no-such-flag", 2, "no-such-flag"},
        std::tuple{"--device npu", 2, "--device"}}) {
    const test::CommandResult result =
        test::run_laos("quant --model-path '" + model_.string() + "' --save-path '" +
                           (directory_ / "out").string() + "' " + flags,
                       mpirun(3));
    EXPECT_EQ(result.exit_code, code) << result.output;
    EXPECT_EQ(count_of("laos: error: ", result.output), 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr(text));
  }
  const test::CommandResult other = test::run_laos("recipes", mpirun(2));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_EQ(count_of("laos: error: ", other.output), 1) << other.output;
}

TEST_F(Ranks, AnErrorOnOneRankIsToldOnceAndStopsAll) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  recipe(kTrainRecipe);
  ASSERT_EQ(quantize("reference", 0).exit_code, 0);
  const std::string laos = "'" LAOS_BINARY "' " + arguments("out");
  const std::string command = mpirun(1) + laos +
                              " : --oversubscribe -n 1 -x LD_PRELOAD='" LAOS_FAULTS
                              "' -x LAOS_FAULT_CALL=sync -x LAOS_FAULT_AT=1 -x LAOS_FAULT=EIO " +
                              laos + " 2>&1";
  const test::CommandResult result = run_shell(command);
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_EQ(count_of("laos: error: ", result.output), 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("nput/output error"));
  EXPECT_THAT(result.output, HasSubstr("on:  rank 1"));
  ASSERT_EQ(quantize("out", 2).exit_code, 0);
  EXPECT_EQ(manifest("out"), manifest("reference"));
}

TEST_F(Ranks, OfDifferentInstructionSetsUseTheLeast) {
  if (std::getenv("LAOS_ISA") != nullptr) GTEST_SKIP() << "LAOS_ISA is every rank's";
  recipe(kTrainRecipe);
  ASSERT_EQ(test::run_laos(arguments("reference"), "LAOS_ISA=scalar ").exit_code, 0);
  const std::string laos = "'" LAOS_BINARY "' " + arguments("out");
  const test::CommandResult result =
      run_shell(mpirun(1) + laos + " : --oversubscribe -n 1 -x LAOS_ISA=scalar " + laos + " 2>&1");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("all use what every one has, scalar"));
  EXPECT_EQ(manifest("out"), manifest("reference"));
}

TEST_F(Ranks, ThatDoOtherWorkAreRefused) {
  const std::string first = "'" LAOS_BINARY "' " + arguments("out"), second = first + " --seed 7";
  const test::CommandResult result =
      run_shell(mpirun(1) + first + " : --oversubscribe -n 1 " + second + " 2>&1");
  EXPECT_EQ(result.exit_code, 2) << result.output;
  EXPECT_THAT(result.output, HasSubstr("would not do the same work"));
  EXPECT_THAT(result.output, HasSubstr("different: seed"));
  EXPECT_EQ(count_of("laos: error: ", result.output), 1);
}

TEST_F(Ranks, TakeAModelWhosePathIsNotUtf8) {
  model_ = directory_ / "mod\xff\xfe";
  fs::rename(directory_ / "model", model_);
  std::ofstream(model_ / "notes\xff.txt") << "of the one who made it";
  std::string command = arguments("out");
  command.erase(command.find(" --model-type tiny"), std::string(" --model-type tiny").size());
  const test::CommandResult result = test::run_laos(command, mpirun(2));
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(count_of("defect of laos", result.output), 0);
}

TEST_F(Ranks, MayHaveTheirOwnCopiesOfTheModel) {
  recipe(kTrainRecipe);
  fs::copy(directory_ / "model", directory_ / "copy");
  // A copy of the same tick of the clock could not be told from the original.
  for (const fs::directory_entry& file : fs::directory_iterator(directory_ / "copy"))
    fs::last_write_time(file, file.last_write_time() + std::chrono::seconds(1));
  ASSERT_EQ(quantize("reference", 0).exit_code, 0);
  const std::string shared = "'" LAOS_BINARY "' " + arguments("out");
  std::string copied = shared;
  copied.replace(copied.find(model_.string()), model_.string().size(),
                 (directory_ / "copy").string());
  const auto both = [&](const std::string& flag) {
    return run_shell(mpirun(1) + shared + flag + " : --oversubscribe -n 1 " + copied + flag +
                     " 2>&1");
  };
  const test::CommandResult refused = both("");
  EXPECT_EQ(refused.exit_code, 2) << refused.output;
  EXPECT_THAT(refused.output, HasSubstr("--local-model"));
  const test::CommandResult result = both(" --local-model");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(manifest("out"), manifest("reference"));
}

TEST_F(Ranks, EvaluateToTheFiguresOfOneProcess) {
  std::ofstream text(directory_ / "text.txt");
  for (int i = 0; i < 1500; ++i) text << "word " << i * i << " and another one. ";
  text.close();
  ASSERT_EQ(quantize("out", 0).exit_code, 0);
  const std::string arguments = "'" LAOS_BINARY "' eval --json --model-path '" +
                                (directory_ / "out").string() + "' --baseline '" + model_.string() +
                                "' --text '" + (directory_ / "text.txt").string() +
                                "' --seq-len 64";
  const test::CommandResult one = run_shell(arguments + " 2>/dev/null");
  ASSERT_EQ(one.exit_code, 0) << one.output;
  for (const int ranks : {2, 3}) {
    const test::CommandResult many = run_shell(mpirun(ranks) + arguments + " 2>/dev/null");
    EXPECT_EQ(many.exit_code, 0);
    EXPECT_EQ(many.output, one.output);
  }
}

TEST_F(Ranks, AnalyzeToTheFiguresOfOneProcess) {
  recipe(kTrainRecipe);
  for (const std::string flag : {"", " --kl"}) {
    const std::string arguments =
        "'" LAOS_BINARY "' analyze --json --w4a4-share 0.5 --model-path '" + model_.string() +
        "' --config-path '" + recipe_.string() + "'" + flag;
    const test::CommandResult one = run_shell(arguments + " 2>/dev/null");
    ASSERT_EQ(one.exit_code, 0) << one.output;
    const test::CommandResult many = run_shell(mpirun(3) + arguments + " 2>/dev/null");
    EXPECT_EQ(many.exit_code, 0);
    EXPECT_EQ(many.output, one.output);
  }
}

TEST_F(Ranks, ArePricedBeforeTheyAreStarted) {
  const test::CommandResult result = test::run_laos(arguments("out") + " --dry-run --ranks 2");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("sends"));
  EXPECT_THAT(result.output, HasSubstr("ranks     2, in "));
  EXPECT_EQ(test::run_laos(arguments("out") + " --ranks 2").exit_code, 2);
  const test::CommandResult started = test::run_laos(arguments("out") + " --dry-run", mpirun(2));
  EXPECT_EQ(started.exit_code, 0) << started.output;
  EXPECT_EQ(count_of("ranks     2, in ", started.output), 1) << started.output;
  EXPECT_FALSE(fs::exists(directory_ / "out"));
}

}  // namespace
}  // namespace laos
