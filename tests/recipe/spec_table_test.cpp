// Sections 2.1 to 2.9 of the format's description, row by row: what a recipe may say, what is
// refused, and the line and column that the message names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "recipe/recipe.h"

namespace laos::recipe {
namespace {

using testing::HasSubstr;

// Says everything once. Rows below replace one piece of it and name its lines.
const std::string kBase = R"(apiversion: modelslim_v1
metadata:
  config_id: base
  score: 10
  label: {w_bit: 4, a_bit: 4}
  verified_model_types: [Qwen3-8B]
  verified_tags: {Qwen3-8B: [[Atlas_A2, long]]}
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax, ext: {scale_dtype: bfloat16}}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax, ext: {}}
spec:
  runner: auto
  prior:
    - dataset: fit.jsonl
      process:
        - type: adapt_rotation
          stage: 1
          steps: 20
          quant_dtype: int8
          layer_type: [up_proj]
          block_size: -1
          max_samples: 2048
  process:
    - type: iter_smooth
      alpha: 0.9
      scale_min: 1.0e-5
      symmetric: true
      enable_subgraph_type: [norm-linear, ov]
      include: ["*"]
      exclude: ["*.3.*"]
    - type: adapt_rotation
      stage: 2
      online: false
      block_size: 64
      down_proj_online_layers: [0, 3]
      max_tp_size: 1
    - type: linear_quant
      qconfig: *w8
      include: ["*.o_proj"]
      exclude: ["*.9.*"]
    - type: autoround_quant
      iters: 10
      enable_minmax_tuning: true
      enable_round_tuning: true
      strategies:
        - qconfig: *w8
          include: ["*.up_proj"]
          exclude: ["*.4.*"]
  save:
    - type: ascendv1_saver
      part_file_size: 4
      ext: {}
      save_directory: somewhere
  dataset: texts.jsonl
)";

struct Row {
  const char* section;
  std::string from, to;
  std::string where = {};  // "line:column key" of the only problem; empty: accepted
  std::string what = {};   // part of its message
};

std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.section << " `" << row.from << "` -> `" << row.to.substr(0, 100) << "`";
}

std::string text_of(const Row& row) {
  std::string text = kBase;
  const size_t at = text.find(row.from);
  EXPECT_NE(at, std::string::npos) << "the base does not say " << row.from;
  return at == std::string::npos ? text : text.replace(at, row.from.size(), row.to);
}

class FormatRow : public testing::TestWithParam<Row> {};

TEST_P(FormatRow, IsAcceptedOrRefusedAtItsPlace) {
  const Row& row = GetParam();
  std::vector<Problem> problems;
  try {
    parse_recipe(text_of(row), "r.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRecipe);
    problems = error.problems();
  }
  for (const Problem& problem : problems) {
    if (problems.size() != (row.where.empty() ? 0u : 1u))
      ADD_FAILURE() << problem.where << ": " << problem.what;
    EXPECT_FALSE(problem.fix.empty()) << problem.what;
  }
  if (row.where.empty()) return;
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0].where, "r.yaml:" + row.where);
  EXPECT_THAT(problems[0].what, HasSubstr(row.what));
}

std::string letters(size_t n) { return std::string(n, 'x'); }

const char* kIgnored = "iters: 10";
const char* kStage1 = "steps: 20";
const char* kSmoothLine = "symmetric: true\n      enable";
const char* kRotation = "    - type: adapt_rotation\n      stage: 2\n      online: false\n";
const std::string kRotationKeys = std::string(kRotation) +
                                  "      block_size: 64\n      down_proj_online_layers: [0, 3]\n"
                                  "      max_tp_size: 1\n";
const char* kWeight = "symmetric: true, method: minmax, ext: {scale_dtype: bfloat16}}";
const char* kAct = "scope: per_token, dtype: int8, symmetric: true, method: minmax, ext: {}}";

