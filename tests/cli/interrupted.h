// A short run of the program on a tiny model, for tests of what ends it early.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

inline constexpr const char* kRecipe = R"(apiversion: modelslim_v1
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 2, layer_type: [up_proj]}]
  process:
    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}
    - {type: autoround_quant, iters: 2, strategies: [{qconfig: *w4, include: ["*"]}]}
  kv_cache: {dtype: int8}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";

// Of a model with experts.
inline constexpr const char* kExpertRecipe = R"(apiversion: modelslim_v1
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
spec:
  process:
    - {type: quarot}
    - type: gptq_quant
      strategies:
        - {qconfig: *w4, include: ["*.experts.*"]}
        - {qconfig: *w8, include: ["*"], exclude: ["*.experts.*"]}
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
    // Random weights need not survive four bits.
    return "quant --lenient --model-type tiny --model-path '" + model_.string() +
           "' --config-path '" + recipe_.string() + "' --save-path '" +
           (directory_ / save_path).string() + "'" + more_arguments_;
  }
  // Of runs of several formats without what only one of them takes.
  std::string recipe_text() const {
    std::string text = kRecipe;
    const std::string cache = "  kv_cache: {dtype: int8}\n";
    if (more_arguments_.find("--format") != std::string::npos)
      text.erase(text.find(cache), cache.size());
    return text;
  }
  test::CommandResult quantize(const std::string& save_path, const std::string& before = "") const {
    return test::run_laos(arguments(save_path), before);
  }

  // The same command again ends in a checkpoint: it goes on, or what was interrupted was no more
  // than the check of a finished one.
  void go_on(const std::string& save_path) const {
    const test::CommandResult result = quantize(save_path);
    if (result.exit_code == 2) {
      EXPECT_THAT(result.output, HasSubstr("a finished checkpoint is here already"));
    } else {
      EXPECT_EQ(result.exit_code, 0) << result.output;
    }
  }

  // Checksums of all files, which --verify finds to be true; of every format.
  std::string manifest(const std::string& save_path) const {
    const fs::path directory = directory_ / save_path;
    EXPECT_FALSE(fs::exists(directory / ".laos-partial"));
    std::vector<fs::path> checkpoints = {directory};
    if (!fs::exists(directory / "config.json"))
      checkpoints = {directory / "ascendv1", directory / "compressed-tensors"};
    std::stringstream text;
    for (const fs::path& checkpoint : checkpoints) {
      EXPECT_EQ(test::run_laos("inspect --verify '" + checkpoint.string() + "'").exit_code, 0);
      EXPECT_FALSE(fs::exists(checkpoint / ".laos-partial"));
      text << std::ifstream(checkpoint / "SHA256SUMS").rdbuf();
    }
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
  // Training of so many iterations a layer, started; comes back when the log has that line.
  pid_t start_until(const std::string& iters, const std::string& line) const {
    std::string text = recipe_text();
    text.replace(text.find("iters: 2"), 8, "iters: " + iters);
    std::ofstream(recipe_) << text;
    const pid_t child = start("out");
    for (int i = 0; i < 6000 && log().find(line) == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return child;
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

  // Lets the program's calls of one kind fail in one way, one a run: every `stride`-th, and from
  // the hundredth on ever fewer when `growth` is above 1. The run after it must give the bytes of
  // `reference`. Returns how many calls there are.
  int64_t try_faults(const std::string& call, const std::string& fault, int64_t stride,
                     const std::string& reference, double growth = 1) {
    const fs::path mark = directory_ / "fault";
    for (int64_t at = 1;;
         at +=
         stride + (at < 100 ? 0 : static_cast<int64_t>(static_cast<double>(at) * (growth - 1)))) {
      SCOPED_TRACE(call + " " + std::to_string(at) + " " + fault);
      fs::remove_all(directory_ / "out");
      fs::remove(mark);
      const test::CommandResult result =
          quantize("out", "LD_PRELOAD='" + std::string(LAOS_FAULTS) + "' LAOS_FAULT_CALL=" + call +
                              " LAOS_FAULT_AT=" + std::to_string(at) + " LAOS_FAULT=" + fault +
                              " LAOS_FAULT_MARK='" + mark.string() + "' ");
      if (result.exit_code == 0) {
        EXPECT_EQ(manifest("out"), reference);
        if (!fs::exists(mark)) return at;
        continue;  // that failure does no harm
      }
      if (fault == "KILL") {
        EXPECT_THAT(result.exit_code, AnyOf(-1, 128 + SIGKILL));
      } else {
        EXPECT_EQ(result.exit_code, 1) << result.output;
        EXPECT_THAT(result.output, HasSubstr("laos: error: "));
        const auto [said, or_said] =
            fault == "ENOMEM"   ? std::pair{"out of memory", "annot allocate"}
            : fault == "ENOSPC" ? std::pair{"space", "space"}
                                : std::pair{"nput/output error", "nput/output error"};
        EXPECT_THAT(result.output, AnyOf(HasSubstr(said), HasSubstr(or_said)));
      }
      go_on("out");
      EXPECT_EQ(manifest("out"), reference);
      if (testing::Test::HasFailure()) return at;
    }
  }

  test::TemporaryDirectory directory_;
  fs::path model_, recipe_;
  std::string more_arguments_;
};

}  // namespace laos
