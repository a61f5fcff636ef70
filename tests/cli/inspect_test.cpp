// `laos inspect` as users run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::HasSubstr;

struct Result {
  int exit_code = -1;
  std::string output;  // stdout
};

Result inspect(const std::string& arguments) {
  const std::string command = std::string("'") + LAOS_BINARY + "' inspect " + arguments;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  Result result;
  std::array<char, 4096> piece;
  while (const size_t count = std::fread(piece.data(), 1, piece.size(), pipe))
    result.output.append(piece.data(), count);
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

TEST(InspectCommand, FailsAndSaysWhyForADirectoryThatDoesNotLoad) {
  const test::TemporaryDirectory directory;
  const Result result = inspect(directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("error: no description"));
  EXPECT_THAT(result.output, HasSubstr("cannot load this checkpoint"));
}

TEST(InspectCommand, PrintsJsonThatProgramsRead) {
  const test::TemporaryDirectory directory;
  const Result result = inspect("--json " + directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  const auto json = nlohmann::json::parse(result.output);
  EXPECT_EQ(json["loads"], false);
  EXPECT_EQ(json["findings"][0]["severity"], "error");
}

TEST(InspectCommand, SucceedsAndCountsForTheReferenceCheckpoint) {
  const std::filesystem::path directory =
      std::filesystem::path(LAOS_SOURCE_DIR) / "../shared/data/qwen3-tiny-reference/laos";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << "no " << directory;
  const Result result = inspect(directory.string());
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("8393984 parameters"));
  EXPECT_THAT(result.output, HasSubstr("can load this checkpoint"));
}

TEST(InspectCommand, ReportsWrongUseAsSuch) { EXPECT_EQ(inspect("2>/dev/null").exit_code, 2); }

}  // namespace
}  // namespace laos::cli
