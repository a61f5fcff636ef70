// The float model's activations, before anything is made of them.
#include "pipeline/float_pass.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "pipeline/layer_steps.h"
#include "pipeline/quant_options.h"
#include "pipeline/run.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using ::testing::HasSubstr;

// Writes `value`, a bfloat16, over all of a tensor of directory/model.
void fill_tensor(const std::filesystem::path& directory, const std::string& name, uint16_t value) {
  const std::filesystem::path file = directory / "model/model.safetensors";
  std::streamoff offset = 0;
  int64_t size = 0;
  {
    const io::TensorFiles files = io::TensorFiles::open_files({file});
    const std::byte* first = nullptr;
    int64_t data_bytes = 0;
    for (const auto& [unused, tensor] : files.tensors()) {
      if (first == nullptr || tensor.data < first) first = tensor.data;
      data_bytes += tensor.size_bytes();
    }
    const TensorView& tensor = files.at(name);
    size = num_elements(tensor.shape);
    offset = static_cast<std::streamoff>(std::filesystem::file_size(file)) - data_bytes +
             (tensor.data - first);
  }
  const std::vector<uint16_t> values(static_cast<size_t>(size), value);
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(offset);
  stream.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(2 * values.size()));
}

// Weights at the end of bfloat16's range are finite; what they make of activations is not.
TEST(FloatPass, NamesTheLayerWhoseActivationsAreNotFinite) {
  constexpr uint16_t kLargest = 0x7f7f;
  for (const std::string process :
       {"- {type: linear_quant, qconfig: {weight: {scope: per_channel, dtype: int8, symmetric: "
        "true, method: minmax}, act: {scope: per_tensor, dtype: int8, symmetric: false, method: "
        "minmax}}}",
        "- {type: iter_smooth, alpha: 0.5}"}) {
    const test::TemporaryDirectory directory;
    test::write_synthetic({.config = test::qwen3_config("tiny", 3)}, directory / "model");
    fill_tensor(directory.path(), "model.layers.1.self_attn.o_proj.weight", kLargest);
    std::ofstream(directory / "calib.jsonl")
        << R"({"inputs_pretokenized": "In the beginning was the word"})";
    std::ofstream(directory / "recipe.yaml")
        << "apiversion: modelslim_v1\nspec:\n  process:\n    " + process +
               "\n  save: [{type: ascendv1_saver}]\n"
               "  dataset: calib.jsonl\n";
    Progress progress;
    try {
      run(make_plan(quant_options(directory.path(), "out")), progress);
      ADD_FAILURE() << "written: " << process;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNumeric) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("model.layers.1.mlp.gate_proj"));
    }
  }
}

// Sums of such weights are infinite, of the embedding's as well.
TEST(FloatPass, NamesTheWeightThatOverflowsWhereItIsRotated) {
  constexpr uint16_t kLargest = 0x7f7f;
  for (const std::string name :
       {"model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"}) {
    const test::TemporaryDirectory directory;
    test::write_synthetic({.config = test::qwen3_config("tiny")}, directory / "model");
    fill_tensor(directory.path(), name, kLargest);
    std::ofstream(directory / "recipe.yaml")
        << "apiversion: modelslim_v1\nspec:\n  process:\n    - {type: quarot}\n"
           "    - {type: linear_quant, qconfig: {weight: {scope: per_channel, dtype: int8, "
           "symmetric: true, method: minmax}, act: {scope: per_token, dtype: int8, symmetric: "
           "true, method: minmax}}}\n"
           "  save: [{type: ascendv1_saver}]\n";
    Progress progress;
    try {
      run(make_plan(quant_options(directory.path(), "out")), progress);
      ADD_FAILURE() << "written: " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNumeric) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("where they are rotated"));
      EXPECT_THAT(error.what(), HasSubstr(name));
    }
  }
}

TEST(NoteOfALayer, ThatLosesNothingInTrainingShowsNoChange) {
  QuantizedLayer layer;
  layer.trained = {{.rounding_loss = 0, .loss = 0, .kept_iteration = 0, .losses = {0}}};
  EXPECT_THAT(note_of(layer), HasSubstr("(+0 %)"));
}

}  // namespace
}  // namespace laos::pipeline
