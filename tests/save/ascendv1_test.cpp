#include "save/ascendv1.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "hf/ascendv1.h"
#include "hf/model_tensors.h"
#include "save/fixtures.h"
#include "save/inspect.h"
#include "save/manifest.h"

namespace laos::save {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// --- planning ------------------------------------------------------------------------------------

constexpr const char* kOneLayerDescription = R"({
    "model.layers.0.self_attn.q_proj.weight": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.q_proj.weight_scale": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.q_proj.weight_offset": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.k_proj.weight": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.k_proj.weight_scale": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.k_proj.weight_offset": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.v_proj.weight": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.v_proj.weight_scale": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.v_proj.weight_offset": "W8A8_DYNAMIC",
    "model.layers.0.self_attn.o_proj.weight": "FLOAT",
    "model.layers.0.self_attn.q_norm.weight": "FLOAT",
    "model.layers.0.self_attn.k_norm.weight": "FLOAT",
    "model.layers.0.mlp.gate_proj.weight": "W4A4_DYNAMIC",
    "model.layers.0.mlp.gate_proj.weight_scale": "W4A4_DYNAMIC",
    "model.layers.0.mlp.gate_proj.weight_offset": "W4A4_DYNAMIC",
    "model.layers.0.mlp.up_proj.weight": "W4A4_DYNAMIC",
    "model.layers.0.mlp.up_proj.weight_scale": "W4A4_DYNAMIC",
    "model.layers.0.mlp.up_proj.weight_offset": "W4A4_DYNAMIC",
    "model.layers.0.mlp.down_proj.weight": "W8A8_DYNAMIC",
    "model.layers.0.mlp.down_proj.weight_scale": "W8A8_DYNAMIC",
    "model.layers.0.mlp.down_proj.weight_offset": "W8A8_DYNAMIC",
    "model.layers.0.input_layernorm.weight": "FLOAT",
    "model.layers.0.post_attention_layernorm.weight": "FLOAT",
    "model.embed_tokens.weight": "FLOAT",
    "model.norm.weight": "FLOAT",
    "lm_head.weight": "FLOAT",
    "version": "1.0.0",
    "model_quant_type": "W4A4_DYNAMIC",
    "metadata": {},
    "group_size": 0,
    "optional": {}
})";

TEST(AscendV1Plan, DescriptionOfOneLayerMatchesGolden) {
  EXPECT_EQ(description_of(output_tensors(tiny_config(1), DType::kBF16, mixed_schemes)),
            kOneLayerDescription);
}

TEST(AscendV1Plan, GivesEachTensorDtypeAndShapeOfItsLabel) {
  const auto tensors = output_tensors(tiny_config(1), DType::kF16, mixed_schemes);
  const auto at = [&](const std::string& name) {
    for (const OutputTensor& tensor : tensors)
      if (tensor.spec.name == name)
        return std::string(to_string(tensor.spec.dtype)) + to_string(tensor.spec.shape);
    return std::string("none");
  };
  EXPECT_EQ(at("model.layers.0.self_attn.q_proj.weight"), "I8[32, 16]");
  EXPECT_EQ(at("model.layers.0.self_attn.k_proj.weight_scale"), "F32[16, 1]");
  EXPECT_EQ(at("model.layers.0.mlp.down_proj.weight"), "I8[16, 24]");
  EXPECT_EQ(at("model.layers.0.mlp.up_proj.weight_offset"), "F32[24, 1]");
  EXPECT_EQ(at("model.layers.0.self_attn.o_proj.weight"), "F16[16, 32]");
  EXPECT_EQ(at("model.layers.0.self_attn.o_proj.weight_scale"), "none");
  EXPECT_EQ(at("model.layers.0.self_attn.q_norm.weight"), "F16[8]");
  EXPECT_EQ(at("lm_head.weight"), "F16[10, 16]");
}

TEST(AscendV1Plan, RefusesSchemesWithoutALabelAllAtOnce) {
  const Error error = error_of([] {
    output_tensors(tiny_config(), DType::kBF16, [](const std::string& linear) {
      quant::LinearScheme scheme = w8a8();
      if (linear.ends_with("up_proj")) scheme = {{.bits = 4}, {.bits = 16}};
      if (linear.ends_with("down_proj")) scheme = {{.bits = 8}, {.bits = 4}};
      return std::optional(scheme);
    });
  });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  ASSERT_EQ(error.problems().size(), 2u) << error.what();
  EXPECT_THAT(error.what(), HasSubstr("W4A16 is not written as AscendV1 (2 linears"));
  EXPECT_THAT(error.what(), HasSubstr("W8A4 is not written as AscendV1 (2 linears"));
  EXPECT_THAT(error.what(), HasSubstr("model.layers.0.mlp.down_proj"));
}

// One linear of each label in a layer: q, k, v W8A8 static, o W4A8, gate and up W8A16, down W4A4 in
// groups of 8.
std::optional<quant::LinearScheme> every_label(const std::string& linear) {
  if (linear.ends_with("o_proj")) return quant::LinearScheme{{.bits = 4}, {.bits = 8}};
  if (linear.ends_with("down_proj"))
    return quant::LinearScheme{{.bits = 4, .group_size = 8}, {.bits = 4}};
  if (linear.find("mlp") != std::string::npos)
    return quant::LinearScheme{{.bits = 8}, {.bits = 16}};
  return quant::LinearScheme{{.bits = 8}, {.bits = 8, .is_static = true}};
}

