// The program under kill -9, signals and failing system calls: the next run of the same command
// ends in the bytes of one that nothing happened to.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "cli/interrupted.h"

namespace laos {
namespace {

TEST_F(Interrupted, ByAFailingWriteSyncOrRenameLosesNothingSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const std::string reference = manifest("reference");
  EXPECT_GT(try_faults("write", "ENOSPC", 7, reference), 50);
  EXPECT_GT(try_faults("sync", "EIO", 1, reference), 15);
  EXPECT_GT(try_faults("rename", "EIO", 1, reference), 15);
  EXPECT_GT(try_faults("reserve", "ENOSPC", 1, reference), 4);
  EXPECT_GT(try_faults("map", "EIO", 1, reference), 1);
}

TEST_F(Interrupted, ByAFailingAllocationLosesNothingSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  more_arguments_ = " --compute-dtype bf16";  // products that are made anew for each shape
  ASSERT_EQ(quantize("reference").exit_code, 0);
  EXPECT_GT(try_faults("allocate", "ENOMEM", 3, manifest("reference"), 1.15), 1000);
}

TEST_F(Interrupted, ByKillAtAnyWriteSyncOrRenameLosesNothingSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const std::string reference = manifest("reference");
  EXPECT_GT(try_faults("write", "KILL", 7, reference), 50);
  EXPECT_GT(try_faults("sync", "KILL", 1, reference), 15);
  EXPECT_GT(try_faults("rename", "KILL", 1, reference), 15);
}

TEST_F(Interrupted, ByKillAtAnySyncOrRenameLosesNoneOfSeveralFormatsSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  more_arguments_ = " --no-health --format ascendv1,compressed-tensors";
  std::ofstream(recipe_) << recipe_text();
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const std::string reference = manifest("reference");
  EXPECT_GT(try_faults("sync", "KILL", 5, reference), 30);
  EXPECT_GT(try_faults("rename", "KILL", 2, reference), 40);
  EXPECT_GT(try_faults("rename", "EIO", 9, reference), 40);
}

TEST_F(Interrupted, ByKillAtAnySyncOrRenameLosesNothingOfExpertsSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  fs::remove_all(model_);
  test::write_synthetic({.config = test::qwen3_config("tiny-moe", 3), .seed = 3}, model_);
  std::ofstream(recipe_) << kExpertRecipe;
  more_arguments_ = " --no-health";
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const std::string reference = manifest("reference");
  EXPECT_GT(try_faults("sync", "KILL", 4, reference), 15);
  EXPECT_GT(try_faults("rename", "KILL", 3, reference), 15);
}

// The exit code of a command that is killed at its so manyth rename, should it come to that.
int killed_at_rename(const std::string& arguments, int64_t at) {
  return test::run_laos(arguments, "LD_PRELOAD='" + std::string(LAOS_FAULTS) +
                                       "' LAOS_FAULT_CALL=rename LAOS_FAULT=KILL LAOS_FAULT_AT=" +
                                       std::to_string(at) + " ")
      .exit_code;
}

// Steps of learning that were kept are gone on from, and without any it begins again.
TEST_F(Interrupted, ByKillAtAnyStepOfTuningLeavesItToTheNextRunSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  const auto path = [&](const std::string& name) { return (directory_ / name).string(); };
  ASSERT_EQ(
      test::run_laos("quant --no-health --scheme W4A8 --format compressed-tensors --method rtn "
                     "--model-path '" +
                     model_.string() + "' --save-path '" + path("first") + "'")
          .exit_code,
      0);
  const std::string tune = "tune '" + path("first") + "' --baseline '" + model_.string() +
                           "' --dataset '" + path("calib.jsonl") +
                           "' --seqlen 16 --steps 23 --progress none --save-path '";
  const test::CommandResult whole = test::run_laos(tune + path("reference") + "'");
  ASSERT_EQ(whole.exit_code, 0) << whole.output;
  ASSERT_THAT(whole.output, HasSubstr("written"));
  const std::string reference = manifest("reference");
  int64_t kills = 0, gone_on = 0;
  for (int64_t at = 1;; ++at) {
    SCOPED_TRACE("rename " + std::to_string(at));
    fs::remove_all(path("out"));
    if (killed_at_rename(tune + path("out") + "'", at) == 0) break;
    ++kills;
    const bool is_kept = fs::exists(directory_ / "out/.laos-partial/parts/scales-00010.json") ||
                         fs::exists(directory_ / "out/.laos-partial/parts/scales-00020.json");
    gone_on += is_kept ? 1 : 0;
    const test::CommandResult again = test::run_laos(tune + path("out") + "'");
    ASSERT_EQ(again.exit_code, 0) << again.output;
    EXPECT_EQ(manifest("out"), reference);
  }
  EXPECT_GT(kills, 8);
  EXPECT_GT(gone_on, 3);
}

// What stands in the way may be the same checkpoint of another day, and so may what is left of it.
TEST_F(Interrupted, ByKillAtAnyStepOfReplacingACheckpointLeavesItToTheNextRunSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  const auto path = [&](const std::string& name) { return (directory_ / name).string(); };
  ASSERT_EQ(test::run_laos("quant --no-health --scheme W8A16 --method rtn --model-path '" +
                           model_.string() + "' --save-path '" + path("first") + "'")
                .exit_code,
            0);
  for (const std::string to : {"gptq", "ascendv1"}) {
    const std::string convert = "convert '" + path("first") + "' --to " + to + " --save-path '";
    ASSERT_EQ(test::run_laos(convert + path("reference") + "'").exit_code, 0);
    const std::string reference = manifest("reference");
    int64_t kills = 0;
    for (const bool replaces : {false, true})
      for (int64_t at = 1;; ++at) {
        SCOPED_TRACE(to + ", rename " + std::to_string(at));
        fs::remove_all(path("out"));
        if (replaces) fs::copy(path("reference"), path("out"), fs::copy_options::recursive);
        if (killed_at_rename(convert + path("out") + "'", at) == 0) break;
        ++kills;
        // Whole, or nothing that anybody takes for a checkpoint.
        const bool is_there =
            fs::exists(path("out")) &&
            test::run_laos("status '" + path("out") + "'").output.find("a finished checkpoint") !=
                std::string::npos;
        if (is_there) {
          EXPECT_EQ(test::run_laos("inspect --verify '" + path("out") + "'").exit_code, 0);
        }
        ASSERT_EQ(test::run_laos(convert + path("out") + "'").exit_code, 0);
        EXPECT_EQ(manifest("out"), reference);
      }
    EXPECT_GT(kills, 15);
    fs::remove_all(path("reference"));
  }
}

// LAOS_KILLS=50 for more of them.
TEST_F(Interrupted, ByKillAtRandomMomentsOnTheBundledModelLosesAtMostALayerSlow) {
  const char* wanted = std::getenv("LAOS_KILLS");
  const int64_t kills = wanted == nullptr ? 6 : std::atoll(wanted);
  model_ = fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";
  std::stringstream recipe;
  recipe << std::ifstream(fs::path(LAOS_SOURCE_DIR) / "recipes/qwen3-tiny-w4a4.yaml").rdbuf();
  std::string text = recipe.str();
  text.replace(text.find("iters: 400"), 10, "iters: 3");
  recipe_ = directory_ / "bundled.yaml";
  std::ofstream(recipe_) << text;
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
  const std::string reference = manifest("reference");

  std::mt19937 random(20);
  int64_t killed = 0;
  while (killed < kills) {
    fs::remove_all(directory_ / "out");
    const pid_t child = start("out");
    std::this_thread::sleep_for(whole * std::uniform_real_distribution<>(0, 1)(random));
    ::kill(child, SIGKILL);
    if (WIFSIGNALED(wait_for(child))) ++killed;
    int64_t done = 0;  // layers that were finished, said where a layer's last line is printed
    const std::string before = log();
    for (int64_t layer = 8; layer > 0 && done == 0; --layer)
      if (before.find("quantize " + std::to_string(layer) + "/8") != std::string::npos)
        done = layer;
    const std::string status =
        test::run_laos("status --json '" + (directory_ / "out").string() + "' 2>/dev/null").output;
    if (done > 0 && done < 8) {
      const auto json = nlohmann::json::parse(status);
      if (json["state"] == "interrupted") {
        EXPECT_GE(json["parts"]["layer"]["done"], done);
      }
    }
    go_on("out");
    ASSERT_EQ(manifest("out"), reference) << "after kill " << killed;
  }
}

TEST_F(Interrupted, BySignalsSaysHowToGoOn) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    fs::remove_all(directory_ / "out");
    const pid_t child = start_until("1000", "quantize 1/3");
    ::kill(child, signal);
    const int status = wait_for(child);
    ASSERT_TRUE(WIFEXITED(status)) << log();
    EXPECT_EQ(WEXITSTATUS(status), 128 + signal);
    EXPECT_THAT(log(), HasSubstr("repeat the command to go on"));
    EXPECT_THAT(log(), HasSubstr("layer 1 of 3"));
    EXPECT_THAT(test::run_laos("status '" + (directory_ / "out").string() + "'").output,
                HasSubstr("a run was interrupted"));
    fs::remove(directory_ / "log");
  }
}

