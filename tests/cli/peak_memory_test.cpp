// The memory that --dry-run plans is a bound of what the run takes, and not far above it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "support/command.h"
#include "support/own_memory.h"
#include "support/temporary_directory.h"

namespace laos {
namespace {

namespace fs = std::filesystem;

struct Case {
  std::string name;
  std::string steps;           // of the recipe
  std::string prior = {};      // likewise
  std::string arguments = {};  // of laos quant
  bool is_short = false;       // of memory: a megabyte less than the plan wants
};
void PrintTo(const Case& what, std::ostream* os) { *os << what.name; }

const fs::path kCalib = fs::path(LAOS_SOURCE_DIR) / "calib";
const std::string kInt8 = R"(    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
        act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
)";
const std::string kStaticInt8 = R"(    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
        act: {scope: per_tensor, dtype: int8, symmetric: false, method: minmax}
)";
const std::string kRotated = "    - {type: adapt_rotation, stage: 2, online: false}\n" + kInt8;
std::string in_4_bits(const std::string& type, const std::string& options,
                      const std::string& act = "int8") {
  return "    - type: " + type + "\n" + options + R"(      strategies:
        - include: ["*"]
          qconfig:
            weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
            act: {scope: per_token, dtype: )" +
         act + R"(, symmetric: true, method: minmax}
)";
}

const Case kCases[] = {
    {.name = "LinearQuant", .steps = kInt8, .arguments = "--no-health"},
    {.name = "LinearQuantStatic", .steps = kStaticInt8, .arguments = "--no-health"},
    {.name = "CacheInInt8", .steps = kInt8, .arguments = "--no-health --kv-cache int8"},
    {.name = "HealthCheck", .steps = kInt8},
    {.name = "Gptq", .steps = in_4_bits("gptq_quant", "")},
    {.name = "GptqWithRefit", .steps = in_4_bits("gptq_quant", "      refit: true\n")},
    {.name = "GptqWithChosenRefit", .steps = in_4_bits("gptq_quant", "      refit: auto\n")},
    {.name = "AutoroundWhole", .steps = in_4_bits("autoround_quant", "      iters: 3\n")},
    {.name = "AutoroundInF32",
     .steps = in_4_bits("autoround_quant", "      iters: 3\n"),
     .arguments = "--compute-dtype f32"},
    {.name = "AutoroundInPieces",
     .steps = in_4_bits("autoround_quant", "      iters: 3\n"),
     .arguments = "--seqlen 1024 --dataset " + (kCalib / "default.jsonl").string(),
     .is_short = true},
    {.name = "AutoroundWithOnlineRotation",
     .steps =
         "    - {type: quarot, online: true}\n" + in_4_bits("autoround_quant", "      iters: 3\n")},
    {.name = "IterSmooth", .steps = "    - {type: iter_smooth}\n" + kInt8},
    {.name = "Flatquant",
     .steps = "    - {type: flatquant}\n" + in_4_bits("gptq_quant", "", "int4")},
    {.name = "HeadRotation", .steps = "    - {type: head_rotation}\n" + kInt8},
    {.name = "AdaptRotation",
     .steps = kRotated,
     .prior = "{type: adapt_rotation, stage: 1, steps: 3}"},
    {.name = "AdaptRotationForTokenRanges",
     .steps = kRotated,
     .prior = "{type: adapt_rotation, stage: 1, steps: 3, objective: token_range}"},
};

double megabytes_behind(const std::string& text, const std::string& key) {
  const size_t at = text.find(key);
  EXPECT_NE(at, std::string::npos) << text;
  if (at == std::string::npos) return 0;
  size_t read = 0;
  const double value = std::stod(text.substr(at + key.size()), &read);
  const std::string unit = text.substr(at + key.size() + read, 3);
  EXPECT_EQ(unit, " MB") << text;
  return value;
}

class PeakMemorySlow : public testing::TestWithParam<Case> {
 protected:
  std::string command(const std::string& more) const {
    return "quant --lenient --threads 2 --nsamples 24 --model-path " +
           (fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny").string() + " --save-path " +
           (directory_ / "out").string() + " --config-path " +
           (directory_ / "recipe.yaml").string() + " " + GetParam().arguments + " " + more;
  }
  test::TemporaryDirectory directory_;
};

TEST_P(PeakMemorySlow, IsWithinThePlanAndNotFarBelow) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep memory that was freed";
#endif
  const Case& what = GetParam();
  std::ofstream(directory_ / "recipe.yaml")
      << "apiversion: modelslim_v1\nspec:\n"
      << (what.prior.empty() ? "" : "  prior:\n    - process: [" + what.prior + "]\n")
      << "  process:\n"
      << what.steps << "  save: [{type: ascendv1_saver}]\n  dataset: " << LAOS_SOURCE_DIR
      << "/calib/qwen3-tiny-calib.jsonl\n";
  const auto plan = [&](const std::string& more) {
    return megabytes_behind(test::run_laos(command(more + " --dry-run")).output,
                            "peak RAM  about ");
  };
  double planned = plan("");
  std::string limit;
  if (what.is_short) {
    limit = "--max-memory " + std::to_string(static_cast<int64_t>(planned) - 1) + "MB";
    const double less = plan(limit);
    EXPECT_LT(less, planned);
    planned = less;
  }

  const std::string line = std::string("exec ") + LAOS_BINARY + " " + command(limit) + " >" +
                           (directory_ / "log").string() + " 2>&1";
  const pid_t process = ::fork();
  ASSERT_GE(process, 0);
  if (process == 0) {
    ::execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    ::_exit(127);
  }
  double peak = 0;
  int status = 0;
  while (::waitpid(process, &status, WNOHANG) == 0) {
    peak = std::max(peak, static_cast<double>(test::own_memory(process)) * 1e-6);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 0);
  EXPECT_LE(peak, planned);
  // The program itself takes more on some machines than on others: so many megabytes.
  EXPECT_GE(peak, 0.5 * planned - 5);
  std::printf("%s: %.1f of %.1f MB, %.0f %%\n", what.name.c_str(), peak, planned,
              100 * peak / planned);
}

INSTANTIATE_TEST_SUITE_P(Processors, PeakMemorySlow, testing::ValuesIn(kCases),
                         [](const auto& what) { return what.param.name; });

}  // namespace
}  // namespace laos
