// The bytes that laos writes for the bundled model, where they are the same on every machine: plain
// rounding and the Hadamard rotation are sums in one order, without products of oneDNN. A change
// that moves them is either a mistake or one that changes every user's checkpoint, and says so.
// scripts/same-bytes.sh compares the recipes whose bytes differ between machines.
#include <gtest/gtest.h>

#include "core/isa.h"
#include "hf/ascendv1.h"
#include "io/checksum.h"
#include "pipeline/run.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

struct Written {
  const char* name;
  const char* recipe;
  const char* sha256;  // of the tensors' file
};
std::ostream& operator<<(std::ostream& out, const Written& written) { return out << written.name; }

class SameBytes : public testing::TestWithParam<Written> {
 protected:
  void TearDown() override { restore_isa(); }
};
INSTANTIATE_TEST_SUITE_P(
    BundledModel, SameBytes,
    testing::Values(Written{"Rtn", "qwen3-tiny-w4a4-rtn",
                            "4014c1033f689e6cc8f8511c0097a1f17a4e2e571099f3ae4aada3d766a7b4f4"},
                    Written{"W8a8", "qwen3-tiny-w8a8",
                            "a1439cbc3a7baf348ddfe5612b77b17391ab000b735b940653b06654c464246b"}),
    [](const auto& written) { return std::string(written.param.name); });

TEST_P(SameBytes, OfTheTensorsAreThoseOfBeforeOnEveryInstructionSet) {
  const std::filesystem::path root = LAOS_SOURCE_DIR;
  const test::TemporaryDirectory directory;
  for (const Isa& isa : supported_isas()) {
    use_isa(isa);
    QuantOptions options;
    options.model_path = root / "models/qwen3-tiny";
    options.save_path = directory / isa.name;
    options.recipe_path = root / "recipes" / (std::string(GetParam().recipe) + ".yaml");
    options.model_type = "qwen3-tiny";
    options.calib_directories = {root / "calib"};
    options.checks = false;
    Progress progress;
    run(make_plan(options), progress);
    const auto files = hf::top_level_safetensors(options.save_path);
    ASSERT_EQ(files.size(), 1u);
    EXPECT_EQ(io::sha256_of_file(files.front()), GetParam().sha256) << isa.name;
  }
}

}  // namespace
}  // namespace laos::pipeline