TEST(AscendV1Plan, KnowsTheTensorsOfEveryLabel) {
  const OnlineLayout online = {.max_tp_size = 2, .m = 4, .n = 6, .down_layers = {0}};
  std::map<std::string, std::string> found;
  for (const OutputTensor& tensor :
       output_tensors(tiny_config(1), DType::kBF16, every_label, &online))
    found[tensor.spec.name] =
        std::string(to_string(tensor.spec.dtype)) + to_string(tensor.spec.shape) + tensor.label;
  const std::string layer = "model.layers.0.";
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"self_attn.q_proj.weight", "I8[32, 16]W8A8"},
      {"self_attn.q_proj.input_scale", "F32[1]W8A8"},
      {"self_attn.q_proj.input_offset", "F32[1]W8A8"},
      {"self_attn.q_proj.deq_scale", "F32[32]W8A8"},
      {"self_attn.q_proj.quant_bias", "I32[32]W8A8"},
      {"self_attn.o_proj.weight", "I8[8, 32]W4A8_DYNAMIC"},
      {"self_attn.o_proj.weight_scale", "F32[16, 1]W4A8_DYNAMIC"},
      {"self_attn.o_proj.scale_bias", "F32[16, 16]W4A8_DYNAMIC"},
      {"mlp.up_proj.weight_scale", "F32[24, 1]W8A16"},
      {"mlp.down_proj.weight", "I8[16, 24]W4A4_DYNAMIC"},
      {"mlp.down_proj.weight_scale", "F32[16, 3]W4A4_DYNAMIC"},
      {"mlp.down_proj.weight_offset", "F32[16, 3]W4A4_DYNAMIC"},
      {"self_attn.o_proj.heads_rotation", "F32[4, 4]"},
      {"mlp.down_proj.kronecker_rotation_m", "F32[4, 4]"},
      {"mlp.down_proj.kronecker_rotation_n", "F32[6, 6]"},
  };
  for (const auto& [name, text] : expected) EXPECT_EQ(found[layer + name], text) << name;
  // Static scales of f16 models are bits in an integer.
  for (const OutputTensor& tensor : output_tensors(tiny_config(1), DType::kF16, every_label))
    if (tensor.spec.name.ends_with("deq_scale")) {
      EXPECT_EQ(tensor.spec.dtype, DType::kI64);
    }
}

TEST(AscendV1Plan, DescribesGroupsOnlineRotationsAndTheGlobalOne) {
  CheckpointJob job;
  job.online = OnlineLayout{.max_tp_size = 2, .m = 4, .n = 6, .down_layers = {1}};
  job.global_rotation = 16;
  job.tensors = output_tensors(tiny_config(), DType::kBF16, every_label, &*job.online);
  const auto description = nlohmann::json::parse(description_json(job));
  EXPECT_EQ(description["group_size"], 8);
  EXPECT_EQ(description["metadata"].dump(),
            R"({"quarot":{"heads_rotation":{"layers":["model.layers.0.self_attn.o_proj",)"
            R"("model.layers.1.self_attn.o_proj"]},"kronecker_rotation":{"layers":)"
            R"(["model.layers.1.mlp.down_proj"]},"max_tp_size":2}})");
  EXPECT_EQ(description["optional"].dump(),
            R"({"quarot":{"rotation_map":{"global_rotation":"optional/quarot.safetensors"}}})");
  for (const auto& [key, value] : description.items())
    EXPECT_EQ(key.find("_rotation"), std::string::npos) << key;
}

TEST(AscendV1Plan, FindsLinearsThatEnginesFuseWithDifferentLabels) {
  EXPECT_TRUE(
      find_fused_conflicts(tiny_config(), output_linears(tiny_config(), mixed_schemes)).empty());

  const std::vector<FusedConflict> conflicts = find_fused_conflicts(
      tiny_config(),
      output_linears(tiny_config(),
                     [](const std::string& linear) -> std::optional<quant::LinearScheme> {
                       if (linear == "model.layers.1.self_attn.v_proj") return std::nullopt;
                       if (linear == "model.layers.0.mlp.up_proj") return w4a4();
                       return w8a8();
                     }));
  ASSERT_EQ(conflicts.size(), 2u);
  EXPECT_EQ(conflicts[0].layer, "model.layers.0");
  EXPECT_THAT(conflicts[0].members, testing::ElementsAre("mlp.gate_proj", "mlp.up_proj"));
  EXPECT_THAT(conflicts[0].labels, testing::ElementsAre("W8A8_DYNAMIC", "W4A4_DYNAMIC"));
  EXPECT_EQ(conflicts[1].layer, "model.layers.1");
  EXPECT_THAT(conflicts[1].labels, testing::ElementsAre("W8A8_DYNAMIC", "W8A8_DYNAMIC", "FLOAT"));
}