// A handler would run wherever a thread is, and products of oneDNN keep no stack that it could use.
TEST_F(Interrupted, BySignalsNoThreadIsThatComputes) {
  const pid_t child = start_until("1000", "quantize 1/3");
  const auto mask_of = [](const fs::path& status, const std::string& key) {
    std::string line;
    for (std::ifstream file(status); std::getline(file, line);)
      if (line.starts_with(key)) return std::stoull(line.substr(key.size()), nullptr, 16);
    return 0ULL;
  };
  constexpr auto kSignals = 1ULL << (SIGINT - 1) | 1ULL << (SIGTERM - 1);
  int64_t num_threads = 0, num_open = 0;
  for (const auto& task : fs::directory_iterator("/proc/" + std::to_string(child) + "/task")) {
    ++num_threads;
    if ((mask_of(task.path() / "status", "SigBlk:") & kSignals) != kSignals) ++num_open;
    EXPECT_EQ(mask_of(task.path() / "status", "SigCgt:") & kSignals, 0U);
  }
  EXPECT_GE(num_threads, 2);
  EXPECT_EQ(num_open, 1) << "that which waits for them";
  ::kill(child, SIGKILL);
  wait_for(child);
}

TEST_F(Interrupted, ByASecondRunOnTheSamePathIsNot) {
  const pid_t child = start_until("100000", "fit rotation 2/2");
  const test::CommandResult second = quantize("out");
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.output, HasSubstr("another process is writing to the same save path"));
  EXPECT_THAT(test::run_laos("status '" + (directory_ / "out").string() + "'").output,
              HasSubstr("a run is at work"));
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "the first went on";
  ::kill(child, SIGKILL);
  wait_for(child);
}

