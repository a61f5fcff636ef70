// laos selftest-checkpoint: what an engine that computes it in another way says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "io/safetensors.h"
#include "support/command.h"
#include "support/temporary_directory.h"

namespace laos {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

enum class Change { kNone, kTransposed, kIdentity };

class Selftest : public testing::Test {
 protected:
  void SetUp() override {
    const test::CommandResult made =
        test::run_laos("selftest-checkpoint --save-path '" + (directory_ / "out").string() + "'");
    ASSERT_EQ(made.exit_code, 0) << made.output;
    printed_ = made.output;
  }
  // What an engine says that reads the matrices and the clip like this.
  std::string answer(Change left, Change right, bool clips, const std::string& options = "") {
    const fs::path file = directory_ / "out/quant_model_weights.safetensors";
    {
      const io::TensorFiles files = io::TensorFiles::open_files({file});
      std::vector<io::TensorSpec> specs;
      for (const auto& [name, tensor] : files.tensors())
        specs.push_back({name, tensor.dtype, tensor.shape});
      fs::create_directories(directory_ / "changed");
      io::ShardedWriter writer(directory_ / "changed",
                               io::plan_shards(specs, "quant_model_weights", 0));
      for (const auto& [name, tensor] : files.tensors()) {
        std::vector<std::byte> bytes(
            tensor.data, tensor.data + num_elements(tensor.shape) * size_of(tensor.dtype));
        if (name.ends_with("left_trans")) change(left, tensor.shape[0], bytes);
        if (name.ends_with("right_trans")) change(right, tensor.shape[0], bytes);
        if (name.ends_with("clip_ratio") && !clips) {
          const float one = 1;
          std::memcpy(bytes.data(), &one, sizeof one);
        }
        writer.write(name, bytes);
      }
      writer.commit();
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(directory_ / "out"))
      if (entry.path() != file && entry.is_regular_file())
        fs::copy_file(entry.path(), directory_ / "changed" / entry.path().filename(),
                      fs::copy_options::overwrite_existing);
    const test::CommandResult said = test::run_laos(
        "generate " + options + " --max-new-tokens 10 --prompt 'This engine' --model-path '" +
        (directory_ / "changed").string() + "' 2>/dev/null");
    EXPECT_EQ(said.exit_code, 0) << said.output;
    return said.output;
  }
  // Of a [size, size] matrix of two-byte elements.
  static void change(Change what, int64_t size, std::vector<std::byte>& bytes) {
    if (what == Change::kNone) return;
    const std::vector<std::byte> old = bytes;
    const auto element = [&](std::vector<std::byte>& matrix, int64_t row, int64_t col) {
      return matrix.data() + 2 * (row * size + col);
    };
    for (int64_t i = 0; i < size; ++i)
      for (int64_t j = 0; j < size; ++j) {
        const uint16_t one = i == j ? 0x3f80 : 0;  // bfloat16
        if (what == Change::kTransposed)
          std::memcpy(element(bytes, i, j), old.data() + 2 * (j * size + i), 2);
        else
          std::memcpy(element(bytes, i, j), &one, 2);
      }
  }
  void expect_said(const std::string& said, const std::string& text) {
    EXPECT_THAT(said, HasSubstr(text));
    EXPECT_THAT(printed_, HasSubstr(text)) << "an answer that the command does not name";
  }

  test::TemporaryDirectory directory_;
  std::string printed_;
};

TEST_F(Selftest, SaysThatTransformsAndClipAreRight) {
  for (const char* options : {"", "--emulate vllm-ascend"})
    expect_said(answer(Change::kNone, Change::kNone, true, options),
                " computes transforms and clip right.");
}

TEST_F(Selftest, NamesWhatAnEngineDoesWrong) {
  using enum Change;
  expect_said(answer(kNone, kNone, false), " ignores the clip.");
  expect_said(answer(kTransposed, kNone, true), " transposes the left matrix.");
  expect_said(answer(kNone, kTransposed, true), " transposes the right matrix.");
  expect_said(answer(kTransposed, kTransposed, true), " transposes both matrices.");
  expect_said(answer(kIdentity, kIdentity, true), " leaves out the transforms.");
  // Of two faults it tells the one that destroys more.
  expect_said(answer(kTransposed, kNone, false), " transposes the left matrix.");
}

TEST_F(Selftest, LoadsInTheEngine) {
  const test::CommandResult inspected =
      test::run_laos("inspect --verify '" + (directory_ / "out").string() + "'");
  EXPECT_EQ(inspected.exit_code, 0) << inspected.output;
  EXPECT_THAT(inspected.output, HasSubstr("W4A4_FLATQUANT_DYNAMIC"));
}

}  // namespace
}  // namespace laos