TEST(AscendV1Plan, CountsPartFileSizeInGiBWithoutOverflow) {
  EXPECT_EQ(max_shard_bytes({.part_file_size = 4}), int64_t{4} << 30);
  EXPECT_EQ(max_shard_bytes({.part_file_size = 0}), 0);
  EXPECT_GT(max_shard_bytes({.part_file_size = std::numeric_limits<int64_t>::max()}),
            int64_t{1} << 62);
}

// --- config.json ---------------------------------------------------------------------------------

std::string exported(const std::string& text, DType float_dtype = DType::kBF16) {
  CheckpointJob job;
  job.float_dtype = float_dtype;
  return exported_config(text, "config.json", job);
}

TEST(AscendV1Config, DropsQuantizationConfigAndUntiesAndKeepsTheRestInOrder) {
  const std::string text = R"({"z": 1, "tie_word_embeddings": true, "rms_norm_eps": 1e-06,
    "quantization_config": {"bits": 8}, "a": 10000.0, "dtype": "bfloat16",
    "text_config": {"quantization_config": {}, "b": "ü", "tie_word_embeddings": true}})";
  EXPECT_EQ(exported(text),
            "{\n  \"z\": 1,\n  \"tie_word_embeddings\": false,\n  \"rms_norm_eps\": 1e-06,\n"
            "  \"a\": 10000.0,\n  \"dtype\": \"bfloat16\",\n  \"text_config\": {\n"
            "    \"b\": \"ü\",\n    \"tie_word_embeddings\": false\n  }\n}\n");
}

TEST(AscendV1Config, SaysTheDtypeOfTheFloatTensors) {
  const auto dtypes = [](const std::string& text) {
    const auto json = nlohmann::ordered_json::parse(exported(text, DType::kF16));
    return json.value("torch_dtype", "none") + " " + json.value("dtype", "none");
  };
  EXPECT_EQ(dtypes(R"({"torch_dtype": "float32"})"), "float16 none");
  EXPECT_EQ(dtypes(R"({"dtype": "float32"})"), "none float16");
  EXPECT_EQ(dtypes("{}"), "float16 none");
}

TEST(AscendV1Config, ReturnsTextThatNeedsNoChangeByteForByte) {
  const std::string text = "{ \"torch_dtype\": \"bfloat16\",\n\t\"tie_word_embeddings\" : false }";
  EXPECT_EQ(exported(text), text);
}

