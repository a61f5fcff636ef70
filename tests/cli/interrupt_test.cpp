// The program under kill -9, signals and failing system calls: the next run of the same command
// ends in the bytes of one that nothing happened to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
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

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kRecipe = R"(apiversion: modelslim_v1
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

class Interrupted : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny", 3), .seed = 3},
                          directory_ / "model");
    std::ofstream(directory_ / "recipe.yaml") << kRecipe;
    std::ofstream(directory_ / "calib.jsonl")
        << "{\"inputs_pretokenized\": \"In the beginning was the word\"}\n"
        << "{\"inputs_pretokenized\": \"and the word was with the other words, in order.\"}\n";
    model_ = directory_ / "model";
    recipe_ = directory_ / "recipe.yaml";
  }

  std::string arguments(const std::string& save_path) const {
    return "quant --model-type tiny --model-path '" + model_.string() + "' --config-path '" +
           recipe_.string() + "' --save-path '" + (directory_ / save_path).string() + "'";
  }
  test::CommandResult quantize(const std::string& save_path, const std::string& before = "") const {
    return test::run_laos(arguments(save_path), before);
  }

  // Checksums of all files, which --verify finds to be true.
  std::string manifest(const std::string& save_path) const {
    EXPECT_EQ(
        test::run_laos("inspect --verify '" + (directory_ / save_path).string() + "'").exit_code,
        0);
    EXPECT_FALSE(fs::exists(directory_ / save_path / ".laos-partial"));
    std::stringstream text;
    text << std::ifstream(directory_ / save_path / "SHA256SUMS").rdbuf();
    return text.str();
  }

  // The program as a child of its own, to send signals to.
  pid_t start(const std::string& save_path) const {
    const pid_t child = ::fork();
    if (child != 0) return child;
    const std::string log = (directory_ / "log").string();
    const std::string command =
        "exec '" + std::string(LAOS_BINARY) + "' " + arguments(save_path) + " >'" + log + "' 2>&1";
    ::execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  static int wait_for(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
  }
  std::string log() const {
    std::stringstream text;
    text << std::ifstream(directory_ / "log").rdbuf();
    return text.str();
  }

  // Lets every `stride`-th of the program's calls of one kind fail in one way, one a run. The run
  // after it must give the bytes of `reference`. Returns how many calls there are.
  int64_t try_faults(const std::string& call, const std::string& fault, int64_t stride,
                     const std::string& reference) {
    harmless_ = 0;
    for (int64_t at = 1;; at += stride) {
      SCOPED_TRACE(call + " " + std::to_string(at) + " " + fault);
      fs::remove_all(directory_ / "out");
      const test::CommandResult result = quantize(
          "out", "LD_PRELOAD='" + std::string(LAOS_FAULTS) + "' LAOS_FAULT_CALL=" + call +
                     " LAOS_FAULT_AT=" + std::to_string(at) + " LAOS_FAULT=" + fault + " ");
      if (result.exit_code == 0) {
        // Too few calls, or a failure that does no harm.
        EXPECT_EQ(manifest("out"), reference);
        if (++harmless_ > 3) return at;
        continue;
      }
      harmless_ = 0;
      if (fault == "KILL") {
        EXPECT_THAT(result.exit_code, AnyOf(-1, 128 + SIGKILL));
      } else {
        EXPECT_EQ(result.exit_code, 1) << result.output;
        EXPECT_THAT(result.output, HasSubstr("laos: error: "));
        EXPECT_THAT(result.output, HasSubstr(fault == "ENOSPC" ? "space" : "nput/output error"));
      }
      EXPECT_EQ(quantize("out").exit_code, 0);
      EXPECT_EQ(manifest("out"), reference);
      if (testing::Test::HasFailure()) return at;
    }
  }

  test::TemporaryDirectory directory_;
  fs::path model_, recipe_;
  int harmless_ = 0;
};

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

TEST_F(Interrupted, ByKillAtAnyWriteSyncOrRenameLosesNothingSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers come before other preloads";
  ASSERT_EQ(quantize("reference").exit_code, 0);
  const std::string reference = manifest("reference");
  EXPECT_GT(try_faults("write", "KILL", 7, reference), 50);
  EXPECT_GT(try_faults("sync", "KILL", 1, reference), 15);
  EXPECT_GT(try_faults("rename", "KILL", 1, reference), 15);
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
    EXPECT_EQ(quantize("out").exit_code, 0);
    ASSERT_EQ(manifest("out"), reference) << "after kill " << killed;
  }
}

TEST_F(Interrupted, BySigtermSaysHowToGoOn) {
  for (const int signal : {SIGINT, SIGTERM}) {
    fs::remove_all(directory_ / "out");
    std::string text = kRecipe;
    text.replace(text.find("iters: 2"), 8, "iters: 1000");
    std::ofstream(recipe_) << text;
    const pid_t child = start("out");
    for (int i = 0; i < 1000 && log().find("quantize 1/3") == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
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

TEST_F(Interrupted, ByASecondRunOnTheSamePathIsNot) {
  std::string text = kRecipe;
  text.replace(text.find("iters: 2"), 8, "iters: 100000");
  std::ofstream(recipe_) << text;
  const pid_t child = start("out");
  for (int i = 0; i < 1000 && log().find("fit rotation 2/2") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const test::CommandResult second = quantize("out");
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.output, HasSubstr("another process is writing to the same save path"));
  EXPECT_THAT(test::run_laos("status '" + (directory_ / "out").string() + "'").output,
              HasSubstr("a run is at work"));
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0) << "the first went on";
  ::kill(child, SIGKILL);
  wait_for(child);
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
  std::string text = kRecipe;
  text.replace(text.find("iters: 2"), 8, "iters: 2000");
  std::ofstream(recipe_) << text;
  const pid_t child = start("out");
  for (int i = 0; i < 1000 && log().find("quantize 1/3") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  fs::resize_file(model_ / "model.safetensors", 0);
  const int status = wait_for(child);
  ASSERT_TRUE(WIFEXITED(status)) << log();
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(log(), HasSubstr("a file was cut short while it was read"));
  EXPECT_FALSE(fs::exists(directory_ / "out" / "SHA256SUMS"));
}

}  // namespace
}  // namespace laos