const std::vector<Row> kRows = {
    // 2.1 loader
    {"2.1", kSmoothLine, "symmetric: True\n      enable"},
    {"2.1", kSmoothLine, "symmetric: yes\n      enable"},
    {"2.1", kSmoothLine, "symmetric: on\n      enable"},
    {"2.1", kSmoothLine, "symmetric: 1\n      enable"},
    {"2.1", kSmoothLine, "symmetric: \"true\"\n      enable"},
    {"2.1", kSmoothLine, "symmetric: \"yes\"\n      enable"},
    {"2.1", kSmoothLine, "symmetric: 2\n      enable", "27:18 spec.process[0].symmetric",
     "must be true or false"},
    {"2.1", "scale_min: 1.0e-5", "scale_min: 1e-5"},  // text, read as a number all the same
    {"2.1", kStage1, "steps: 010"},                   // octal
    {"2.1", kStage1, "steps: \"20\""},
    {"2.1", kStage1, "steps: 20.0"},
    {"2.1", kStage1, "steps: 20.5", "18:18 spec.prior[0].process[0].steps",
     "not the number `20.5`"},
    {"2.1", kStage1, "steps: some", "18:18 spec.prior[0].process[0].steps", "not the text `some`"},
    {"2.1", "config_id: base", "config_id: 8", "3:14 metadata.config_id",
     "must be text, not the number"},
    {"2.1", "config_id: base", "config_id: yes", "3:14 metadata.config_id",
     "must be text, not the truth value"},
    {"2.1", "config_id: base", "config_id: \"8\""},
    {"2.1", kIgnored, "iters: 10\n      iters: 11", "43:7 spec.process[3].iters",
     "duplicate key `iters`, first given on line 42"},
    {"2.1", "        - qconfig: *w8",
     "        - qconfig: {<<: *w8, act: {scope: per_token, dtype: int8, symmetric: true, method: "
     "x}}",
     "46:30 spec.process[3].strategies[0].qconfig.act", "`<<` already merges it from line 10"},
    {"2.1", "        - qconfig: *w8", "        - qconfig: {<<: *w8}"},
    {"2.1", "config_id: base", "config_id: b@se", "3:14 metadata.config_id",
     "has a character that recipes may not use"},
    {"2.1", "config_id: base", "config_id: \"a_b \\\"'><=[](),{}:|/.*~?!+-\\\\\""},
    {"2.1", "w_bit: 4", "w@bit: 4", "5:11 metadata.label.w@bit", "the key `w@bit`"},
    {"2.1", "[Qwen3-8B]", "[Qwen3@8B]"},  // lists are not looked into
    {"2.1", "w8: &w8", letters(512) + ": 1\nw8: &w8"},
    {"2.1", "w8: &w8", letters(513) + ": 1\nw8: &w8", "8:1 " + letters(80) + "...",
     "more than 512 characters"},
    {"2.1", "w8: &w8", "anything: [of, {mine: 1}]\nw8: &w8"},
    {"2.1", "score: 10", "scores: 10", "4:3 metadata.scores", "unknown key `scores`"},
    {"2.1", "runner: auto", "runer: auto", "12:3 spec.runer", "unknown key `runer`"},
    {"2.1", "- dataset: fit.jsonl", "- data: fit.jsonl", "14:7 spec.prior[0].data", "unknown key"},
    {"2.1", kStage1, "step: 20", "18:11 spec.prior[0].process[0].step", "unknown key"},
    {"2.1", "alpha: 0.9", "alfa: 0.9", "25:7 spec.process[0].alfa", "unknown key"},
    {"2.1", "online: false", "onlin: false", "33:7 spec.process[1].onlin", "unknown key"},
    {"2.1", "include: [\"*.o_proj\"]", "includes: [\"*.o_proj\"]", "39:7 spec.process[2].includes",
     "unknown key"},
    {"2.1", kIgnored, "iter: 10", "42:7 spec.process[3].iter", "unknown key"},
    {"2.1", "include: [\"*.up_proj\"]", "includes: [\"*.up_proj\"]",
     "47:11 spec.process[3].strategies[0].includes", "unknown key"},
    {"2.1", "  act: {", "  activation: {", "10:3 spec.process[2].qconfig.activation",
     "unknown key"},
    {"2.1", "method: minmax, ext: {}}", "method: minmax, exts: {}}",
     "10:73 spec.process[2].qconfig.act.exts", "unknown key"},
    {"2.1", "part_file_size: 4", "part_size: 4", "51:7 spec.save[0].part_size", "unknown key"},
    {"2.1", "w_bit: 4", "w_bit: 4, mine: 1"},
    {"2.1", "ext: {}}", "ext: {mine: 1}}"},
    {"2.1", "dtype: int8, symmetric: true, method: minmax, ext: {scale",
     "dtype: INT8, symmetric: true, method: minmax, ext: {scale",
     "9:39 spec.process[2].qconfig.weight.dtype", "must be one of int8, int4"},

    // 2.2 top level
    {"2.2", "apiversion: modelslim_v1\n", "", "1:1", "`apiversion` is missing"},
    {"2.2", "modelslim_v1", "modelslim_v0", "1:13 apiversion", "must be one of modelslim_v1"},
    {"2.2", "modelslim_v1", "modelslim_convert", "1:13 apiversion", "must be one of modelslim_v1"},
    {"2.2", "config_id: base", "config_id: " + letters(200)},
    {"2.2", "config_id: base", "config_id: " + letters(201), "3:14 metadata.config_id",
     "has 201 characters, the limit is 200"},
    {"2.2", "score: 10", "score: 0"},
    {"2.2", "score: 10", "score: 99.5"},
    {"2.2", "score: 10", "score: -1", "4:10 metadata.score", "must be a number"},
    {"2.2", "score: 10", "score: high", "4:10 metadata.score", "not the text `high`"},
    {"2.2", "label: {w_bit: 4, a_bit: 4}", "label: {}"},
    {"2.2", "label: {w_bit: 4, a_bit: 4}", "label: w4a4", "5:10 metadata.label",
     "must be a mapping"},
    {"2.2", "[Qwen3-8B]", "[]"},
    {"2.2", "[Qwen3-8B]", "Qwen3-8B", "6:25 metadata.verified_model_types", "must be a list"},
    {"2.2", "[Qwen3-8B]", "[8]", "6:26 metadata.verified_model_types[0]", "must be text"},
    {"2.2", "[Qwen3-8B]", "[" + letters(201) + "]", "6:26 metadata.verified_model_types[0]",
     "the limit is 200"},
    {"2.2", "[[Atlas_A2, long]]", "[]"},
    {"2.2", "[[Atlas_A2, long]]", "[Atlas_A2]", "7:30 metadata.verified_tags.Qwen3-8B[0]",
     "must be a list"},
    {"2.2", "{Qwen3-8B: [[Atlas_A2, long]]}", "[Qwen3-8B]", "7:18 metadata.verified_tags",
     "must be a mapping"},

    // 2.3 spec
    {"2.3", "runner: auto", "runner: model_wise"},
    {"2.3", "runner: auto", "runner: layer_wise"},
    {"2.3", "runner: auto", "runner: dp_layer_wise"},
    {"2.3", "runner: auto", "runner: fast", "12:11 spec.runner", "must be one of auto, model_wise"},
    {"2.3", "- dataset: fit.jsonl", "- dataset: null"},
    {"2.3", "fit.jsonl", letters(4096)},
    {"2.3", "fit.jsonl", letters(4097), "14:16 spec.prior[0].dataset", "the limit is 4096"},
    {"2.3", "dataset: texts.jsonl", "dataset: " + letters(4096)},
    {"2.3", "dataset: texts.jsonl", "dataset: " + letters(4097), "54:12 spec.dataset",
     "the limit is 4096"},
    {"2.3", "dataset: texts.jsonl", "dataset: [a.jsonl]", "54:12 spec.dataset", "must be text"},
    {"2.3", "  dataset: texts.jsonl\n", ""},
    {"2.3",
     "    - type: linear_quant\n      qconfig: *w8\n      include: [\"*.o_proj\"]\n      "
     "exclude: [\"*.9.*\"]\n",
     "    - linear_quant\n", "37:7 spec.process[2]", "must be a mapping, not the text"},
    {"2.3", "type: linear_quant", "type: linear_qaunt", "37:13 spec.process[2].type",
     "unknown processor `linear_qaunt`"},
    {"2.3", "- type: linear_quant\n", "- type: 8\n", "37:13 spec.process[2].type", "must be text"},
    {"2.3",
     "- type: linear_quant\n      qconfig: *w8\n      include: [\"*.o_proj\"]\n      "
     "exclude: [\"*.9.*\"]\n",
     "- type: group\n      configs: [{type: linear_quant, qconfig: *w8}]\n"},
    {"2.3", "type: linear_quant", "type: ascendv1_saver", "37:13 spec.process[2].type",
     "is a saver, not a processor"},

    // 2.4 adapt_rotation
    {"2.4", "          stage: 1\n", "", "16:11 spec.prior[0].process[0]", "`stage` is missing"},
    {"2.4", "stage: 1", "stage: 3", "17:18 spec.prior[0].process[0].stage", "from 1 to 2"},
    {"2.4", "      stage: 2\n", "", "31:7 spec.process[1]", "`stage` is missing"},
    {"2.4", kStage1, "steps: 1"},
    {"2.4", kStage1, "steps: 1000"},
    {"2.4", kStage1, "steps: 0", "18:18 spec.prior[0].process[0].steps", "from 1 to 1000"},
    {"2.4", kStage1, "steps: 1001", "18:18 spec.prior[0].process[0].steps", "from 1 to 1000"},
    {"2.4", "quant_dtype: int8", "quant_dtype: int4"},
    {"2.4", "quant_dtype: int8", "quant_dtype: float", "19:24 spec.prior[0].process[0].quant_dtype",
     "must be one of int4, int8"},
    {"2.4", "[up_proj]", "[q_proj, gate_proj]"},
    {"2.4", "[up_proj]", "[" + letters(128) + "]"},
    {"2.4", "[up_proj]", "[" + letters(129) + "]", "20:24 spec.prior[0].process[0].layer_type[0]",
     "the limit is 128"},
    {"2.4", "[up_proj]", "[]", "20:23 spec.prior[0].process[0].layer_type", "names no linear"},
    {"2.4", "[up_proj]", "[up_proj, \"  \"]", "20:33 spec.prior[0].process[0].layer_type[1]",
     "a blank name"},
    {"2.4", "[up_proj]", "[3]", "20:24 spec.prior[0].process[0].layer_type[0]", "must be text"},
    {"2.4", "block_size: -1", "block_size: 1"},
    {"2.4", "block_size: -1", "block_size: 4096"},
    {"2.4", "block_size: -1", "block_size: 0", "21:23 spec.prior[0].process[0].block_size",
     "must be a power of two"},
    {"2.4", "block_size: -1", "block_size: -2", "21:23 spec.prior[0].process[0].block_size",
     "from -1"},
    {"2.4", "block_size: -1", "block_size: 24", "21:23 spec.prior[0].process[0].block_size",
     "must be a power of two"},
    {"2.4", "max_samples: 2048", "max_samples: 1"},
    {"2.4", "max_samples: 2048", "max_samples: 100000"},
    {"2.4", "max_samples: 2048", "max_samples: 0", "22:24 spec.prior[0].process[0].max_samples",
     "from 1 to 100000"},
    {"2.4", "max_samples: 2048", "max_samples: 100001",
     "22:24 spec.prior[0].process[0].max_samples", "from 1 to 100000"},
    {"2.4", kStage1, "online: false", "18:11 spec.prior[0].process[0].online",
     "is a key of adapt_rotation, stage 2, not of adapt_rotation, stage 1"},
    {"2.4", kStage1, "down_proj_online_layers: []",
     "18:11 spec.prior[0].process[0].down_proj_online_layers",
     "is a key of adapt_rotation, stage 2"},
    {"2.4", kStage1, "max_tp_size: 4", "18:11 spec.prior[0].process[0].max_tp_size",
     "is a key of adapt_rotation, stage 2"},
    {"2.4", "online: false", "steps: 20", "33:7 spec.process[1].steps",
     "is a key of adapt_rotation, stage 1, not of adapt_rotation, stage 2"},
    {"2.4", "online: false", "quant_dtype: int4", "33:7 spec.process[1].quant_dtype",
     "is a key of adapt_rotation, stage 1"},
    {"2.4", "online: false", "layer_type: [up_proj]", "33:7 spec.process[1].layer_type",
     "is a key of adapt_rotation, stage 1"},
    {"2.4", "online: false", "max_samples: 8", "33:7 spec.process[1].max_samples",
     "is a key of adapt_rotation, stage 1"},
    {"2.4", "online: false", "online: perhaps", "33:15 spec.process[1].online",
     "must be true or false"},
    {"2.4", "block_size: 64", "block_size: -1"},
    {"2.4", "block_size: 64", "block_size: 48", "34:19 spec.process[1].block_size",
     "must be a power of two"},
    {"2.4", "[0, 3]", "[]"},
    {"2.4", "[0, 3]", "[0, -1]", "35:36 spec.process[1].down_proj_online_layers[1]", "from 0"},
    {"2.4", "[0, 3]", "[first]", "35:33 spec.process[1].down_proj_online_layers[0]",
     "must be a whole number"},
    {"2.4", "[0, 3]", "3", "35:32 spec.process[1].down_proj_online_layers", "must be a list"},
    {"2.4", "max_tp_size: 1", "max_tp_size: 64"},
    {"2.4", "max_tp_size: 1", "max_tp_size: 0", "36:20 spec.process[1].max_tp_size",
     "from 1 to 64"},
    {"2.4", "max_tp_size: 1", "max_tp_size: 128", "36:20 spec.process[1].max_tp_size",
     "from 1 to 64"},
    {"2.4", "max_tp_size: 1", "max_tp_size: 6", "36:20 spec.process[1].max_tp_size",
     "must be a power of two"},

    // 2.5 quarot, in the place of stage 2
    {"2.5", kRotation, "    - type: quarot\n      export_extra_info: false\n      online: true\n"},
    {"2.5", kRotation, "    - type: quarot\n      stage: 2\n", "32:7 spec.process[1].stage",
     "unknown key `stage`"},
    {"2.5", kRotation, "    - type: quarot\n      export_extra_info: 5\n",
     "32:26 spec.process[1].export_extra_info", "must be true or false"},
    {"2.5", kRotationKeys, "    - type: quarot\n"},
    {"2.5", kRotationKeys, "    - type: quarot\n      max_tp_size: 128\n"},
    {"2.5", kRotationKeys, "    - type: quarot\n      max_tp_size: 3\n",
     "32:20 spec.process[1].max_tp_size", "must be a power of two"},
    {"2.5", kRotationKeys, "    - type: quarot\n      max_tp_size: 0\n",
     "32:20 spec.process[1].max_tp_size", "from 1"},
    {"2.5", kRotationKeys, "    - type: quarot\n      block_size: 12\n",
     "32:19 spec.process[1].block_size", "must be a power of two"},
    {"2.5", kRotationKeys, "    - type: quarot\n      steps: 5\n", "32:7 spec.process[1].steps",
     "unknown key `steps`"},

    // 2.6 autoround_quant
    {"2.6", kIgnored, "iters: 1"},
    {"2.6", kIgnored, "iters: 0", "42:14 spec.process[3].iters", "from 1"},
    {"2.6", kIgnored, "iters: -5", "42:14 spec.process[3].iters", "from 1"},
    {"2.6", "enable_minmax_tuning: true", "enable_minmax_tuning: false"},
    {"2.6", "enable_round_tuning: true", "enable_round_tuning: false"},
    {"2.6", "enable_minmax_tuning: true\n      enable_round_tuning: true",
     "enable_minmax_tuning: false\n      enable_round_tuning: false"},
    {"2.6", "enable_minmax_tuning: true", "enable_minmax_tuning: []",
     "43:29 spec.process[3].enable_minmax_tuning", "must be true or false"},
    {"2.6",
     "      strategies:\n        - qconfig: *w8\n          include: [\"*.up_proj\"]\n          "
     "exclude: [\"*.4.*\"]\n",
     "      strategies: []\n", "45:19 spec.process[3].strategies", "there are no strategies"},
    {"2.6",
     "      strategies:\n        - qconfig: *w8\n          include: [\"*.up_proj\"]\n          "
     "exclude: [\"*.4.*\"]\n",
     "", "41:7 spec.process[3]", "`strategies` is missing"},
    {"2.6", "        - qconfig: *w8\n          include", "        - include",
     "46:11 spec.process[3].strategies[0]", "`qconfig` is missing"},
    {"2.6", "include: [\"*.up_proj\"]", "include: []"},
    {"2.6", "[\"*.up_proj\"]", "[" + letters(200) + "]"},
    {"2.6", "[\"*.up_proj\"]", "[a, " + letters(201) + "]",
     "47:24 spec.process[3].strategies[0].include[1]", "the limit is 200"},
    {"2.6", "[\"*.4.*\"]", "[" + letters(201) + "]",
     "48:21 spec.process[3].strategies[0].exclude[0]", "the limit is 200"},
    {"2.6", "[\"*.up_proj\"]", "\"*.up_proj\"", "47:20 spec.process[3].strategies[0].include",
     "must be a list"},
    {"2.6",
     "{scope: per_channel, dtype: int8, symmetric: true, method: minmax, ext: {scale_dtype: "
     "bfloat16}}",
     "{dtype: int8, symmetric: true, method: minmax}", "9:11 spec.process[2].qconfig.weight",
     "`scope` is missing"},
    {"2.6", "dtype: int8, symmetric: true, method: minmax, ext: {scale_dtype",
     "symmetric: true, method: minmax, ext: {scale_dtype", "9:11 spec.process[2].qconfig.weight",
     "`dtype` is missing"},
    {"2.6", "symmetric: true, method: minmax, ext: {}}", "method: minmax, ext: {}}",
     "10:8 spec.process[2].qconfig.act", "`symmetric` is missing"},
    {"2.6", "symmetric: true, method: minmax, ext: {}}", "symmetric: true, ext: {}}",
     "10:8 spec.process[2].qconfig.act", "`method` is missing"},
    {"2.6", "scope: per_token", "scope: per_line", "10:16 spec.process[2].qconfig.act.scope",
     "must be one of per_tensor, per_channel, per_group, per_block, per_token, pd_mix, per_head, "
     "dual_scale"},
    {"2.6", "scope: per_channel, dtype: int8", "scope: per_channel, dtype: int2",
     "9:39 spec.process[2].qconfig.weight.dtype",
     "must be one of int8, int4, float, mxfp8, mxfp4, fp8_e4m3"},
    {"2.6", "  weight: {", "  weigth: {", "9:3 spec.process[2].qconfig.weigth", "unknown key"},
    {"2.6", "scale_dtype: bfloat16", "scale_dtype: float16"},
    {"2.6", "scale_dtype: bfloat16", "scale_dtype: float32"},
    {"2.6", "scale_dtype: bfloat16", "scale_dtype: float64",
     "9:97 spec.process[2].qconfig.weight.ext.scale_dtype",
     "must be one of float16, float32, bfloat16"},
    {"2.6", "ext: {}}", "ext: {scale_dtype: any}}"},
    {"2.6", "scale_dtype: bfloat16", "group_size: 64",
     "9:96 spec.process[2].qconfig.weight.ext.group_size", "goes only with `scope: per_group`"},
    {"2.6", "ext: {}}", "ext: {group_size: 64}}",
     "10:91 spec.process[2].qconfig.act.ext.group_size", "goes only with `scope: per_group`"},

    // 2.7 linear_quant (its pairs: kPairs in recipe_test.cpp)
    {"2.7", kWeight, "symmetric: true, method: gptq, ext: {percdamp: 0.05}}"},
    {"2.7", kWeight, "symmetric: true, method: gptq, ext: {percdamp: 2}}",
     "9:92 spec.process[2].qconfig.weight.ext.percdamp", "from 0 to 1"},
    {"2.7", kWeight, "symmetric: true, method: ssz}", "9:70 spec.process[2].qconfig.weight.method",
     "`method: ssz` is not supported"},
    {"2.7", kWeight, "symmetric: false, method: minmax}",
     "9:56 spec.process[2].qconfig.weight.symmetric", "do not fit the stored int8"},
    {"2.7", kAct, "scope: per_token, dtype: int8, symmetric: true, method: histogram}",
     "10:65 spec.process[2].qconfig.act.method", "`method: histogram` is not supported"},
    {"2.7", kAct, "scope: per_token, dtype: int8, symmetric: false, method: minmax}",
     "10:51 spec.process[2].qconfig.act.symmetric", "quantizes tokens symmetrically"},
    {"2.7", "      include: [\"*.o_proj\"]\n      exclude: [\"*.9.*\"]\n", ""},
    {"2.7", "- type: linear_quant\n      qconfig: *w8\n", "- type: linear_quant\n",
     "37:7 spec.process[2]", "`qconfig` is missing"},

    // 2.8 iter_smooth
    {"2.8", "alpha: 0.9", "alpha: 0.001"},
    {"2.8", "alpha: 0.9", "alpha: \"0.5\""},
    {"2.8", "alpha: 0.9", "alpha: 0", "25:14 spec.process[0].alpha", "between 0 and 1"},
    {"2.8", "alpha: 0.9", "alpha: 1.0", "25:14 spec.process[0].alpha", "between 0 and 1"},
    {"2.8", "scale_min: 1.0e-5", "scale_min: 0.999"},
    {"2.8", "scale_min: 1.0e-5", "scale_min: 0.0", "26:18 spec.process[0].scale_min",
     "between 0 and 1"},
    {"2.8", "scale_min: 1.0e-5", "scale_min: 1", "26:18 spec.process[0].scale_min",
     "between 0 and 1"},
    {"2.8", "symmetric: true\n      enable_subgraph_type: [norm-linear, ov]",
     "symmetric: false\n      enable_subgraph_type: [ov, up-down, linear-linear]"},
    {"2.8", "symmetric: true\n      enable_subgraph_type",
     "symmetric: false\n      enable_subgraph_type", "27:18 spec.process[0].symmetric",
     "would give norms and linears a bias"},
    {"2.8", "[norm-linear, ov]", "[norm-linear, linear-linear, ov, up-down]"},
    {"2.8", "[norm-linear, ov]", "[]"},
    {"2.8", "[norm-linear, ov]", "[norm_linear]", "28:30 spec.process[0].enable_subgraph_type[0]",
     "must be one of norm-linear, linear-linear, ov, up-down"},
    {"2.8", "include: [\"*\"]\n      exclude: [\"*.3.*\"]", "include: null\n      exclude: null"},
    {"2.8", "include: [\"*\"]", "include: [" + letters(201) + "]",
     "29:17 spec.process[0].include[0]", "the limit is 200"},

    // 2.9 savers
    {"2.9", "part_file_size: 4", "part_file_size: 0"},
    {"2.9", "part_file_size: 4", "part_file_size: -1", "51:23 spec.save[0].part_file_size",
     "from 0"},
    {"2.9", "part_file_size: 4", "part_file_size: half", "51:23 spec.save[0].part_file_size",
     "whole number"},
    {"2.9", "      ext: {}\n      save", "      ext: {anything: [1]}\n      save"},
    {"2.9", "      ext: {}\n      save", "      ext: []\n      save", "52:12 spec.save[0].ext",
     "must be a mapping"},
    {"2.9", "type: ascendv1_saver", "type: mindie_format_saver", "50:13 spec.save[0].type",
     "saver `mindie_format_saver` is not supported yet"},
    {"2.9", "type: ascendv1_saver", "type: compressed_tensors", "50:13 spec.save[0].type",
     "saver `compressed_tensors` is not supported yet"},
    {"2.9", "type: ascendv1_saver", "type: gguf", "50:13 spec.save[0].type",
     "unknown saver `gguf`"},

    // 3 names
    {"3", "[\"*.up_proj\"]", "[\"{1..1000}\"]"},
    {"3", "[\"*.up_proj\"]", "[a, \"{1..1001}\"]", "47:24 spec.process[3].strategies[0].include[1]",
     "more than 1000 alternatives"},
    {"3", "[\"*.9.*\"]", "[\"{a,b}{1..600}\"]", "40:17 spec.process[2].exclude[0]",
     "more than 1000 alternatives"},
};