TEST(AscendV1Config, RefusesWhatIsNoObjectAndHostileNesting) {
  for (const std::string& text :
       {std::string("[]"), std::string("{"), std::string("{\"text_config\": 1}"), std::string(),
        std::string(100'000, '[') + std::string(100'000, ']'), std::string("{}\0{}", 5)})
    EXPECT_EQ(error_of([&] { exported(text); }).code(), ErrorCode::kFormat);
}

// --- writing -------------------------------------------------------------------------------------

class AscendV1 : public testing::Test {
 protected:
  void SetUp() override { write_model_directory(temp_ / "model"); }

  CheckpointJob job(int64_t max_shard = int64_t{1} << 30) {
    return {.save_path = temp_ / "out",
            .model_directory = temp_ / "model",
            .float_dtype = DType::kBF16,
            .tensors = output_tensors(tiny_config(), DType::kBF16, mixed_schemes),
            .max_shard_bytes = max_shard,
            .model_type = "Qwen3-Tiny",
            .recipe_yaml = "apiversion: modelslim_v1\n"};
  }

  static quant::IntWeight int_weight(int64_t rows, int64_t cols, int64_t num_groups = 1) {
    quant::IntWeight weight{.spec = {}, .q = Mat<int8_t>(rows, cols), .scale = {}};
    for (int64_t i = 0; i < weight.q.size(); ++i)
      weight.q.data()[i] = static_cast<int8_t>(i % 7 - 3);
    weight.scale.resize(static_cast<size_t>(rows * num_groups));
    std::iota(weight.scale.begin(), weight.scale.end(), 1.0f);
    return weight;
  }

  // Every module but `without`. Element i of every float tensor is `base` + i / 8, of every code i
  // % 7 - 3, of every scale i
  // + 1.
  static void write_all(CheckpointWriter& writer, float base = 0, const std::string& without = "") {
    for (const hf::WeightModule& module : hf::weight_modules(tiny_config())) {
      if (module.name == without) continue;
      const int64_t rows = module.shape.size() == 2 ? module.shape[0] : 1;
      const int64_t cols = module.shape.back();
      if (module.kind != hf::WeightModule::Kind::kLinear || module.name.ends_with("o_proj")) {
        Mat<float> values(rows, cols);
        for (int64_t i = 0; i < values.size(); ++i)
          values.data()[i] = base + static_cast<float>(i) / 8;
        writer.write_float(module.weight_name(), values.view());
      } else {
        writer.write_linear(module.name, int_weight(rows, cols));
      }
    }
  }

  void write_checkpoint(float base = 0, int64_t max_shard = int64_t{1} << 30) {
    CheckpointWriter writer(job(max_shard));
    write_all(writer, base);
    writer.commit();
  }

  TempDir temp_;
};

TEST_F(AscendV1, WritesEveryFileOfTheFormatAndInspectIsContent) {
  write_checkpoint();
  EXPECT_THAT(
      names_in(temp_ / "out"),
      ElementsAre("Qwen3-Tiny_best_practice.yaml", "SHA256SUMS", "chat_template.jinja",
                  "config.json", "merges.txt", "modeling.py", "quant_model_description.json",
                  "quant_model_weights-00001-of-00001.safetensors",
                  "quant_model_weights.safetensors.index.json", "tokenizer.json"));
  EXPECT_EQ(read_text(temp_ / "out" / "tokenizer.json"), "{\"tokenizer\": 1}");
  EXPECT_EQ(read_text(temp_ / "out" / "Qwen3-Tiny_best_practice.yaml"),
            "apiversion: modelslim_v1\n");
  EXPECT_EQ(read_text(temp_ / "out" / "config.json"), read_text(temp_ / "model" / "config.json"));
  const mode_t mask = ::umask(0);
  ::umask(mask);
  for (const std::string& name : names_in(temp_ / "out"))
    EXPECT_EQ(fs::status(temp_ / "out" / name).permissions(), fs::perms(0666 & ~mask)) << name;

  const InspectReport report = inspect(temp_ / "out");
  EXPECT_THAT(report.findings, IsEmpty());
  EXPECT_EQ(report.model_quant_type, "W4A4_DYNAMIC");
}

TEST_F(AscendV1, ReadsBackWhatWasWritten) {
  write_checkpoint();
  const auto checkpoint = hf::AscendV1Checkpoint::open(temp_ / "out");
  EXPECT_TRUE(hf::AscendV1Checkpoint::is_ascendv1(temp_ / "out"));
  EXPECT_EQ(checkpoint.config().num_hidden_layers, 2);
  EXPECT_EQ(checkpoint.label("model.layers.1.mlp.up_proj"), "W4A4_DYNAMIC");
  EXPECT_EQ(checkpoint.label("model.layers.1.self_attn.o_proj"), "FLOAT");

  const auto codes = checkpoint.codes("model.layers.1.mlp.up_proj");
  ASSERT_EQ(codes.rows(), 24);
  ASSERT_EQ(codes.cols(), 16);
  EXPECT_EQ(codes.row(0)[0], -3);
  EXPECT_EQ(codes.row(1)[0], 16 % 7 - 3);
  const std::vector<float> scales = checkpoint.values("model.layers.1.mlp.up_proj", "weight_scale");
  ASSERT_EQ(scales.size(), 24u);
  EXPECT_EQ(scales[23], 24.0f);

  const TensorView& offset = checkpoint.files().at("model.layers.1.mlp.up_proj.weight_offset");
  for (int64_t i = 0; i < offset.size_bytes(); ++i) EXPECT_EQ(offset.data[i], std::byte{0});
  const Mat<float> head = to_f32(checkpoint.weight("lm_head"));
  EXPECT_EQ(head(9, 15), round_to(DType::kBF16, 159.0f / 8));
}

TEST_F(AscendV1, NamesShardsAndIndexesThem) {
  write_checkpoint(0, 1500);
  const auto index = nlohmann::ordered_json::parse(
      read_text(temp_ / "out" / "quant_model_weights.safetensors.index.json"));
  std::vector<std::string> in_index;
  int64_t bytes = 0;
  for (const OutputTensor& tensor : job().tensors) bytes += tensor.spec.size_bytes();
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  size_t i = 0;
  for (const auto& [name, file] : index["weight_map"].items()) {
    EXPECT_EQ(name, job().tensors.at(i++).spec.name);
    EXPECT_TRUE(fs::exists(temp_ / "out" / file.get<std::string>())) << file;
  }
  EXPECT_EQ(i, job().tensors.size());
  EXPECT_EQ(index["weight_map"]["model.layers.0.self_attn.q_proj.weight"].get<std::string>().substr(
                0, 29),
            "quant_model_weights-00001-of-");
  EXPECT_GT(hf::top_level_safetensors(temp_ / "out").size(), 2u);
  EXPECT_THAT(inspect(temp_ / "out").findings, IsEmpty());
}

TEST_F(AscendV1, WritesOneFileWithoutIndexForPartFileSizeZero) {
  write_checkpoint(0, 0);
  EXPECT_THAT(names_in(temp_ / "out"), Contains("quant_model_weights.safetensors"));
  EXPECT_THAT(names_in(temp_ / "out"), Not(Contains("quant_model_weights.safetensors.index.json")));
  EXPECT_THAT(inspect(temp_ / "out").findings, IsEmpty());
}

TEST_F(AscendV1, ShowsNothingBeforeCommit) {
  CheckpointWriter writer(job());
  write_all(writer);
  EXPECT_THAT(names_in(temp_ / "out"), ElementsAre(".laos-partial"));
}

TEST_F(AscendV1, DestroyedWithoutCommitLeavesNothing) {
  CheckpointJob deep = job();
  deep.save_path = temp_ / "new" / "deep/";
  {
    CheckpointWriter writer(deep);
    write_all(writer);
    EXPECT_TRUE(fs::exists(temp_ / "new" / "deep"));
  }
  EXPECT_FALSE(fs::exists(temp_ / "new"));

  fs::create_directory(temp_ / "out");
  { CheckpointWriter writer(job()); }
  EXPECT_TRUE(fs::exists(temp_ / "out")) << "it was there before";
  EXPECT_THAT(names_in(temp_ / "out"), IsEmpty());
}

TEST_F(AscendV1, OlderCheckpointStaysWholeUntilCommitAndIsReplacedByIt) {
  write_checkpoint(1, 1500);
  write_text(temp_ / "out" / "notes.md", "mine");
  const std::vector<std::string> before = names_in(temp_ / "out");
  {
    CheckpointWriter writer(job());
    write_all(writer, 2);
  }
  EXPECT_EQ(names_in(temp_ / "out"), before);
  const auto first = [&] {
    return to_f32(hf::AscendV1Checkpoint::open(temp_ / "out").weight("model.norm"))(0, 0);
  };
  EXPECT_EQ(first(), 1.0f);

  write_checkpoint(2, 0);
  EXPECT_EQ(first(), 2.0f);
  EXPECT_THAT(names_in(temp_ / "out"),
              ElementsAre("Qwen3-Tiny_best_practice.yaml", "SHA256SUMS", "chat_template.jinja",
                          "config.json", "merges.txt", "modeling.py", "notes.md",
                          "quant_model_description.json", "quant_model_weights.safetensors",
                          "tokenizer.json"));
}

TEST_F(AscendV1, ClearsWhatAKilledRunLeft) {
  fs::create_directories(temp_ / "out" / ".laos-partial" / "sub");
  write_text(temp_ / "out" / ".laos-partial" / "x.partial", "half");
  write_checkpoint();
  EXPECT_FALSE(fs::exists(temp_ / "out" / ".laos-partial"));
  EXPECT_TRUE(inspect(temp_ / "out").loads());
}

TEST_F(AscendV1, RefusesASecondWriterOfTheSamePath) {
  CheckpointWriter writer(job());
  const Error error = error_of([&] { CheckpointWriter second(job()); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.what(), HasSubstr("another process"));
  write_all(writer);
  writer.commit();
  EXPECT_TRUE(inspect(temp_ / "out").loads());
}

TEST_F(AscendV1, RowsInPiecesEqualTheWhole) {
  write_checkpoint(0, 0);
  const std::string whole = read_text(temp_ / "out" / "quant_model_weights.safetensors");

  CheckpointWriter pieces(job(0));
  write_all(pieces, 0, "model.embed_tokens");
  Mat<float> embedding(10, 20);  // wider than the tensor: rows have a stride
  for (int64_t row = 0; row < 10; ++row)
    for (int64_t col = 0; col < 16; ++col)
      embedding(row, col) = static_cast<float>(row * 16 + col) / 8;
  const MatView<const float> view = embedding.view().slice_cols(0, 16);
  pieces.write_float_rows("model.embed_tokens.weight", 7, view.slice_rows(7, 10));
  pieces.write_float_rows("model.embed_tokens.weight", 0, view.slice_rows(0, 7));
  pieces.commit();
  EXPECT_EQ(read_text(temp_ / "out" / "quant_model_weights.safetensors"), whole);
}

TEST_F(AscendV1, WritesAndReadsBackEveryLabel) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    CheckpointJob every = job();
    every.online = OnlineLayout{.max_tp_size = 2, .m = 4, .n = 6, .down_layers = {1}};
    every.global_rotation = 16;
    every.tensors = output_tensors(tiny_config(), dtype, every_label, &*every.online);
    CheckpointWriter writer(every);
    const quant::StaticRange range = {.scale = 0.5f, .offset = -3};
    Mat<float> matrix(16, 16);
    for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(i);
    for (const OutputTensor& tensor : every.tensors) {
      const Shape& shape = tensor.spec.shape;
      if (tensor.label.empty()) {
        Mat<float> square(shape[0], shape[1]);
        std::copy_n(matrix.data(), square.size(), square.data());
        writer.write_f32(tensor.spec.name, square.view());
      } else if (tensor.label == "FLOAT") {
        Mat<float> ones(shape.size() == 2 ? shape[0] : 1, shape.back());
        std::fill_n(ones.data(), ones.size(), 1.0f);
        writer.write_float(tensor.spec.name, ones.view());
      }
    }
    for (const OutputLinear& linear : output_linears(tiny_config(), every_label)) {
      const int64_t num_groups = linear.name.ends_with("down_proj") ? 3 : 1;
      writer.write_linear(linear.name,
                          int_weight(linear.out_features, linear.in_features, num_groups),
                          linear.scheme->act.is_static ? &range : nullptr);
    }
    writer.write_global_rotation(matrix.view());
    writer.commit();

    const auto checkpoint = hf::AscendV1Checkpoint::open(temp_ / "out");
    const std::string layer = "model.layers.1.";
    for (const OutputLinear& linear : output_linears(tiny_config(), every_label)) {
      const Mat<int8_t> codes = checkpoint.codes(linear.name);
      const quant::IntWeight written = int_weight(linear.out_features, linear.in_features, 1);
      ASSERT_EQ(codes.size(), written.q.size()) << linear.name;
      EXPECT_EQ(std::memcmp(codes.data(), written.q.data(), static_cast<size_t>(codes.size())), 0)
          << linear.name;
    }
    EXPECT_THAT(checkpoint.values(layer + "self_attn.q_proj", "input_scale"), ElementsAre(0.5f));
    EXPECT_THAT(checkpoint.values(layer + "self_attn.q_proj", "input_offset"), ElementsAre(-3.0f));
    // deq_scale = input scale * weight scale; quant_bias = 3 * the sum of the row's codes.
    EXPECT_EQ(checkpoint.values(layer + "self_attn.q_proj", "deq_scale").at(4), 2.5f);
    int32_t sum = 0;
    for (int i = 4 * 16; i < 5 * 16; ++i) sum += i % 7 - 3;
    EXPECT_EQ(checkpoint.quant_bias(layer + "self_attn.q_proj").at(4), 3 * sum);
    // scale_bias: 8 * scale * the sum of each sixteenth of the row.
    sum = 0;
    for (int i = 3 * 32 + 2; i < 3 * 32 + 4; ++i) sum += i % 7 - 3;
    EXPECT_EQ(checkpoint.values(layer + "self_attn.o_proj", "scale_bias").at(3 * 16 + 1),
              8.0f * 4 * static_cast<float>(sum));
    EXPECT_EQ(checkpoint.values(layer + "mlp.down_proj", "weight_scale").size(), 48u);
    EXPECT_EQ(checkpoint.values(layer + "mlp.down_proj", "kronecker_rotation_n").at(35), 35.0f);
    EXPECT_THAT(checkpoint.values("model.layers.0.mlp.down_proj", "kronecker_rotation_n"),
                IsEmpty());
    const auto rotation =
        io::TensorFiles::open_files({temp_ / "out" / "optional" / "quarot.safetensors"});
    EXPECT_EQ(to_f32(rotation.at("global_rotation"))(15, 15), 255.0f);

    // Everything fits; an engine loads no groups, W4A8 or online rotations.
    const InspectReport report = inspect(temp_ / "out");
    EXPECT_FALSE(report.loads());
    for (const Finding& finding : report.findings)
      EXPECT_TRUE(finding.what.find("does not load") != std::string::npos ||
                  finding.what.find("online rotation") != std::string::npos)
          << finding.what << " @ " << finding.where;
  }
  // A checkpoint without the rotation does not keep the older one's.
  write_checkpoint();
  EXPECT_FALSE(fs::exists(temp_ / "out" / "optional" / "quarot.safetensors"));
}

