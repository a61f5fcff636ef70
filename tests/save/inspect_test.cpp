#include "save/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "hf/ascendv1.h"
#include "save/fixtures.h"

namespace laos::save {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kUp = "model.layers.0.mlp.up_proj";      // W4A4_DYNAMIC
constexpr const char* kDown = "model.layers.1.mlp.down_proj";  // W8A8_DYNAMIC

std::string text_of(const InspectReport& report) {
  std::string text;
  for (const Finding& f : report.findings)
    text += std::string(name_of(f.severity)) + ": " + f.what + " @ " + f.where + " x" +
            std::to_string(f.count) + "\n";
  return text;
}

// One way to damage a checkpoint, and the finding that must come of it.
struct Case {
  const char* name;
  std::function<void(HandMade&)> damage;
  Severity severity;
  const char* what;
  const char* where;
  bool open_refuses;  // whether hf::AscendV1Checkpoint refuses it too
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class InspectFinds : public testing::TestWithParam<Case> {};

TEST_P(InspectFinds, TheDamageAndNothingElse) {
  const Case& c = GetParam();
  TempDir temp;
  HandMade checkpoint;
  c.damage(checkpoint);
  checkpoint.write(temp / "q");

  const InspectReport report = inspect(temp / "q");
  ASSERT_EQ(report.findings.size(), 1u) << text_of(report);
  const Finding& finding = report.findings[0];
  EXPECT_EQ(finding.severity, c.severity);
  EXPECT_THAT(finding.what, HasSubstr(c.what));
  EXPECT_THAT(finding.where, HasSubstr(c.where));
  EXPECT_EQ(report.loads(), c.severity == Severity::kWarning);

  EXPECT_EQ(open_refuses(temp / "q"), c.open_refuses);
}

std::string up(const char* suffix) { return std::string(kUp) + suffix; }
std::string down(const char* suffix) { return std::string(kDown) + suffix; }

const Case kCases[] = {
    {"TensorWithoutEntry", [](HandMade& h) { h.description.erase("model.norm.weight"); },
     Severity::kError, "not in the description", "model.norm.weight", true},
    {"EntryWithoutTensor", [](HandMade& h) { h.remove("model.norm.weight"); }, Severity::kError,
     "no file holds", "model.norm.weight", true},
    {"WeightMissingEverywhere",
     [](HandMade& h) {
       h.remove("lm_head.weight");
       h.description.erase("lm_head.weight");
     },
     Severity::kError, "config implies", "lm_head.weight", true},
    {"UnknownLabel",
     [](HandMade& h) { h.description["model.layers.0.self_attn.o_proj.weight"] = "W3A3"; },
     Severity::kError, "label W3A3", "o_proj.weight", true},
    {"UnequalLabelsOfFusedLinears",
     [](HandMade& h) {
       for (const char* suffix : {".weight", ".weight_scale", ".weight_offset"})
         h.description[up(suffix)] = "W8A8_DYNAMIC";
     },
     Severity::kError, "mlp.gate_proj is W4A4_DYNAMIC, mlp.up_proj is W8A8_DYNAMIC", "layers.0",
     false},
    {"PartLabelledOtherwise",
     [](HandMade& h) { h.description[up(".weight_scale")] = "W8A8_DYNAMIC"; }, Severity::kError,
     "labelled W8A8_DYNAMIC, its weight W4A4_DYNAMIC", "up_proj.weight_scale", true},
    {"ScaleMissing",
     [](HandMade& h) {
       h.remove(up(".weight_scale"));
       h.description.erase(up(".weight_scale"));
     },
     Severity::kError, "missing", "up_proj.weight_scale", true},
    {"PerGroupScales",
     [](HandMade& h) {
       h.reshape(up(".weight_scale"), DType::kF32, {24, 2});
       h.reshape(up(".weight_offset"), DType::kF32, {24, 2});
       h.fill(up(".weight_offset"), 0);
     },
     Severity::kError, "does not load W4A4_DYNAMIC with per-group scales", "up_proj.weight", false},
    {"ScalesOfGroupsThatDoNotDivide",
     [](HandMade& h) {
       h.reshape(up(".weight_scale"), DType::kF32, {24, 3});
     },
     Severity::kError, "shape is [24, 3], must be [24, 1]", "up_proj.weight_scale", true},
    {"FlatScales", [](HandMade& h) { h.reshape(up(".weight_scale"), DType::kF32, {24}); },
     Severity::kError, "shape is [24], must be [24, 1]", "up_proj.weight_scale", true},
    {"ScaleDtype",
     [](HandMade& h) {
       h.reshape(up(".weight_scale"), DType::kBF16, {24, 1});
     },
     Severity::kError, "this one is BF16", "up_proj.weight_scale", true},
    {"WeightDtype",
     [](HandMade& h) {
       h.reshape(up(".weight"), DType::kU8, {24, 16});
     },
     Severity::kError, "this one is U8", "up_proj.weight", true},
    {"FloatDtype", [](HandMade& h) { h.reshape("model.norm.weight", DType::kI32, {16}); },
     Severity::kError, "labelled FLOAT, but its data is I32", "model.norm.weight", true},
    {"ShapeNotOfTheConfig", [](HandMade& h) { h.reshape("model.norm.weight", DType::kBF16, {17}); },
     Severity::kError, "shape is [17], config.json implies [16]", "model.norm.weight", true},
    {"QuantizedEmbedding",
     [](HandMade& h) {
       h.reshape("lm_head.weight", DType::kI8, {10, 16});
       h.description["lm_head.weight"] = "W8A8_DYNAMIC";
       for (const char* suffix : {"lm_head.weight_scale", "lm_head.weight_offset"}) {
         h.add({suffix, DType::kF32, {10, 1}},
               std::string(suffix).ends_with("scale") ? 1.0f : 0.0f);
         h.description[suffix] = "W8A8_DYNAMIC";
       }
     },
     Severity::kError, "only the linears of decoder layers", "lm_head.weight", true},
    {"UnknownTensor",
     [](HandMade& h) {
       h.add({"model.layers.0.extra.weight", DType::kBF16, {4}}, 1);
       h.description["model.layers.0.extra.weight"] = "FLOAT";
     },
     Severity::kError, "no parameter of the model", "extra.weight", true},
    {"UnknownTensorWithoutEntry",
     [](HandMade& h) {
       h.add({"model.layers.2.mlp.up_proj.weight", DType::kBF16, {4}}, 1);
     },
     Severity::kError, "no parameter of the model", "layers.2", true},
    {"ScaleOfAFloatLinear",
     [](HandMade& h) {
       h.add({"model.layers.0.self_attn.o_proj.weight_scale", DType::kF32, {16, 1}}, 1);
       h.description["model.layers.0.self_attn.o_proj.weight_scale"] = "FLOAT";
     },
     Severity::kError, "no parameter of a FLOAT linear", "o_proj.weight_scale", true},
    {"Bias",
     [](HandMade& h) {
       h.add({up(".bias"), DType::kF32, {24}}, 1);
       h.description[up(".bias")] = "FLOAT";
     },
     Severity::kError, "no parameter of the model", "up_proj.bias", true},
    {"HeadsRotation",
     [](HandMade& h) {
       h.add({"model.layers.0.self_attn.o_proj.heads_rotation", DType::kF32, {4, 4}}, 1);
     },
     Severity::kError, "online rotation, which the engine does not load", "heads_rotation", false},
    {"HeadsRotationOfAnotherModel",
     [](HandMade& h) {
       h.add({"model.layers.0.self_attn.o_proj.heads_rotation", DType::kF32, {8, 8}}, 1);
     },
     Severity::kError, "not the F32 matrix of an online rotation", "heads_rotation", true},
    {"KroneckerTransform",
     [](HandMade& h) {
       h.add({"model.layers.0.mlp.down_proj.kronecker_rotation_m", DType::kF32, {4, 4}}, 1);
     },
     Severity::kError, "not the F32 matrix of an online rotation", "kronecker_rotation_m", true},
    {"CodeTooLarge", [](HandMade& h) { h.set(up(".weight"), 383, 8); }, Severity::kError,
     "codes outside -8..7", "up_proj.weight", false},
    {"CodeTooSmall", [](HandMade& h) { h.set(up(".weight"), 0, -9); }, Severity::kError,
     "codes outside -8..7", "up_proj.weight", false},
    {"ScaleZero", [](HandMade& h) { h.set(up(".weight_scale"), 23, 0); }, Severity::kError,
     "not greater than 0", "up_proj.weight_scale", false},
    {"ScaleNegative", [](HandMade& h) { h.set(down(".weight_scale"), 3, -1); }, Severity::kError,
     "not greater than 0", "down_proj.weight_scale", false},
    {"ScaleNaN",
     [](HandMade& h) { h.set(up(".weight_scale"), 5, std::numeric_limits<float>::quiet_NaN()); },
     Severity::kError, "NaN or infinity", "up_proj.weight_scale", false},
    {"FloatInfinity",
     [](HandMade& h) { h.set("model.norm.weight", 5, std::numeric_limits<float>::infinity()); },
     Severity::kError, "NaN or infinity", "model.norm.weight", false},
    {"ScaleNotExactInBf16", [](HandMade& h) { h.set(down(".weight_scale"), 3, 0.1f); },
     Severity::kWarning, "not exact in BF16", "down_proj.weight_scale", false},
    {"OffsetNotZero", [](HandMade& h) { h.set(up(".weight_offset"), 3, 1); }, Severity::kWarning,
     "offsets that are not zero", "up_proj.weight_offset", false},
    {"QuantizationConfigLeft",
     [](HandMade& h) {
       h.config["quantization_config"] = {{"bits", 8}};
     },
     Severity::kError, "quantization_config", "config.json", true},
    {"QuantizationConfigLeftInside",
     [](HandMade& h) {
       h.config["text_config"] = {{"quantization_config", {{"bits", 8}}}};
     },
     Severity::kError, "quantization_config", "config.json", false},
    {"TiedWithAnotherHead",
     [](HandMade& h) {
       h.config["tie_word_embeddings"] = true;
       h.fill("lm_head.weight", 2);
     },
     Severity::kError, "uses embed_tokens", "lm_head.weight", false},
    {"TiedWithAnEqualHead", [](HandMade& h) { h.config["tie_word_embeddings"] = true; },
     Severity::kWarning, "equal to embed_tokens", "lm_head.weight", false},
    {"IndexMissing", [](HandMade& h) { h.with_index = false; }, Severity::kWarning,
     "without an index", "index.json", false},
    {"WrongModelQuantType", [](HandMade& h) { h.description["model_quant_type"] = "W8A8"; },
     Severity::kWarning, "model_quant_type", "description.json", false},
    {"ArchitectureNotKnown", [](HandMade& h) { h.config["architectures"] = {"OtherForCausalLM"}; },
     Severity::kWarning, "not checked", "config.json", true},
};

INSTANTIATE_TEST_SUITE_P(EachDamage, InspectFinds, testing::ValuesIn(kCases),
                         [](const auto& c) { return c.param.name; });

class Inspect : public testing::Test {
 protected:
  InspectReport report_of(const HandMade& checkpoint) {
    checkpoint.write(temp_ / "q");
    return inspect(temp_ / "q");
  }

