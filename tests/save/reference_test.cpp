// Against the AscendV1 checkpoints that the known implementation wrote, in form.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hf/ascendv1.h"
#include "save/fixtures.h"
#include "save/inspect.h"
#include "support/reference.h"

namespace laos::save {
namespace {

struct Reference {
  const char* name;
  bool only_gate_up_w4a4;

  friend void PrintTo(const Reference& reference, std::ostream* out) { *out << reference.name; }
};

class AscendV1Reference : public testing::TestWithParam<Reference> {
 protected:
  void SetUp() override { test::write_reference(GetParam().name, directory_); }

  const TempDir temporary_;
  const fs::path directory_ = temporary_ / "checkpoint";
};

INSTANTIATE_TEST_SUITE_P(Checkpoints, AscendV1Reference,
                         testing::Values(Reference{"laos", true}, Reference{"full", false}),
                         [](const auto& reference) { return reference.param.name; });

TEST_P(AscendV1Reference, InspectIsContent) {
  const InspectReport report = inspect(directory_);
  for (const Finding& finding : report.findings)
    ADD_FAILURE() << finding.what << " @ " << finding.where << " x" << finding.count;
  EXPECT_EQ(report.bytes, 10'660'352);
}

TEST_P(AscendV1Reference, PlanMatchesInOrderDtypeShapeAndLabel) {
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_);
  const auto planned =
      output_tensors(checkpoint.config(), DType::kBF16, [](const std::string& linear) {
        const bool is_w4a4 = !GetParam().only_gate_up_w4a4 || linear.ends_with("gate_proj") ||
                             linear.ends_with("up_proj");
        return std::optional(is_w4a4 ? w4a4() : w8a8());
      });
  EXPECT_EQ(description_of(planned), read_text(directory_ / "quant_model_description.json"));
  ASSERT_EQ(planned.size(), checkpoint.files().tensors().size());
  for (const OutputTensor& tensor : planned) {
    const TensorView& theirs = checkpoint.files().at(tensor.spec.name);
    EXPECT_EQ(tensor.spec.dtype, theirs.dtype) << theirs.name;
    EXPECT_EQ(tensor.spec.shape, theirs.shape) << theirs.name;
  }
}

TEST_P(AscendV1Reference, IndexMatchesByteForByte) {
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_);
  std::vector<io::TensorSpec> specs;
  for (const auto& [name, label] : checkpoint.description().labels) {
    const TensorView& tensor = checkpoint.files().at(name);
    specs.push_back({name, tensor.dtype, tensor.shape});
  }
  TempDir temp;
  const io::ShardedWriter writer(
      temp.path(),
      io::plan_shards(specs, hf::kAscendV1Stem, max_shard_bytes({.part_file_size = 4})));
  EXPECT_EQ(writer.index_json(), read_text(directory_ / hf::kAscendV1IndexFile));
}

}  // namespace
}  // namespace laos::save