TEST_F(AscendV1, RefusesValuesThatAreNotFinite) {
  CheckpointWriter writer(job());
  Mat<float> head(10, 16);
  head.fill_zero();
  head(3, 5) = std::numeric_limits<float>::quiet_NaN();
  const Error nan = error_of([&] { writer.write_float("lm_head.weight", head.view()); });
  EXPECT_EQ(nan.code(), ErrorCode::kNumeric);
  EXPECT_THAT(nan.what(), HasSubstr("row 3, column 5"));
  EXPECT_THAT(nan.what(), HasSubstr("lm_head.weight"));
}

TEST_F(AscendV1, RefusesValuesTooLargeForF16) {
  CheckpointJob f16 = job();
  f16.tensors = output_tensors(tiny_config(), DType::kF16, mixed_schemes);
  CheckpointWriter writer(f16);
  Mat<float> norm(1, 16);
  norm.fill_zero();
  norm(0, 2) = 70'000;
  EXPECT_EQ(error_of([&] { writer.write_float("model.norm.weight", norm.view()); }).code(),
            ErrorCode::kNumeric);
}

TEST_F(AscendV1, CommitOfAnUnfinishedCheckpointIsOurDefectAndShowsNothing) {
  {
    CheckpointWriter writer(job());
    write_all(writer, 0, "lm_head");
    EXPECT_EQ(error_of([&] { writer.commit(); }).code(), ErrorCode::kInternal);
    EXPECT_THAT(names_in(temp_ / "out"), ElementsAre(".laos-partial"));
  }
  EXPECT_FALSE(fs::exists(temp_ / "out"));
}

