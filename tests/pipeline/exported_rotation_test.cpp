// The matrix that draft models get against what the run did to the embedding.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <string>

#include "hf/ascendv1.h"
#include "io/safetensors.h"
#include "pipeline/run.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

namespace fs = std::filesystem;

struct Case {
  const char* name;
  const char* prior;
  const char* rotation;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class ExportedRotation : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    Of, ExportedRotation,
    testing::Values(Case{"Quarot", "", "{type: quarot}"},
                    Case{"QuarotInBlocks", "", "{type: quarot, block_size: 16}"},
                    Case{"AdaptRotation",
                         "  prior: [{process: [{type: adapt_rotation, stage: 1, steps: 2}]}]\n",
                         "{type: adapt_rotation, stage: 2}"}),
    [](const auto& c) { return c.param.name; });

TEST_P(ExportedRotation, IsOrthogonalAndTheOneAppliedToTheEmbedding) {
  const test::TemporaryDirectory directory;
  hf::Config config = test::qwen3_config("tiny");
  config.tie_word_embeddings = true;
  test::write_synthetic({.config = config}, directory / "model");
  {
    std::ofstream calib(directory / "calib.txt");
    for (int i = 0; i < 20; ++i) calib << "In the beginning was the word number " << i << "; ";
  }
  std::ofstream(directory / "recipe.yaml")
      << "apiversion: modelslim_v1\nspec:\n"
      << GetParam().prior << "  process:\n    - " << GetParam().rotation
      << "\n    - {type: linear_quant, qconfig: {weight: {scope: per_channel, dtype: int8, "
         "symmetric: true, method: minmax}}}\n  save: [{type: ascendv1_saver}]\n"
         "  dataset: calib.txt\n";
  QuantOptions options;
  options.model_path = directory / "model";
  options.save_path = directory / "out";
  options.recipe_path = directory / "recipe.yaml";
  options.model_type = "tiny";
  options.calib_seq_len = 16;
  Progress progress;
  run(make_plan(options), progress);

  const auto exported =
      io::TensorFiles::open_files({directory / "out" / "optional" / "quarot.safetensors"});
  const Mat<float> rotation = to_f32(exported.at("global_rotation"));
  const auto original = io::TensorFiles::open_files({directory / "model" / "model.safetensors"});
  const Mat<float> embedding = to_f32(original.at("model.embed_tokens.weight"));
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory / "out");
  const Mat<float> rotated = to_f32(checkpoint.files().at("model.embed_tokens.weight"));
  ASSERT_EQ(rotation.rows(), config.hidden_size);
  ASSERT_EQ(rotation.cols(), config.hidden_size);
  for (int64_t i = 0; i < rotation.rows(); ++i)
    for (int64_t j = 0; j < rotation.rows(); ++j) {
      double dot = 0;
      for (int64_t k = 0; k < rotation.cols(); ++k)
        dot += static_cast<double>(rotation(i, k)) * rotation(j, k);
      ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-5) << i << "," << j;
    }
  for (int64_t token = 0; token < embedding.rows(); token += 31)
    for (int64_t j = 0; j < rotation.cols(); ++j) {
      double expected = 0;
      for (int64_t k = 0; k < rotation.rows(); ++k)
        expected += static_cast<double>(embedding(token, k)) * rotation(k, j);
      // bf16 has 8 bits of mantissa; sums of f32 differ far less.
      ASSERT_NEAR(rotated(token, j), expected, std::fabs(expected) * 0x1p-8 + 1e-6)
          << token << "," << j;
    }
}

}  // namespace
}  // namespace laos::pipeline
