// `laos inspect` as users run it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/command.h"
#include "support/reference.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::HasSubstr;

test::CommandResult inspect(const std::string& arguments) {
  return test::run_laos("inspect " + arguments);
}

TEST(InspectCommand, FailsAndSaysWhyForADirectoryThatDoesNotLoad) {
  const test::TemporaryDirectory directory;
  const test::CommandResult result = inspect(directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("error: no description"));
  EXPECT_THAT(result.output, HasSubstr("cannot load this checkpoint"));
}

TEST(InspectCommand, PrintsJsonThatProgramsRead) {
  const test::TemporaryDirectory directory;
  const test::CommandResult result = inspect("--json " + directory.path().string());
  EXPECT_EQ(result.exit_code, 1);
  const auto json = nlohmann::json::parse(result.output);
  EXPECT_EQ(json["loads"], false);
  EXPECT_EQ(json["findings"][0]["severity"], "error");
}

TEST(InspectCommand, SucceedsAndCountsForTheReferenceCheckpoint) {
  const test::TemporaryDirectory directory;
  test::write_reference("laos", directory / "checkpoint");
  const test::CommandResult result = inspect((directory / "checkpoint").string());
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output, HasSubstr("8393984 parameters"));
  EXPECT_THAT(result.output, HasSubstr("can load this checkpoint"));
}

TEST(InspectCommand, ReportsWrongUseAsSuch) { EXPECT_EQ(inspect("").exit_code, 2); }

}  // namespace
}  // namespace laos::cli