TEST_F(AscendV1, CodesAndScalesOutOfRangeAreOurDefect) {
  CheckpointWriter writer(job());
  const std::string up = "model.layers.0.mlp.up_proj";
  quant::IntWeight weight = int_weight(24, 16);
  std::fill_n(weight.q.data(), weight.q.size(), int8_t{7});
  weight.q(23, 15) = 8;
  EXPECT_THROW(writer.write_linear(up, weight), Error);
  weight.q(23, 15) = -8;
  weight.scale[23] = 0;
  EXPECT_THROW(writer.write_linear(up, weight), Error);
  weight.scale[23] = 1;
  writer.write_linear(up, weight);
}

TEST_F(AscendV1, PlansTheBytesOfAllFiles) {
  write_checkpoint(0, 1500);
  int64_t bytes = 0;
  for (const std::string& name : names_in(temp_ / "out"))
    bytes += static_cast<int64_t>(fs::file_size(temp_ / "out" / name));
  EXPECT_GE(planned_bytes(job(1500)), bytes);
  EXPECT_LE(planned_bytes(job(1500)), bytes + 2000);
}

// --- paths ---------------------------------------------------------------------------------------

TEST_F(AscendV1, ChecksThePathWithoutCreatingAnything) {
  CheckpointJob deep = job();
  deep.save_path = temp_ / "a" / "b";
  check_output_path(deep, 1000);
  EXPECT_FALSE(fs::exists(temp_ / "a"));
}

