// What a plan refuses, and what it warns of, row by row: before the first layer, at the place that
// decides.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "core/error.h"
#include "io/file.h"
#include "pipeline/plan.h"
#include "pipeline/quant_options.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using testing::Contains;
using testing::HasSubstr;

namespace fs = std::filesystem;

constexpr const char* kRecipe = R"(apiversion: modelslim_v1
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process:
        - {type: adapt_rotation, stage: 1, steps: 2}
  process:
    - {type: adapt_rotation, stage: 2}
    - type: autoround_quant
      iters: 2
      strategies:
        - {qconfig: *w8, include: ["*self_attn*", "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";

struct Case {
  const char* name;
  std::string from, to;  // of the recipe
  const char* what;      // part of the problem or, where `warns`, of the warning
  const char* where;     // part of its place
  ErrorCode code = ErrorCode::kRecipe;
  bool warns = false;
  std::function<void(hf::Config&)> config = nullptr;
  std::function<void(const fs::path& directory)> damage = nullptr;
  const char* fix = "";  // part of what to do
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

void replace_in(const fs::path& path, const std::string& from, const std::string& to) {
  std::string text = io::read_text(path, 1 << 20);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << path << " does not say " << from;
  std::ofstream(path, std::ios::binary) << text.replace(at, from.size(), to);
}

void write_calib(const fs::path& directory, int num_samples, const std::string& text) {
  std::ofstream file(directory / "calib.jsonl");
  for (int i = 0; i < num_samples; ++i)
    file << R"({"inputs_pretokenized": ")" << text << i << "\"}\n";
}

const std::string kFit = "{type: adapt_rotation, stage: 1, steps: 2}";
const std::string kFitStage = "  prior:\n    - process:\n        - " + kFit + "\n";
const std::string kStage2 = "{type: adapt_rotation, stage: 2}";
const std::string kAttn = R"(include: ["*self_attn*", "*.down_proj"])";

// Every linear of 4 bits, its inputs transformed.
const std::string kProcess = R"(    - {type: adapt_rotation, stage: 2}
    - type: autoround_quant
      iters: 2
      strategies:
        - {qconfig: *w8, include: ["*self_attn*", "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]}
)";
std::string with_pairs(const std::string& options, const std::string& scope = "per_channel") {
  return "    - {type: adapt_rotation, stage: 2}\n    - {type: flatquant" + options +
         "}\n    - {type: gptq_quant, strategies: [{qconfig: {weight: {scope: " + scope +
         ", dtype: int4, symmetric: true, method: gptq" +
         (scope == "per_group" ? ", ext: {group_size: 16}" : "") +
         "}, act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}}}]}\n";
}

const Case kCases[] = {
    // 201: the checkpoint
    {"NoSuchModel", "", "", "no such model directory", "model", ErrorCode::kIo, false, nullptr,
     [](const fs::path& d) { fs::remove_all(d / "model"); }},
    {"TruncatedWeights", "", "", "", "model.safetensors", ErrorCode::kFormat, false, nullptr,
     [](const fs::path& d) {
       fs::resize_file(d / "model/model.safetensors",
                       fs::file_size(d / "model/model.safetensors") - 1);
     }},
    {"ConfigFieldMissing", "", "", "hidden_size", "config.json", ErrorCode::kFormat, false, nullptr,
     [](const fs::path& d) {
       replace_in(d / "model/config.json", "\"hidden_size\"", "\"hidden_sizes\"");
     }},
    {"ConfigDisagreesWithATensor", "", "", "[128, 64]", "mlp.gate_proj.weight", ErrorCode::kShape,
     false, nullptr,
     [](const fs::path& d) {
       replace_in(d / "model/config.json", "\"intermediate_size\": 128",
                  "\"intermediate_size\": 136");
     }},
    {"UnknownArchitecture", "", "", "GPT2LMHeadModel", "config.json", ErrorCode::kUnsupported,
     false, nullptr,
     [](const fs::path& d) {
       replace_in(d / "model/config.json", "Qwen3ForCausalLM", "GPT2LMHeadModel");
     }},
    {"NoTokenizer", "", "", "there is no tokenizer.json", "tokenizer.json", ErrorCode::kIo, false,
     nullptr, [](const fs::path& d) { fs::remove(d / "model/tokenizer.json"); }},

    // 202: the dataset
    {"MalformedLine", "", "", "", "calib.jsonl:2", ErrorCode::kData, false, nullptr,
     [](const fs::path& d) { std::ofstream(d / "calib.jsonl") << "{\"a\": 1}\n{\"a\": \n"; }},
    {"JsonOfOtherKeys", "calib.jsonl", "calib.json", "laos reads none", "calib.json",
     ErrorCode::kData, false, nullptr,
     [](const fs::path& d) { std::ofstream(d / "calib.json") << "{\"a\": 1}"; }},
    {"EmptyDataset", "", "", "no samples", "calib.jsonl", ErrorCode::kData, false, nullptr,
     [](const fs::path& d) { std::ofstream(d / "calib.jsonl") << "\n"; }},
    {"UnknownSuffix", "calib.jsonl", "calib.csv", "", "calib.csv", ErrorCode::kData, false, nullptr,
     [](const fs::path& d) { std::ofstream(d / "calib.csv") << "a\n"; }},

    // 204: paths
    {"NoSuchDataset", "calib.jsonl", "other.jsonl", "other.jsonl", "recipe.yaml:20:12 spec.dataset",
     ErrorCode::kData},
    {"NoSuchDatasetOfStage1", "    - process:\n", "    - dataset: other.jsonl\n      process:\n",
     "other.jsonl", "recipe.yaml:10:16 spec.prior[0].dataset", ErrorCode::kData},
    {"NoSuchRecipe", "", "", "there is no such file", "recipe.yaml", ErrorCode::kIo, false, nullptr,
     [](const fs::path& d) { fs::remove(d / "recipe.yaml"); }},
    {"OutputBelowAFile", "", "", "", "out", ErrorCode::kUsage, false, nullptr,
     [](const fs::path& d) { std::ofstream(d / "out") << "a file"; }},

    // 301: what no layer could be trained for
    {"HiddenSizeWithoutHadamard", "", "", "no Hadamard matrix is known for hidden_size 1031",
     "recipe.yaml:11:11 spec.prior[0].process[0]", ErrorCode::kRecipe, false,
     [](hf::Config& config) { config.hidden_size = 1031; }},
    {"HeadDimWithoutHadamard", "", "", "no Hadamard matrix is known for head_dim 2062",
     "recipe.yaml:13:7 spec.process[0]", ErrorCode::kRecipe, false,
     [](hf::Config& config) { config.head_dim = 2062; }},
    {"HiddenSizeWithAStandIn", "", "", "Hartley's orthogonal matrix of order 23 stands in",
     "recipe.yaml:11:11 spec.prior[0].process[0]: no Hadamard matrix is known for hidden_size 184",
     ErrorCode::kRecipe, true, [](hf::Config& config) { config.hidden_size = 184; }},
    {"HeadDimWithAStandIn", "", "", "Hartley's orthogonal matrix of order 11 stands in",
     "recipe.yaml:13:7 spec.process[0]: no Hadamard matrix is known for head_dim 22",
     ErrorCode::kRecipe, true, [](hf::Config& config) { config.head_dim = 22; }},
    {"BlockSizeAboveHeadDim", kStage2, "{type: adapt_rotation, stage: 2, block_size: 64}",
     "block_size 64 does not divide head_dim 32", "recipe.yaml:13:7 spec.process[0]"},
    {"BlockSizeAboveHiddenSize", kFit, "{type: adapt_rotation, stage: 1, block_size: 128}",
     "block_size 128 does not divide hidden_size 64", "recipe.yaml:11:11 spec.prior[0].process[0]"},
    {"LayerTypeWithoutLinear", kFit, "{type: adapt_rotation, stage: 1, layer_type: [experts]}",
     "no linear of a decoder layer has any of these in its name",
     "recipe.yaml:11:11 spec.prior[0].process[0].layer_type"},
    {"LayerTypeOffTheResidualStream", kFit,
     "{type: adapt_rotation, stage: 1, layer_type: [down_proj]}", "down_proj",
     "recipe.yaml:11:11 spec.prior[0].process[0].layer_type"},
    {"Stage1NotInPrior", kFitStage, "", "spec.prior has no stage 1",
     "recipe.yaml:10:7 spec.process[0]"},
    {"TooFewTokensForStage1", "", "", "it needs 32 samples",
     "recipe.yaml:11:11 spec.prior[0].process[0]", ErrorCode::kData, false, nullptr,
     [](const fs::path& d) { write_calib(d, 2, "short"); }},
    {"MaxSamplesBelowFullRank", kFit, "{type: adapt_rotation, stage: 1, max_samples: 31}",
     "it needs 32 samples", "recipe.yaml:11:11 spec.prior[0].process[0]", ErrorCode::kData},
    {"GroupSizeThatDoesNotDivide",
     "{scope: per_channel, dtype: int4, symmetric: true, method: autoround}",
     "{scope: per_group, dtype: int4, symmetric: true, method: autoround, ext: {group_size: 24}}",
     "group_size 24 does not divide in_features 64", "model.layers.0.mlp.gate_proj, asked for by "},
    {"DifferentLabelsOfQkv", kAttn, R"(include: ["*.q_proj", "*.o_proj", "*.down_proj"])",
     "self_attn.q_proj is W8A8_DYNAMIC, self_attn.k_proj is FLOAT, self_attn.v_proj is FLOAT",
     "model.layers.0 and 1 more; self_attn.q_proj: "},
    {"DifferentLabelsOfGateAndUp", R"(include: ["*.up_proj", "*.gate_proj"])",
     R"(include: ["*.0.mlp.up_proj", "*.1.mlp.gate_proj"])",
     "mlp.gate_proj is FLOAT, mlp.up_proj is W4A4_DYNAMIC",
     "model.layers.0; mlp.gate_proj: no strategy matches; mlp.up_proj: "},
    {"W4A4InputsThatDoNotPack", R"(, "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj")",
     R"(]}
        - {qconfig: *w4, include: ["*.down_proj", "*.up_proj")",
     "in_features 84 is not a multiple of 8", "model.layers.0.mlp.down_proj, asked for by ",
     ErrorCode::kRecipe, false, [](hf::Config& config) { config.intermediate_size = 84; }},
    {"OnlineLayerThatIsNotThere", kStage2,
     "{type: adapt_rotation, stage: 2, online: true, down_proj_online_layers: [2]}",
     "names layer 2; the model has 2", "recipe.yaml:13:7 spec.process[0]"},
    {"OnlineHeadsThatDoNotDivide", kStage2,
     "{type: adapt_rotation, stage: 2, online: true, max_tp_size: 8}",
     "max_tp_size 8 does not divide num_attention_heads 4", "recipe.yaml:13:7 spec.process[0]",
     ErrorCode::kRecipe, false, nullptr, nullptr, "use a power of two that divides it"},
    {"OnlineFactorsThatAreNone", kStage2,
     "{type: adapt_rotation, stage: 2, online: true, down_proj_online_layers: [0]}",
     "intermediate_size 138 has no two Hadamard factors", "recipe.yaml:13:7 spec.process[0]",
     ErrorCode::kRecipe, false, [](hf::Config& config) { config.intermediate_size = 138; }},
    {"NothingToSave", "save: [{type: ascendv1_saver}]", "save: []", "nothing would be written",
     "recipe.yaml spec.save"},
    {"TwoSavers", "save: [{type: ascendv1_saver}]",
     "save: [{type: ascendv1_saver}, {type: ascendv1_saver}]", "two savers of one format, ascendv1",
     "recipe.yaml spec.save"},
    {"SaverThatDoesNotTakeTheScheme", "save: [{type: ascendv1_saver}]",
     "save: [{type: ascendv1_saver}, {type: gptq_saver}]", "is not written as GPTQ",
     "model.layers.0.", ErrorCode::kUnsupported},

    // The model of these tests has two layers.
    {"LayersThatTheModelHasNot", R"(["*.up_proj", "*.gate_proj"])",
     R"(["model.layers.{0..2}.mlp.{up,gate}_proj"])", "names decoder layer 2 and 1 more",
     "recipe.yaml:18:"},
    {"LayersThatSmoothingHasNot", "    - " + kStage2,
     "    - {type: iter_smooth, include: [\"*.{1..9}.*\"]}\n    - " + kStage2,
     "names decoder layer 2 and 7 more", "recipe.yaml:13:"},
    {"LastLayersThatNoStrategyNames", R"(strategies:
        - {qconfig: *w8, include: ["*self_attn*", "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]})",
     "strategies: [{qconfig: *w8, include: [\"model.layers.0.*\"]}]",
     "no strategy names the last decoder layer of 2", "recipe.yaml spec.process"},
    {"NothingIncluded", R"(strategies:
        - {qconfig: *w8, include: ["*self_attn*", "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]})",
     "strategies: [{qconfig: *w8, include: [\"*.experts.*\"]}]", "nothing would be quantized",
     "recipe.yaml spec.process"},

    // o_proj and down_proj have 128 inputs each.
    {"PairsOfNoSizeThatTheOperatorTakes", kProcess, with_pairs(", tp: 8"),
     "the engine's operator takes no such matrices: 16 inputs are no product of two sizes, the "
     "second a multiple of 8: 4 by 4",
     "recipe.yaml:14:7 spec.process[1]", ErrorCode::kRecipe, false, nullptr, nullptr,
     "use another tp"},
    {"RanksThatDoNotDivide", kProcess, with_pairs(", tp: 3"), "tp 3 does not divide the 128 inputs",
     "recipe.yaml:14:7"},
    {"PairsInFrontOfGroups", kProcess, with_pairs("", "per_group"), "one scale an output row",
     "recipe.yaml:14:7"},
    {"PairsOfSomeLinearsOfAFusedGroup", kProcess, with_pairs(", exclude: ['*.up_proj']"),
     "linears that the engine fuses have different labels", "model.layers.0"},

    // Accepted, and said.
    {"PairsThatCannotBe", kProcess, with_pairs(", tp: 8, unfit: keep"),
     "mlp.down_proj of 2 layers stays without a transform", "recipe.yaml:14:7", ErrorCode::kRecipe,
     true},
    {"PairsInFrontOfNothing", "    - " + kStage2,
     "    - " + kStage2 +
         "\n    - {type: flatquant, "
         "include: ['*.o_proj']}",
     "nothing is transformed", "recipe.yaml:14:7", ErrorCode::kRecipe, true},
    {"PairsInAModelOfF32", kProcess, with_pairs(""),
     "the model is float32 and has transformed activations", "written as bfloat16",
     ErrorCode::kRecipe, true, [](hf::Config& config) { config.dtype = DType::kF32; }},
    {"LinearsLeftOutInOneLayer", R"(["*self_attn*", "*.down_proj"])",
     R"(["*self_attn*", "*.1.mlp.down_proj"])",
     "model.layers.0.mlp.down_proj left float: strategies include the same linears of other layers",
     "recipe.yaml spec.process", ErrorCode::kRecipe, true},
    {"NothingQuantizedByChoice", R"(strategies:
        - {qconfig: *w8, include: ["*self_attn*", "*.down_proj"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]})",
     "strategies: [{qconfig: *w8, exclude: [\"model.layers.*\"]}]", "nothing is quantized",
     "recipe.yaml spec.process", ErrorCode::kRecipe, true},
    {"PatternWithoutMatch", "\"*.down_proj\"", "\"*.down_proj\", \"*.donw_proj\"",
     "did you mean `down_proj`?", "recipe.yaml:17:", ErrorCode::kRecipe, true},
    {"StrategiesThatOverlap", R"(["*.up_proj", "*.gate_proj"])", R"(["*"])",
     "the first strategy stays", "recipe.yaml:18:", ErrorCode::kRecipe, true},
    {"LmHeadStaysFloat", R"(["*.up_proj", "*.gate_proj"])",
     R"(["*.up_proj", "*.gate_proj", "lm_head"])", "but stays float", "lm_head", ErrorCode::kRecipe,
     true},
    {"ActivationsOfAnotherWidth", kFit, "{type: adapt_rotation, stage: 1, quant_dtype: int8}",
     "write `quant_dtype: int4`", "recipe.yaml:11:11 spec.prior[0].process[0].quant_dtype",
     ErrorCode::kRecipe, true},
    {"Stage1ThatNothingApplies", "    - " + kStage2 + "\n", "", "that no stage 2 applies",
     "recipe.yaml", ErrorCode::kRecipe, true},
    {"OnlineThatNoEngineLoads", kStage2, "{type: adapt_rotation, stage: 2, online: true}",
     "vLLM-Ascend cannot load", "recipe.yaml:13:7 spec.process[0]", ErrorCode::kRecipe, true},
    {"GroupsThatNoEngineLoads",
     "{scope: per_channel, dtype: int4, symmetric: true, method: autoround}",
     "{scope: per_group, dtype: int4, symmetric: true, method: autoround, ext: {group_size: 16}}",
     "does not load W4A4_DYNAMIC with per-group scales", "recipe.yaml:18:11", ErrorCode::kRecipe,
     true},
};

class PlanRow : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    hf::Config config = test::qwen3_config("tiny");
    if (c.config) c.config(config);
    test::write_synthetic({.config = config}, directory_ / "model");
    write_calib(directory_.path(), 40, "In the beginning was word number ");
    std::ofstream(directory_ / "recipe.yaml") << kRecipe;
    if (!c.from.empty()) replace_in(directory_ / "recipe.yaml", c.from, c.to);
    if (c.damage) c.damage(directory_.path());
  }
  Plan plan() const { return make_plan(quant_options(directory_.path(), "out")); }

  test::TemporaryDirectory directory_;
};
INSTANTIATE_TEST_SUITE_P(Table, PlanRow, testing::ValuesIn(kCases),
                         [](const auto& c) { return c.param.name; });

TEST_P(PlanRow, IsRefusedOrSaidAtItsPlace) {
  const Case& c = GetParam();
  if (c.warns) {
    EXPECT_THAT(plan().warnings, Contains(testing::AllOf(HasSubstr(c.what), HasSubstr(c.where))));
    return;
  }
  try {
    (void)plan();
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), c.code) << error.what();
    EXPECT_THAT(error.problems(),
                Contains(testing::AllOf(testing::Field(&Problem::what, HasSubstr(c.what)),
                                        testing::Field(&Problem::where, HasSubstr(c.where)),
                                        testing::Field(&Problem::fix, testing::Not("")),
                                        testing::Field(&Problem::fix, HasSubstr(c.fix)))))
        << error.what();
  }
  EXPECT_FALSE(fs::is_directory(directory_ / "out"));
}

}  // namespace
}  // namespace laos::pipeline