  TempDir temp_;
};

TEST_F(Inspect, IsContentWithACorrectCheckpointAndCounts) {
  const InspectReport report = report_of(HandMade());
  EXPECT_THAT(report.findings, IsEmpty()) << text_of(report);
  EXPECT_TRUE(report.loads());
  EXPECT_EQ(report.files, 1);
  EXPECT_EQ(report.model_quant_type, "W4A4_DYNAMIC");
  ASSERT_EQ(report.labels.size(), 3u);
  EXPECT_EQ(report.labels[0].label, "W8A8_DYNAMIC");
  EXPECT_EQ(report.labels[0].weights, 2 * 4);
  EXPECT_EQ(report.labels[2].label, "W4A4_DYNAMIC");
  EXPECT_EQ(report.labels[2].weights, 2 * 2);
  EXPECT_EQ(report.labels[2].parameters, 2 * 2 * 24 * 16);
  EXPECT_EQ(report.labels[2].bytes, 2 * 2 * (24 * 16 + 2 * 24 * 4));
}

TEST_F(Inspect, GroupsAFindingOverLayers) {
  HandMade checkpoint;
  for (int layer = 0; layer < 2; ++layer)
    checkpoint.fill("model.layers." + std::to_string(layer) + ".mlp.up_proj.weight_offset", 1);
  const InspectReport report = report_of(checkpoint);
  ASSERT_EQ(report.findings.size(), 1u) << text_of(report);
  EXPECT_EQ(report.findings[0].count, 2);
  EXPECT_EQ(report.findings[0].where, up(".weight_offset"));
}

TEST_F(Inspect, FindsInFeaturesThatDoNotPackToInt4) {
  HandMade checkpoint;
  checkpoint.config["architectures"] = {"OtherForCausalLM"};  // whose shapes are not known
  checkpoint.reshape(up(".weight"), DType::kI8, {24, 12});
  const InspectReport report = report_of(checkpoint);
  ASSERT_EQ(report.findings.size(), 2u) << text_of(report);
  EXPECT_THAT(report.findings[0].what, HasSubstr("12 is no multiple of 8"));
  EXPECT_FALSE(report.loads());
}

TEST_F(Inspect, ChecksThePartsOfW4A8) {
  HandMade checkpoint;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string o = "model.layers." + std::to_string(layer) + ".self_attn.o_proj";
    checkpoint.reshape(o + ".weight", DType::kI8, {8, 32});
    checkpoint.add({o + ".weight_scale", DType::kF32, {16, 1}}, 0.5f);
    checkpoint.add({o + ".weight_offset", DType::kF32, {16, 1}}, 0);
    checkpoint.add({o + ".scale_bias", DType::kF32, {16, 16}}, 1);
    for (const char* part : {".weight", ".weight_scale", ".weight_offset", ".scale_bias"})
      checkpoint.description[o + part] = "W4A8_DYNAMIC";
  }
  InspectReport report = report_of(checkpoint);
  ASSERT_EQ(report.findings.size(), 1u) << text_of(report);
  EXPECT_THAT(report.findings[0].what, HasSubstr("does not load W4A8_DYNAMIC"));
  checkpoint.reshape("model.layers.1.self_attn.o_proj.scale_bias", DType::kF32, {16, 1});
  report = report_of(checkpoint);
  ASSERT_EQ(report.findings.size(), 2u) << text_of(report);
  EXPECT_THAT(report.findings[0].what, HasSubstr("[16, 1], must be [16, 16]"));
}

TEST_F(Inspect, AnswersForTheEngineThatIsAskedAbout) {
  HandMade checkpoint;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string o = "model.layers." + std::to_string(layer) + ".self_attn.o_proj";
    checkpoint.reshape(o + ".weight", DType::kI8, {16, 32});
    checkpoint.add({o + ".weight_scale", DType::kF32, {16, 1}}, 0.5f);
    checkpoint.add({o + ".weight_offset", DType::kF32, {16, 1}}, 0);
    for (const char* part : {".weight", ".weight_scale", ".weight_offset"})
      checkpoint.description[o + part] = "W8A16";
  }
  EXPECT_TRUE(report_of(checkpoint).loads()) << text_of(report_of(checkpoint));
  const InspectReport report = inspect(temp_ / "q", {.engine = scheme::Engine::kSglang});
  EXPECT_FALSE(report.loads());
  EXPECT_THAT(report.findings.at(0).what, HasSubstr("SGLang (0.5.23) does not load W8A16"));
  EXPECT_EQ(report.findings.at(0).count, 2);
}

