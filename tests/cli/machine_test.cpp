// The program on machines that it shares, and moved away from what belongs to it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "support/command.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kSource = LAOS_SOURCE_DIR;

// The environment of a program that waits for its input, one variable a line.
std::string environment_with(const std::string& variables) {
  return test::run_laos("tokenize --model-path '" + kSource +
                            "/models/qwen3-tiny' >/dev/null & sleep 2; "
                            "tr '\\0' '\\n' </proc/$!/environ",
                        "sleep 4 | env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT " + variables + " ")
      .output;
}

TEST(Spinning, IsBoundedUnlessTheEnvironmentSaysHowLong) {
  EXPECT_THAT(environment_with(""), HasSubstr("GOMP_SPINCOUNT="));
  EXPECT_THAT(environment_with("OMP_WAIT_POLICY=active"),
              AllOf(HasSubstr("OMP_WAIT_POLICY="), Not(HasSubstr("GOMP_SPINCOUNT="))));
  EXPECT_THAT(environment_with("GOMP_SPINCOUNT=77"), HasSubstr("GOMP_SPINCOUNT=77\n"));
}

TEST(MovedProgram, SaysWhereItLookedForRecipes) {
  if (std::system("unshare --mount true >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "may not hide the source";
  const test::TemporaryDirectory directory;
  std::filesystem::copy_file(LAOS_BINARY, directory / "laos");
  // In place of the built program: the copy, where the source tree is empty.
  const std::string before =
      "LAOS_DATA_DIR=/nowhere unshare --mount sh -c 'mount -t tmpfs none \"" + kSource +
      "\" && shift && exec \"" + (directory / "laos").string() + "\" \"$@\"' sh ";
  const test::CommandResult result = test::run_laos("recipes", before);
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("laos finds no recipes"), HasSubstr("/nowhere/recipes"),
                                   HasSubstr(kSource + "/recipes"), HasSubstr("LAOS_DATA_DIR")));
}

}  // namespace
}  // namespace laos::cli
