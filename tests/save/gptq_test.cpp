#include "hf/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "hf/compressed_tensors.h"
#include "hf/model_tensors.h"
#include "save/checkpoint_writer.h"
#include "save/convert.h"
#include "save/fixtures.h"
#include "save/format.h"
#include "save/inspect.h"

namespace laos::save {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;

struct GptqKind {
  int bits;
  int64_t group_size;
};
void PrintTo(const GptqKind& kind, std::ostream* out) {
  *out << kind.bits << " bits in groups of " << kind.group_size;
}

class GptqFormat : public testing::Test {
 protected:
  void SetUp() override { write_model_directory(temp_ / "model"); }

  static SchemeLookup all(int bits, int64_t group_size) {
    return [=](const std::string&) {
      return quant::LinearScheme{{.bits = bits, .group_size = group_size}, {.bits = 16}};
    };
  }
  // Codes that take every value, and scales that all differ, some of them negative where they may.
  static quant::IntWeight weight_of(const hf::WeightModule& module,
                                    const quant::LinearScheme& scheme) {
    const int bits = scheme.weight.bits;
    quant::IntWeight weight{
        .spec = scheme.weight, .q = Mat<int8_t>(module.shape[0], module.shape[1]), .scale = {}};
    for (int64_t i = 0; i < weight.q.size(); ++i)
      weight.q.data()[i] = static_cast<int8_t>((i * 7) % (1 << bits) - (1 << (bits - 1)));
    const int64_t groups =
        scheme.weight.group_size == 0 ? 1 : module.shape[1] / scheme.weight.group_size;
    for (int64_t i = 0; i < module.shape[0] * groups; ++i) {
      const float sign = bits == 4 && i % 3 == 1 ? -0.01f : 0.01f;
      weight.scale.push_back(round_to(DType::kBF16, sign * static_cast<float>(i + 1)));
    }
    return weight;
  }
  void write(const SchemeLookup& schemes, const Format& format = gptq_format()) {
    CheckpointWriter writer(
        {.save_path = temp_ / "q",
         .model_directory = temp_ / "model",
         .float_dtype = DType::kBF16,
         .tensors = output_tensors(tiny_config(), DType::kBF16, schemes, nullptr, format),
         .max_shard_bytes = max_shard_bytes({}),
         .model_type = "Tiny",
         .recipe_yaml = "apiversion: modelslim_v1\n",
         .format = &format});
    for (const hf::WeightModule& module : hf::weight_modules(tiny_config())) {
      const auto scheme =
          module.kind == hf::WeightModule::Kind::kLinear ? schemes(module.name) : std::nullopt;
      if (scheme) {
        writer.write_linear(module.name, weight_of(module, *scheme));
        continue;
      }
      Mat<float> values(module.shape.size() == 2 ? module.shape[0] : 1, module.shape.back());
      std::fill_n(values.data(), values.size(), 1.0f);
      writer.write_float(module.weight_name(), values.view());
    }
    writer.commit();
  }
  json config() const { return json::parse(std::ifstream(temp_ / "q" / "config.json")); }
  void change_section(const std::string& key, const json& value) {
    json changed = config();
    changed["quantization_config"][key] = value;
    write_text(temp_ / "q" / "config.json", changed.dump());
  }
  std::vector<std::string> findings(scheme::Engine engine) const {
    std::vector<std::string> texts;
    for (const Finding& finding : inspect(temp_ / "q", {.engine = engine}).findings)
      texts.push_back(finding.what);
    return texts;
  }
  TempDir temp_;
};

// The words as GPTQ's loaders take them apart: inputs of a word are rows of the
// transposed weight, zero points lie along the outputs and are one too small.
float dequantized(const io::TensorFiles& files, const std::string& linear, int bits, int64_t out,
                  int64_t in) {
  const auto word = [&](const char* suffix, int64_t row, int64_t col) {
    const TensorView& tensor = files.at(linear + suffix);
    uint32_t value;
    std::memcpy(&value, tensor.data + 4 * (row * tensor.shape.back() + col), 4);
    return value;
  };
  const int64_t per_word = 32 / bits;
  const uint32_t mask = (1u << bits) - 1;
  const auto group = static_cast<int64_t>(word(".g_idx", 0, in));
  const uint32_t code = (word(".qweight", in / per_word, out) >> (in % per_word * bits)) & mask;
  const uint32_t zero =
      ((word(".qzeros", group, out / per_word) >> (out % per_word * bits)) & mask) + 1;
  return to_f32(files.at(linear + ".scales"))(group, out) *
         static_cast<float>(static_cast<int>(code) - static_cast<int>(zero));
}

class GptqKinds : public GptqFormat, public testing::WithParamInterface<GptqKind> {};

TEST_P(GptqKinds, AreWhatLoadersTakeApartAndAreReadBack) {
  const auto [bits, group_size] = GetParam();
  write(all(bits, group_size));
  const json section = config()["quantization_config"];
  EXPECT_EQ(section["bits"], bits);
  EXPECT_EQ(section["group_size"], group_size == 0 ? -1 : group_size);
  EXPECT_EQ(json::parse(std::ifstream(temp_ / "q" / "quantize_config.json")), section);
  const auto checkpoint = hf::GptqCheckpoint::open(temp_ / "q");
  for (const hf::WeightModule& module : hf::weight_modules(tiny_config())) {
    if (module.kind != hf::WeightModule::Kind::kLinear) continue;
    const quant::IntWeight weight = weight_of(module, *all(bits, group_size)(module.name));
    EXPECT_EQ(checkpoint.weight_scale(module.name), weight.scale);
    const Mat<int8_t> codes = checkpoint.codes(module.name);
    const int64_t groups = std::ssize(weight.scale) / module.shape[0];
    for (int64_t i = 0; i < module.shape[0]; ++i)
      for (int64_t j = 0; j < module.shape[1]; ++j) {
        ASSERT_EQ(codes(i, j), weight.q(i, j)) << module.name;
        const float scale =
            weight.scale[static_cast<size_t>(i * groups + j * groups / module.shape[1])];
        ASSERT_EQ(dequantized(checkpoint.files(), module.name, bits, i, j),
                  scale * static_cast<float>(weight.q(i, j)))
            << module.name;
      }
  }
  for (const scheme::Engine engine : {scheme::Engine::kTransformers, scheme::Engine::kVllm})
    EXPECT_THAT(findings(engine), IsEmpty());
  EXPECT_FALSE(inspect(temp_ / "q", {.engine = scheme::Engine::kSglang}).loads());
}

INSTANTIATE_TEST_SUITE_P(
    All, GptqKinds, testing::Values(GptqKind{4, 0}, GptqKind{4, 8}, GptqKind{8, 0}, GptqKind{8, 8}),
    [](const auto& of) {
      return "W" + std::to_string(of.param.bits) + "Groups" + std::to_string(of.param.group_size);
    });

TEST_F(GptqFormat, GoesToCompressedTensorsAndBackAsTheSameBytes) {
  write(all(4, 8));
  convert(temp_ / "q", compressed_tensors_format(), temp_ / "second");
  convert(temp_ / "second", gptq_format(), temp_ / "third");
  for (const char* file :
       {"model-00001-of-00001.safetensors", "quantize_config.json", "Tiny_best_practice.yaml"})
    EXPECT_EQ(read_text(temp_ / "third" / file), read_text(temp_ / "q" / file)) << file;
  EXPECT_FALSE(fs::exists(temp_ / "second" / "quantize_config.json"));
  EXPECT_EQ(json::parse(read_text(temp_ / "third" / "config.json")), config());
  EXPECT_THAT(error_of([&] { convert(temp_ / "q", ascendv1_format(), temp_ / "n"); }).what(),
              HasSubstr("W4A16 is not written as AscendV1"));
}

TEST_F(GptqFormat, CarriesW8A16ToAscendV1AndBack) {
  write(all(8, 0));
  convert(temp_ / "q", ascendv1_format(), temp_ / "second");
  convert(temp_ / "second", gptq_format(), temp_ / "third");
  EXPECT_EQ(read_text(temp_ / "third" / "model-00001-of-00001.safetensors"),
            read_text(temp_ / "q" / "model-00001-of-00001.safetensors"));
}

// Scales of 4-bit weights may be negative, those of 8-bit ones not.
TEST_F(GptqFormat, RefusesToConvertScalesThatTheSchemeDoesNotHave) {
  write(all(8, 0));
  const fs::path shard = temp_ / "q" / "model-00001-of-00001.safetensors";
  std::string bytes = read_text(shard);
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const json scales =
      json::parse(bytes.substr(8, header))["model.layers.0.mlp.up_proj.scales"]["data_offsets"];
  // The sign of the first, in bf16.
  bytes[8 + header + scales[0].get<size_t>() + 1] |= static_cast<char>(0x80);
  write_text(shard, bytes);
  EXPECT_THAT(error_of([&] { convert(temp_ / "q", ascendv1_format(), temp_ / "second"); }).what(),
              HasSubstr("scales that W8A16 does not have"));
  EXPECT_FALSE(fs::exists(temp_ / "second"));
}

TEST_F(GptqFormat, SaysWhichLinearsStayFloatToEachLoader) {
  write([](const std::string& linear) {
    return linear.ends_with("down_proj")
               ? std::nullopt
               : std::optional(quant::LinearScheme{{.bits = 4, .group_size = 8}, {.bits = 16}});
  });
  const json section = config()["quantization_config"];
  EXPECT_TRUE(section["dynamic"].contains("-:^model\\.layers\\.1\\.mlp\\.down_proj$"));
  EXPECT_EQ(section["dynamic"].size(), 2u);
  EXPECT_EQ(section["modules_in_block_to_quantize"].size(), 6u);
  EXPECT_THAT(findings(scheme::Engine::kTransformers), IsEmpty());
  EXPECT_EQ(hf::GptqCheckpoint::open(temp_ / "q").label("model.layers.0.mlp.down_proj"), "FLOAT");
}

TEST_F(GptqFormat, OfALinearFloatInOneLayerAloneIsNotForTransformers) {
  write([](const std::string& linear) {
    return linear == "model.layers.1.mlp.down_proj"
               ? std::nullopt
               : std::optional(quant::LinearScheme{{.bits = 4, .group_size = 8}, {.bits = 16}});
  });
  EXPECT_THAT(findings(scheme::Engine::kTransformers),
              testing::ElementsAre(HasSubstr("in some layers alone")));
  EXPECT_THAT(findings(scheme::Engine::kVllm), IsEmpty());
}

TEST_F(GptqFormat, RefusesWhatItHasNoPlaceFor) {
  const auto refusal = [&](const SchemeLookup& schemes) {
    return std::string(error_of([&] { write(schemes); }).what());
  };
  EXPECT_THAT(refusal([](const std::string&) { return w8a8(); }),
              HasSubstr("W8A8_DYNAMIC is not written as GPTQ"));
  EXPECT_THAT(
      refusal([](const std::string& linear) {
        return quant::LinearScheme{{.bits = linear.ends_with("up_proj") ? 8 : 4}, {.bits = 16}};
      }),
      HasSubstr("one width and one group size"));
}

TEST_F(GptqFormat, IsReadInItsSecondVersionToo) {
  write(all(4, 8));
  const Mat<int8_t> codes =
      hf::GptqCheckpoint::open(temp_ / "q").codes("model.layers.0.mlp.up_proj");
  const fs::path shard = temp_ / "q" / "model-00001-of-00001.safetensors";
  change_section("checkpoint_format", "gptq_v2");
  EXPECT_THAT(error_of([&] { hf::GptqCheckpoint::open(temp_ / "q"); }).what(),
              HasSubstr("zero points that are not in the middle"));
  std::string bytes = read_text(shard);
  // Zero points are the only words of 0x77777777.
  for (size_t at = 0; (at = bytes.find("wwww", at)) != std::string::npos; at += 4)
    bytes.replace(at, 4, "\x88\x88\x88\x88");
  write_text(shard, bytes);
  const auto second = hf::GptqCheckpoint::open(temp_ / "q");
  const Mat<int8_t> again = second.codes("model.layers.0.mlp.up_proj");
  EXPECT_TRUE(std::equal(codes.data(), codes.data() + codes.size(), again.data()));
}

TEST_F(GptqFormat, OfOtherProgramsIsRefusedWhereItIsNotComputed) {
  write(all(4, 8));
  const json section = config()["quantization_config"];
  const auto refusal = [&](const std::string& key, const json& value) {
    change_section(key, value);
    const std::string what = error_of([&] { hf::GptqCheckpoint::open(temp_ / "q"); }).what();
    change_section(key, section.contains(key) ? section[key] : json());
    return what;
  };
  EXPECT_THAT(refusal("bits", 3), HasSubstr("quantization_config.bits"));
  EXPECT_THAT(refusal("group_size", 0), HasSubstr("quantization_config.group_size"));
  EXPECT_THAT(refusal("sym", false), HasSubstr("zero points"));
  EXPECT_THAT(refusal("desc_act", true), HasSubstr("reordered"));
  EXPECT_THAT(refusal("lm_head", true), HasSubstr("lm_head"));
  EXPECT_THAT(refusal("checkpoint_format", "marlin"), HasSubstr("checkpoint_format"));
  EXPECT_THAT(refusal("dynamic", {{"+:.*up_proj", {{"bits", 8}}}}), HasSubstr("several kinds"));
  EXPECT_THAT(refusal("group_size", 4), HasSubstr("shape is"));
  EXPECT_NO_THROW(hf::GptqCheckpoint::open(temp_ / "q"));
}

// AutoRound has names of its own for the same tensors, which hold no order of groups.
TEST_F(GptqFormat, OfAutoRoundIsReadWhereItIsComputed) {
  write(all(4, 8));
  const json good = {{"quant_method", "auto-round"},
                     {"bits", 4},
                     {"data_type", "int"},
                     {"group_size", 8},
                     {"sym", true},
                     {"packing_format", "auto_round:auto_gptq"},
                     {"extra_config", {{"lm_head", {{"bits", 16}, {"data_type", "float"}}}}}};
  const auto change = [&](const char* key, const json& value) {
    json changed = config();
    changed["quantization_config"] = good;
    if (*key != 0) changed["quantization_config"][key] = value;
    write_text(temp_ / "q" / "config.json", changed.dump());
  };
  change("", {});
  const std::string linear = "model.layers.0.mlp.up_proj";
  EXPECT_EQ(hf::open_quantized(temp_ / "q")->label(linear), "W4A16");
  EXPECT_EQ(inspect(temp_ / "q").model_quant_type, "auto-round");
  const auto refusal = [&](const char* key, const json& value) {
    change(key, value);
    return std::string(error_of([&] { hf::open_quantized(temp_ / "q"); }).what());
  };
  EXPECT_THAT(refusal("packing_format", "auto_round:auto_awq"), HasSubstr("packing_format"));
  EXPECT_THAT(refusal("packing_format", json()), HasSubstr("packing_format"));
  EXPECT_THAT(refusal("packing_format", "auto_round:gptqmodel"), HasSubstr("in the middle"));
  EXPECT_THAT(refusal("data_type", "mx_fp"), HasSubstr("data_type"));
  EXPECT_THAT(refusal("act_bits", 8), HasSubstr("quantized inputs"));
  EXPECT_THAT(refusal("extra_config", {{linear, {{"bits", 8}}}}), HasSubstr("several kinds"));
  EXPECT_THAT(refusal("sym", false), HasSubstr("zero points"));
}

// A run that was stopped between the older checkpoint and its own.
TEST_F(GptqFormat, WithoutItsConfigIsNoCheckpointAndIsReplaced) {
  write(all(4, 8));
  const std::string config = read_text(temp_ / "q" / "config.json");
  write_text(temp_ / "q" / "config.json", unfinished_config(gptq_format()));
  EXPECT_FALSE(hf::format_of(temp_ / "q"));
  EXPECT_TRUE(gptq_format().owns(temp_ / "q" / "model-00001-of-00001.safetensors"));
  EXPECT_FALSE(compressed_tensors_format().owns(temp_ / "q" / "model-00001-of-00001.safetensors"));
  write(all(4, 8));
  EXPECT_EQ(read_text(temp_ / "q" / "config.json"), config);
}

}  // namespace
}  // namespace laos::save