// Neither is noticed by SGLang itself: it reads the first label of a fused group, and drops
// matrices that it does not know.
TEST_F(Inspect, TellsOfWhatSglangTakesForSomethingElse) {
  HandMade mixed;
  for (const char* suffix : {".weight", ".weight_scale", ".weight_offset"})
    mixed.description[up(suffix)] = "W8A8_DYNAMIC";
  HandMade rotated;
  rotated.add({"model.layers.0.self_attn.o_proj.heads_rotation", DType::kF32, {4, 4}}, 1);
  for (const auto& [checkpoint, what] :
       {std::pair(mixed, "linears that engines fuse have different labels"),
        std::pair(rotated, "a matrix of an online rotation")}) {
    checkpoint.write(temp_ / "q");
    const InspectReport report = inspect(temp_ / "q", {.engine = scheme::Engine::kSglang});
    EXPECT_FALSE(report.loads());
    EXPECT_THAT(report.findings.at(0).what, HasSubstr(what));
    fs::remove_all(temp_ / "q");
  }
}

TEST_F(Inspect, AcceptsATiedModelWithoutAHead) {
  HandMade checkpoint;
  checkpoint.config["tie_word_embeddings"] = true;
  checkpoint.remove("lm_head.weight");
  checkpoint.description.erase("lm_head.weight");
  EXPECT_THAT(report_of(checkpoint).findings, IsEmpty());
  const auto opened = hf::AscendV1Checkpoint::open(temp_ / "q");
  EXPECT_EQ(opened.weight("lm_head").name, "model.embed_tokens.weight");
  EXPECT_EQ(opened.label("lm_head"), "FLOAT");
}

