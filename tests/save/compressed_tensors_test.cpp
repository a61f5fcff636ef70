#include "hf/compressed_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "hf/family.h"
#include "hf/model_tensors.h"
#include "save/checkpoint_writer.h"
#include "save/fixtures.h"
#include "save/format.h"
#include "save/inspect.h"

namespace laos::save {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const fs::path kGoldens = fs::path(LAOS_SOURCE_DIR) / "tests/golden/compressed-tensors";

json golden(const char* name) { return json::parse(std::ifstream(kGoldens / name)); }

// Codes that take every value of `bits`.
quant::IntWeight weight_of(int64_t rows, int64_t cols, int bits, int64_t num_groups) {
  quant::IntWeight weight{.spec = {}, .q = Mat<int8_t>(rows, cols), .scale = {}};
  for (int64_t i = 0; i < weight.q.size(); ++i)
    weight.q.data()[i] = static_cast<int8_t>(i % (1 << bits) - (1 << (bits - 1)));
  weight.scale.resize(static_cast<size_t>(rows * num_groups));
  std::iota(weight.scale.begin(), weight.scale.end(), 1.0f);
  return weight;
}

// As tests/golden/compressed-tensors/make.py has them.
std::optional<quant::LinearScheme> golden_schemes(const std::string& linear) {
  if (linear.ends_with("down_proj"))
    return quant::LinearScheme{{.bits = 4, .group_size = 8}, {.bits = 16}};
  return linear.find(".mlp.") == std::string::npos ? w8a8() : w4a4();
}

// Every other way to store a linear: static inputs with and without a zero point, float inputs in
// groups, and int4 beside int8. v_proj stays float.
std::optional<quant::LinearScheme> other_schemes(const std::string& linear) {
  const quant::ActSpec shifted = {.bits = 8, .is_static = true, .symmetric = false};
  if (linear.ends_with("v_proj")) return std::nullopt;
  if (linear.ends_with("q_proj")) return quant::LinearScheme{{.bits = 8}, shifted};
  if (linear.ends_with("k_proj"))
    return quant::LinearScheme{{.bits = 8}, {.bits = 8, .is_static = true}};
  if (linear.ends_with("o_proj")) return quant::LinearScheme{{.bits = 4}, {.bits = 8}};
  if (linear.ends_with("down_proj"))
    return quant::LinearScheme{{.bits = 8, .group_size = 8}, {.bits = 16}};
  return quant::LinearScheme{{.bits = 8, .group_size = 8}, {.bits = 8}};
}

class CompressedTensors : public testing::Test {
 protected:
  void SetUp() override { write_model_directory(temp_ / "model"); }

  CheckpointJob job(const SchemeLookup& schemes) {
    return {.save_path = temp_ / "out",
            .model_directory = temp_ / "model",
            .float_dtype = DType::kBF16,
            .tensors = output_tensors(tiny_config(), DType::kBF16, schemes, nullptr,
                                      compressed_tensors_format()),
            .max_shard_bytes = 0,
            .model_type = "Tiny",
            .recipe_yaml = "apiversion: modelslim_v1\n",
            .format = &compressed_tensors_format()};
  }

  static quant::IntWeight weight_of(const OutputLinear& linear) {
    const quant::WeightSpec& spec = linear.scheme->weight;
    return save::weight_of(linear.out_features, linear.in_features, spec.bits,
                           spec.group_size == 0 ? 1 : linear.in_features / spec.group_size);
  }

  void write(const SchemeLookup& schemes) {
    CheckpointWriter writer(job(schemes));
    for (const hf::WeightModule& module : hf::weight_modules(tiny_config())) {
      if (module.kind == hf::WeightModule::Kind::kLinear && schemes(module.name)) continue;
      Mat<float> ones(module.shape.size() == 2 ? module.shape[0] : 1, module.shape.back());
      std::fill_n(ones.data(), ones.size(), 1.0f);
      writer.write_float(module.weight_name(), ones.view());
    }
    const quant::StaticRange range = {.scale = 0.5f, .offset = -3};
    const quant::StaticRange centred = {.scale = 0.25f, .offset = 0};
    for (const OutputLinear& linear : output_linears(tiny_config(), schemes)) {
      if (!linear.scheme) continue;
      const quant::StaticRange* input = nullptr;
      if (linear.scheme->act.is_static) input = linear.scheme->act.symmetric ? &centred : &range;
      writer.write_linear(linear.name, weight_of(linear), input);
    }
    writer.commit();
  }