TEST_F(Interrupted, ByARunOfOneFormatInTheDirectoryOfARunOfSeveralIsNot) {
  more_arguments_ = " --format ascendv1,compressed-tensors";
  const pid_t child = start_until("1000", "quantize 1/3");
  more_arguments_ = " --format ascendv1";
  const test::CommandResult second = quantize("out/ascendv1");
  ::kill(child, SIGKILL);
  wait_for(child);
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.output, HasSubstr("another process is writing to the same save path"));
}

TEST_F(Interrupted, ByAFileSizeLimitSaysWhy) {
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const test::CommandResult result = quantize("out", "ulimit -f 20; ");
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("File too large"));
  EXPECT_EQ(quantize("out").exit_code, 0);
  EXPECT_EQ(manifest("out"), manifest("reference"));
}

TEST_F(Interrupted, ByAShardThatIsCutShortEndsWithAMessage) {
  const pid_t child = start_until("2000", "quantize 1/3");
  fs::resize_file(model_ / "model.safetensors", 0);
  const int status = wait_for(child);
  ASSERT_TRUE(WIFEXITED(status)) << log();
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(log(), HasSubstr("a file was cut short while it was read"));
  EXPECT_FALSE(fs::exists(directory_ / "out" / "SHA256SUMS"));
}

}  // namespace
}  // namespace laos