TEST_F(Inspect, IgnoresRotaryBuffers) {
  HandMade checkpoint;
  checkpoint.add({"model.rotary_emb.inv_freq", DType::kF32, {4}}, 1);
  EXPECT_THAT(report_of(checkpoint).findings, IsEmpty());
}

TEST_F(Inspect, FindsAMissingDescription) {
  HandMade().write(temp_ / "q");
  fs::remove(temp_ / "q" / "quant_model_description.json");
  const InspectReport report = inspect(temp_ / "q");
  ASSERT_EQ(report.findings.size(), 1u) << text_of(report);
  EXPECT_THAT(report.findings[0].where, HasSubstr("quant_model_description.json"));
  EXPECT_FALSE(report.loads());
  EXPECT_FALSE(hf::AscendV1Checkpoint::is_ascendv1(temp_ / "q"));
}

TEST_F(Inspect, FindsDescriptionsThatAreNotFlatObjectsOfLabels) {
  HandMade().write(temp_ / "q");
  const auto first_what = [&](const std::string& text) {
    write_text(temp_ / "q" / "quant_model_description.json", text);
    const InspectReport report = inspect(temp_ / "q");
    EXPECT_FALSE(report.loads());
    return report.findings.at(0).what;
  };
  EXPECT_THAT(first_what("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(first_what("{\"a\": "), HasSubstr("not valid JSON"));
  EXPECT_THAT(first_what("{\"a.weight\": {\"label\": \"FLOAT\"}}"), HasSubstr("not a string"));
  EXPECT_THAT(first_what("{\"a.weight\": \"FLOAT\", \"a.weight\": \"W8A8\"}"), HasSubstr("twice"));
  EXPECT_THAT(first_what(std::string(1'000'000, '[')), HasSubstr("nested too deeply"));
}

TEST_F(Inspect, FindsAnExtraShardThatEnginesWouldLoadToo) {
  HandMade().write(temp_ / "q");
  fs::copy_file(temp_ / "q" / "quant_model_weights-00001-of-00001.safetensors",
                temp_ / "q" / "quant_model_weights-00001-of-00002.safetensors");
  const InspectReport report = inspect(temp_ / "q");
  EXPECT_FALSE(report.loads()) << text_of(report);
  EXPECT_THROW(hf::AscendV1Checkpoint::open(temp_ / "q"), Error);
}

TEST_F(Inspect, FindsWeightFilesThatAreMissingOrDamaged) {
  HandMade().write(temp_ / "q");
  const fs::path shard = temp_ / "q" / "quant_model_weights-00001-of-00001.safetensors";
  fs::resize_file(shard, 1000);
  EXPECT_FALSE(inspect(temp_ / "q").loads());
  fs::remove(shard);
  const InspectReport report = inspect(temp_ / "q");
  EXPECT_FALSE(report.loads());
  EXPECT_THAT(text_of(report), HasSubstr("no *.safetensors file"));
  EXPECT_THROW(hf::AscendV1Checkpoint::open(temp_ / "q"), Error);
}

TEST_F(Inspect, HoldsTheIndexAgainstTheFiles) {
  HandMade().write(temp_ / "q");
  const fs::path path = temp_ / "q" / "quant_model_weights.safetensors.index.json";
  auto index = nlohmann::ordered_json::parse(read_text(path));
  index["metadata"]["total_size"] = 7;
  index["weight_map"]["model.norm.weight"] = "another.safetensors";
  index["weight_map"].erase("lm_head.weight");
  index["weight_map"]["ghost.weight"] = "quant_model_weights-00001-of-00001.safetensors";
  write_text(path, index.dump());
  const InspectReport report = inspect(temp_ / "q");
  EXPECT_TRUE(report.loads()) << "the engine does without the index";
  EXPECT_EQ(report.findings.size(), 4u) << text_of(report);
  for (const char* text : {"total_size", "model.norm.weight", "lm_head.weight", "ghost.weight"})
    EXPECT_THAT(text_of(report), HasSubstr(text));
  for (const char* text : {"[]", "{", "{\"weight_map\": 3}", "7"}) {
    write_text(path, text);
    EXPECT_EQ(inspect(temp_ / "q").findings.size(), 1u) << text;
  }
}

TEST_F(Inspect, FindsABadConfig) {
  HandMade().write(temp_ / "q");
  for (const char* text : {"[]", "{", "{}", "3", "{\"text_config\": 3}"}) {
    write_text(temp_ / "q" / "config.json", text);
    EXPECT_FALSE(inspect(temp_ / "q").loads()) << text;
  }
  fs::remove(temp_ / "q" / "config.json");
  EXPECT_FALSE(inspect(temp_ / "q").loads());
}

TEST_F(Inspect, FindsAMissingTokenizer) {
  HandMade().write(temp_ / "q");
  fs::remove(temp_ / "q" / "tokenizer.json");
  const InspectReport report = inspect(temp_ / "q");
  EXPECT_TRUE(report.loads());
  EXPECT_THAT(text_of(report), HasSubstr("no tokenizer"));
}

TEST_F(Inspect, KeepsTheReportOfAHostileDirectoryShort) {
  HandMade checkpoint;
  for (int i = 0; i < 1000; ++i) checkpoint.description[std::to_string(i) + "y.weight"] = "FLOAT";
  const InspectReport report = report_of(checkpoint);
  EXPECT_FALSE(report.loads());
  EXPECT_LT(report.findings.size(), 300u);
}

TEST_F(Inspect, RefusesWhatIsNoDirectory) {
  EXPECT_THROW(inspect(temp_ / "nothing"), Error);
  write_text(temp_ / "file", "");
  EXPECT_THROW(inspect(temp_ / "file"), Error);
}

}  // namespace
}  // namespace laos::save