TEST_F(AscendV1, RefusesTheModelDirectoryAndPathsInIt) {
  fs::create_directory_symlink(temp_ / "model", temp_ / "link");
  for (const char* path :
       {"model", "model/", "link", "model/sub/deep", "link/sub", "other/../model"}) {
    CheckpointJob bad = job();
    bad.save_path = temp_ / path;
    const Error error = error_of([&] { check_output_path(bad, 0); });
    EXPECT_EQ(error.code(), ErrorCode::kUsage) << path;
    EXPECT_THAT(error.what(), HasSubstr("into the model directory")) << path;
  }
}

TEST_F(AscendV1, RefusesAPathThatIsNoDirectory) {
  write_text(temp_ / "file", "");
  fs::create_symlink(temp_ / "nowhere", temp_ / "dangling");
  for (const char* path : {"file", "dangling"}) {
    CheckpointJob bad = job();
    bad.save_path = temp_ / path;
    EXPECT_EQ(error_of([&] { check_output_path(bad, 0); }).code(), ErrorCode::kUsage) << path;
  }
  CheckpointJob below = job();
  below.save_path = temp_ / "file" / "sub";
  EXPECT_THROW(check_output_path(below, 0), Error);
  CheckpointJob home = job();
  home.save_path = "~/out";
  EXPECT_THAT(error_of([&] { check_output_path(home, 0); }).what(),
              HasSubstr("which the shell has not expanded"));
  CheckpointJob empty = job();
  empty.save_path = "";
  EXPECT_EQ(error_of([&] { check_output_path(empty, 0); }).code(), ErrorCode::kUsage);
  CheckpointJob endless = job();
  endless.save_path = temp_ / std::string(5000, 'x');
  EXPECT_EQ(error_of([&] { check_output_path(endless, 0); }).code(), ErrorCode::kIo);
}

TEST_F(AscendV1, RefusesADirectoryItCannotWriteInto) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::create_directory(temp_ / "closed");
  fs::permissions(temp_ / "closed", fs::perms::owner_read | fs::perms::owner_exec);
  CheckpointJob bad = job();
  bad.save_path = temp_ / "closed" / "out";
  EXPECT_EQ(error_of([&] { check_output_path(bad, 0); }).code(), ErrorCode::kIo);
}

TEST_F(AscendV1, RefusesADiskThatIsTooSmall) {
  const Error error =
      error_of([&] { check_output_path(job(), std::numeric_limits<int64_t>::max()); });
  EXPECT_EQ(error.code(), ErrorCode::kResource);
  EXPECT_FALSE(fs::exists(temp_ / "out"));
}

TEST_F(AscendV1, RefusesToReplaceWeightsOfSomethingElse) {
  fs::create_directory(temp_ / "out");
  write_text(temp_ / "out" / "model.safetensors", "precious");
  const Error error = error_of([&] { check_output_path(job(), 0); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("model.safetensors"));
  EXPECT_THROW(CheckpointWriter{job()}, Error);
  EXPECT_EQ(read_text(temp_ / "out" / "model.safetensors"), "precious");
}

TEST_F(AscendV1, ForeignWeightsThatAppearDuringTheRunStay) {
  CheckpointWriter writer(job());
  write_all(writer);
  write_text(temp_ / "out" / "model.safetensors", "precious");
  EXPECT_EQ(error_of([&] { writer.commit(); }).code(), ErrorCode::kUsage);
  EXPECT_EQ(read_text(temp_ / "out" / "model.safetensors"), "precious");
  EXPECT_FALSE(fs::exists(temp_ / "out" / "quant_model_description.json"));
}

TEST_F(AscendV1, RefusesADirectoryInThePlaceOfAFile) {
  fs::create_directories(temp_ / "out" / "config.json");
  EXPECT_THAT(error_of([&] { check_output_path(job(), 0); }).what(), HasSubstr("config.json"));
}

TEST_F(AscendV1, RefusesAModelTypeThatIsNoFileName) {
  for (const std::string& type :
       {std::string(), std::string("../../x"), std::string("a\nb"), std::string(201, 'x')}) {
    CheckpointJob bad = job();
    bad.model_type = type;
    EXPECT_EQ(error_of([&] { check_output_path(bad, 0); }).code(), ErrorCode::kUsage) << type;
  }
}

TEST_F(AscendV1, RefusesAModelDirectoryWithoutConfig) {
  fs::remove(temp_ / "model" / "config.json");
  EXPECT_EQ(error_of([&] { check_output_path(job(), 0); }).code(), ErrorCode::kIo);
}

TEST_F(AscendV1, CopiesLinksOnlyToFilesOfTheModel) {
  write_text(temp_ / "secret.txt", "secret");
  fs::create_symlink("merges.txt", temp_ / "model" / "alias.txt");
  write_checkpoint();
  EXPECT_EQ(read_text(temp_ / "out" / "alias.txt"), "a b");

  fs::create_symlink(temp_ / "secret.txt", temp_ / "model" / "extra.txt");
  const Error error = error_of([&] { check_output_path(job(), 0); });
  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_THAT(error.what(), HasSubstr("extra.txt"));
}

TEST_F(AscendV1, CopiesFromASnapshotOfTheHubsCache) {
  const fs::path snapshot = temp_ / "models--tiny/snapshots/abc";
  fs::create_directories(snapshot);
  fs::create_directories(temp_ / "models--tiny/blobs");
  write_text(temp_ / "models--tiny/blobs/1", tiny_config_json().dump());
  write_text(temp_ / "models--tiny/blobs/2", "{\"t\": 2}");
  fs::create_symlink("../../blobs/1", snapshot / "config.json");
  fs::create_symlink("../../blobs/2", snapshot / "tokenizer.json");
  CheckpointJob cached = job();
  cached.model_directory = snapshot;
  CheckpointWriter writer(cached);
  write_all(writer);
  writer.commit();
  EXPECT_EQ(read_text(temp_ / "out" / "tokenizer.json"), "{\"t\": 2}");
  EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(temp_ / "out" / "tokenizer.json")));
}