INSTANTIATE_TEST_SUITE_P(Table, FormatRow, testing::ValuesIn(kRows));

// Every registered type (2.3): those that laos runs are in the base.
TEST(FormatTypes, OfOtherWorkAreKnownAndRefusedAtTheirPlace) {
  for (const char* type : {"smooth_quant", "flex_smooth_quant", "flex_awq_ssz", "awq", "kv_smooth",
                           "online_quarot", "load", "dynamic_cache", "fa3_quant", "float_sparse",
                           "flatquant", "svd_res", "unary_analysis", "binary_analysis",
                           "binary_operator_layer_wise", "binary_operator_model_wise"}) {
    std::string text = kBase;
    const std::string whole =
        "    - type: linear_quant\n      qconfig: *w8\n      include: [\"*.o_proj\"]\n"
        "      exclude: [\"*.9.*\"]\n";
    text.replace(text.find(whole), whole.size(), std::string("    - type: ") + type + "\n");
    try {
      parse_recipe(text, "r.yaml");
      ADD_FAILURE() << "accepted " << type;
    } catch (const Error& error) {
      ASSERT_EQ(error.problems().size(), 1u) << error.what();
      EXPECT_EQ(error.problems()[0].where, "r.yaml:37:13 spec.process[2].type");
      EXPECT_EQ(error.problems()[0].what,
                "processor `" + std::string(type) + "` is not supported yet");
    }
  }
}

TEST(FormatRoot, MustBeAMapping) {
  for (const auto& [text, what] : {std::pair{"[a]", "a list"}, std::pair{"a", "the text `a`"},
                                   std::pair{"", "nothing"}, std::pair{"8", "the number `8`"}}) {
    try {
      parse_recipe(text, "r.yaml");
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.problems().at(0).what, HasSubstr(what));
    }
  }
}

}  // namespace
}  // namespace laos::recipe