  json section() {
    return json::parse(std::ifstream(temp_ / "out" / "config.json"))["quantization_config"];
  }
  // Puts another quantization_config in place.
  void change(const json& section) {
    json config = json::parse(std::ifstream(temp_ / "out" / "config.json"));
    config["quantization_config"] = section;
    write_text(temp_ / "out" / "config.json", config.dump());
  }
  hf::CompressedTensorsCheckpoint open() {
    return hf::CompressedTensorsCheckpoint::open(temp_ / "out");
  }
  TempDir temp_;
};

// A family whose names share nothing with those of Llama.
TEST_F(CompressedTensors, DescribeAFamilyWithNamesOfItsOwn) {
  hf::Family toy = hf::families().front();
  toy.names.layers = "transformer.h";
  toy.names.embed_tokens = "transformer.wte";
  toy.names.lm_head = "transformer.out";
  hf::Config config = tiny_config(2);
  config.family = &toy;
  CheckpointJob toys = job([](const std::string&) { return std::nullopt; });
  toys.tensors = output_tensors(
      config, DType::kBF16,
      [](const std::string& linear) {
        return linear.starts_with("transformer.h.0.") ? std::nullopt : std::optional(w8a8());
      },
      nullptr, compressed_tensors_format());
  const json section =
      json::parse(exported_config("{}", "config.json", toys))["quantization_config"];
  const auto ignored = section["ignore"].get<std::vector<std::string>>();
  EXPECT_EQ(ignored.size(), static_cast<size_t>(hf::kNumLinears) + 1);
  EXPECT_THAT(ignored, testing::Contains("transformer.out"));
  EXPECT_THAT(ignored, testing::Not(testing::Contains("transformer.wte")));
  for (const OutputTensor& tensor : toys.tensors) {
    const int64_t layer = tensor.spec.name.starts_with("transformer.h.0.")   ? 0
                          : tensor.spec.name.starts_with("transformer.h.1.") ? 1
                                                                             : -1;
    EXPECT_EQ(tensor.layer_idx, layer) << tensor.spec.name;
  }
}

TEST(PackedWords, AreThoseOfThePackage) {
  for (const json& row : golden("packed.json")) {
    const int bits = row["bits"];
    const auto rows = std::ssize(row["codes"]), cols = std::ssize(row["codes"][0]);
    Mat<int8_t> codes(rows, cols);
    for (int64_t i = 0; i < codes.size(); ++i)
      codes.data()[i] = row["codes"][static_cast<size_t>(i / cols)][static_cast<size_t>(i % cols)];
    const Mat<int32_t> words = hf::pack_words(codes, bits);
    ASSERT_EQ(words.cols(), std::ssize(row["words"][0]));
    for (int64_t i = 0; i < words.size(); ++i)
      EXPECT_EQ(words.data()[i], row["words"][static_cast<size_t>(i / words.cols())]
                                    [static_cast<size_t>(i % words.cols())]);
    const Mat<int8_t> back =
        hf::unpack_words(reinterpret_cast<const std::byte*>(words.data()), rows, cols, bits);
    EXPECT_TRUE(std::equal(codes.data(), codes.data() + codes.size(), back.data()));
  }
}

TEST_F(CompressedTensors, ConfigSaysWhatThePackageSays) {
  write(golden_schemes);
  json expected = golden("config.json");
  expected.erase("moe_sparsity_config");  // of experts
  EXPECT_EQ(section(), expected);
}

TEST_F(CompressedTensors, ReadsBackWhatItWrote) {
  for (const SchemeLookup& schemes : {SchemeLookup(golden_schemes), SchemeLookup(other_schemes)}) {
    write(schemes);
    const auto checkpoint = open();
    for (const OutputLinear& linear : output_linears(tiny_config(), schemes)) {
      EXPECT_EQ(checkpoint.label(linear.name),
                linear.scheme ? quant::label_of(*linear.scheme).value() : "FLOAT");
      if (!linear.scheme) continue;
      const quant::IntWeight written = weight_of(linear);
      const Mat<int8_t> codes = checkpoint.codes(linear.name);
      ASSERT_EQ(codes.size(), written.q.size()) << linear.name;
      EXPECT_TRUE(std::equal(codes.data(), codes.data() + codes.size(), written.q.data()))
          << linear.name;
      EXPECT_EQ(checkpoint.weight_scale(linear.name), written.scale) << linear.name;
    }
    std::filesystem::remove_all(temp_ / "out");
  }
}

TEST_F(CompressedTensors, StaticInputsHaveAZeroPointWhereTheyAreShifted) {
  write(other_schemes);
  const auto checkpoint = open();
  const hf::StaticInput shifted = checkpoint.static_input("model.layers.1.self_attn.q_proj");
  EXPECT_EQ(shifted.scale, 0.5f);
  EXPECT_EQ(shifted.offset, -3.0f);
  EXPECT_EQ(shifted.deq_scale.at(4), 2.5f);
  int32_t sum = 0;
  for (int i = 4 * 16; i < 5 * 16; ++i) sum += i % 256 - 128;
  EXPECT_EQ(shifted.quant_bias.at(4), 3 * sum);
  EXPECT_FALSE(shifted.holds_bias);
  EXPECT_EQ(checkpoint.static_input("model.layers.1.self_attn.k_proj").offset, 0.0f);
  EXPECT_FALSE(checkpoint.files().contains("model.layers.1.self_attn.k_proj.input_zero_point"));
}

TEST_F(CompressedTensors, ReplacesItsOwnCheckpointAndNoFloatOne) {
  write(golden_schemes);
  write(other_schemes);
  EXPECT_EQ(open().label("model.layers.0.mlp.up_proj"), "W8A8_DYNAMIC");
  json config = json::parse(std::ifstream(temp_ / "out" / "config.json"));
  config.erase("quantization_config");
  write_text(temp_ / "out" / "config.json", config.dump());
  EXPECT_EQ(error_of([&] { write(golden_schemes); }).code(), ErrorCode::kUsage);
}

TEST_F(CompressedTensors, TargetsMayBeExpressionsAndNamesGoFirst) {
  write(golden_schemes);
  json changed = section();
  changed["config_groups"]["group_0"]["targets"] = {"Linear"};
  changed["config_groups"]["group_1"]["targets"] = {"re:.*\\.(gate|up)_proj$"};
  change(changed);
  const auto checkpoint = open();
  EXPECT_EQ(checkpoint.label("model.layers.0.mlp.up_proj"), "W4A4_DYNAMIC");
  EXPECT_EQ(checkpoint.label("model.layers.0.mlp.down_proj"), "W4A16");
  EXPECT_EQ(checkpoint.label("model.layers.0.self_attn.o_proj"), "W8A8_DYNAMIC");
  EXPECT_EQ(checkpoint.label("lm_head"), "FLOAT");
}

TEST_F(CompressedTensors, RefusesWhatIsNotComputedAtItsPlace) {
  write(golden_schemes);
  const json good = section();
  const std::vector<std::pair<const char*, json>> rows = {
      {"/config_groups/group_0/weights/type", "float"},
      {"/config_groups/group_0/weights/symmetric", false},
      {"/config_groups/group_0/weights/strategy", "block"},
      {"/config_groups/group_0/weights/num_bits", 2},
      {"/config_groups/group_2/weights/group_size", -1},
      {"/config_groups/group_0/input_activations/strategy", "group"},
      {"/config_groups/group_0/input_activations/symmetric", false},
      {"/config_groups/group_0/format", "marlin-24"},
      {"/config_groups/group_0/targets", json::array({"re:("})},
      {"/config_groups/group_0/targets", 1},
      {"/config_groups", json::array()},
      {"/kv_cache_scheme", {{"num_bits", 8}}},
      {"/transform_config", {{"config_groups", 1}}},
      {"/ignore", json::array()},  // lm_head is then quantized
  };
  for (const auto& [place, value] : rows) {
    json bad = good;
    if (std::string(place) == "/ignore") bad["config_groups"]["group_0"]["targets"] = {"Linear"};
    bad[json::json_pointer(place)] = value;
    change(bad);
    EXPECT_EQ(error_of([&] { open(); }).code(), ErrorCode::kUnsupported) << place;
  }
}

TEST_F(CompressedTensors, RefusesTensorsThatDoNotFitTheirDescription) {
  write(golden_schemes);
  json bad = section();
  bad["config_groups"]["group_1"]["format"] = "int-quantized";
  change(bad);
  const Error error = error_of([&] { open(); });
  EXPECT_EQ(error.code(), ErrorCode::kFormat);
  EXPECT_THAT(error.what(), HasSubstr("gate_proj"));
}

TEST_F(CompressedTensors, InspectionSaysWhichEngineLoadsIt) {
  using scheme::Engine;
  const auto what = [&](std::optional<Engine> engine) {
    std::string text;
    for (const Finding& finding : inspect(temp_ / "out", {.engine = engine}).findings)
      if (finding.severity == Severity::kError) text += finding.what + "; ";
    return text;
  };
  write(golden_schemes);
  EXPECT_EQ(what(std::nullopt), "");
  EXPECT_EQ(inspect(temp_ / "out").engine, Engine::kTransformers);
  EXPECT_EQ(what(Engine::kVllm), "");
  EXPECT_THAT(what(Engine::kVllmAscend), HasSubstr("vLLM-Ascend is not known to load any"));
  std::filesystem::remove_all(temp_ / "out");
  write(other_schemes);
  EXPECT_EQ(what(Engine::kTransformers), "");
  EXPECT_THAT(what(Engine::kVllm), HasSubstr("linears that engines fuse have different schemes"));
  change({{"quant_method", "compressed-tensors"}, {"config_groups", 1}});
  EXPECT_THAT(what(std::nullopt), HasSubstr("must be a mapping"));
}

TEST_F(CompressedTensors, InspectionCountsWhatCarriesEachLabel) {
  write(golden_schemes);
  const InspectReport report = inspect(temp_ / "out");
  ASSERT_EQ(report.labels.size(), 4u);
  EXPECT_EQ(report.labels[0].label, "W8A8_DYNAMIC");
  EXPECT_EQ(report.labels[0].weights, 8);
  // q, k, v and o of two layers with a bfloat16 scale a row: heads are 4 and 2 of 8.
  EXPECT_EQ(report.labels[0].parameters, 2 * (2 * 32 * 16 + 2 * 16 * 16));
  EXPECT_EQ(report.labels[0].bytes, report.labels[0].parameters + 2 * 2 * (32 + 16 + 16 + 16));
}

TEST_F(CompressedTensors, HasNoPlaceForOnlineRotations) {
  const OnlineLayout online = {.max_tp_size = 1, .m = 4, .n = 6, .down_layers = {1}};
  EXPECT_EQ(error_of([&] {
              output_tensors(tiny_config(), DType::kBF16, golden_schemes, &online,
                             compressed_tensors_format());
            }).code(),
            ErrorCode::kUnsupported);
}

TEST_F(CompressedTensors, W4A16HasNoNameInAscendV1) {
  EXPECT_THAT(error_of([&] { output_tensors(tiny_config(), DType::kBF16, golden_schemes); }).what(),
              HasSubstr("W4A16 is not written as AscendV1"));
}

}  // namespace
}  // namespace laos::save