TEST_F(AscendV1, LeavesFilesBehindThatTellHowOtherWeightsAreQuantizedOrAdapted) {
  for (const char* name : {"adapter_config.json", "quantize_config.json", "hf_quant_config.json",
                           "quant_config.json", "generation_config.json"})
    write_text(temp_ / "model" / name, "{}");
  write_checkpoint();
  for (const char* name :
       {"adapter_config.json", "quantize_config.json", "hf_quant_config.json", "quant_config.json"})
    EXPECT_FALSE(fs::exists(temp_ / "out" / name)) << name;
  EXPECT_TRUE(fs::exists(temp_ / "out" / "generation_config.json"));
}

TEST_F(AscendV1, CopiesAdditionalChatTemplates) {
  const fs::path snapshot = temp_ / "models--tiny/snapshots/abc";
  const fs::path templates = snapshot / "additional_chat_templates";
  fs::create_directories(templates);
  fs::create_directories(temp_ / "models--tiny/blobs");
  write_text(snapshot / "config.json", tiny_config_json().dump());
  write_text(temp_ / "models--tiny/blobs/1", "{{ tools }}");
  fs::create_symlink("../../../blobs/1", templates / "tool_use.jinja");
  write_text(templates / "rag.jinja", "{{ documents }}");
  write_text(templates / "notes.md", "other");
  CheckpointJob cached = job();
  cached.model_directory = snapshot;
  CheckpointWriter writer(cached);
  write_all(writer);
  writer.commit();
  const fs::path written = temp_ / "out/additional_chat_templates";
  EXPECT_THAT(names_in(written), ElementsAre("rag.jinja", "tool_use.jinja"));
  EXPECT_EQ(read_text(written / "tool_use.jinja"), "{{ tools }}");
  EXPECT_THAT(read_text(temp_ / "out" / kManifestFile),
              HasSubstr("additional_chat_templates/rag.jinja"));
  EXPECT_THAT(verify(temp_ / "out").problems, testing::IsEmpty());

  write_text(temp_ / "secret", "secret");
  fs::create_symlink(temp_ / "secret", templates / "other.jinja");
  EXPECT_THAT(error_of([&] { check_output_path(cached, 0); }).what(), HasSubstr("other.jinja"));
  fs::remove_all(templates);
  fs::create_directories(temp_ / "elsewhere");
  write_text(temp_ / "elsewhere/a.jinja", "secret");
  fs::create_directory_symlink(temp_ / "elsewhere", templates);
  EXPECT_THAT(error_of([&] { check_output_path(cached, 0); }).what(),
              HasSubstr("additional_chat_templates"));
}

// The chat template of another model, say; what somebody else put there stays.
TEST_F(AscendV1, LeavesNoFileOfAnEarlierRunBehind) {
  fs::create_directories(temp_ / "model/additional_chat_templates");
  for (const char* name : {"chat_template.jinja", "additional_chat_templates/rag.jinja"})
    write_text(temp_ / "model" / name, "{{ messages }}");
  write_checkpoint();
  write_text(temp_ / "out/notes.txt", "mine");
  EXPECT_TRUE(fs::exists(temp_ / "out/additional_chat_templates/rag.jinja"));
  fs::remove(temp_ / "model/chat_template.jinja");
  fs::remove_all(temp_ / "model/additional_chat_templates");
  write_checkpoint();
  EXPECT_FALSE(fs::exists(temp_ / "out/chat_template.jinja"));
  EXPECT_FALSE(fs::exists(temp_ / "out/additional_chat_templates"));
  EXPECT_TRUE(fs::exists(temp_ / "out/config.json"));
  EXPECT_EQ(read_text(temp_ / "out/notes.txt"), "mine");
  EXPECT_THAT(verify(temp_ / "out").problems, testing::IsEmpty());
}

TEST_F(AscendV1, LeavesPipesOfTheModelDirectoryAlone) {
  ASSERT_EQ(::mkfifo((temp_ / "model" / "pipe.txt").c_str(), 0600), 0);
  write_checkpoint();
  EXPECT_FALSE(fs::exists(temp_ / "out" / "pipe.txt"));
}

}  // namespace
}  // namespace laos::save
