// Every rule of the recipe format, row by row: what a recipe may say, what is refused, and the line
// and column that the message names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "recipe/recipe.h"
#include "support/words.h"

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
    // loader
    {"yaml", kSmoothLine, "symmetric: True\n      enable"},
    {"yaml", kSmoothLine, "symmetric: yes\n      enable"},
    {"yaml", kSmoothLine, "symmetric: on\n      enable"},
    {"yaml", kSmoothLine, "symmetric: 1\n      enable"},
    {"yaml", kSmoothLine, "symmetric: \"true\"\n      enable"},
    {"yaml", kSmoothLine, "symmetric: \"yes\"\n      enable"},
    {"yaml", kSmoothLine, "symmetric: 2\n      enable", "27:18 spec.process[0].symmetric",
     "must be true or false"},
    {"yaml", "scale_min: 1.0e-5", "scale_min: 1e-5"},  // text, read as a number all the same
    {"yaml", kStage1, "steps: 010"},                   // octal
    {"yaml", kStage1, "steps: \"20\""},
    {"yaml", kStage1, "steps: 20.0"},
    {"yaml", kStage1, "steps: 20.5", "18:18 spec.prior[0].process[0].steps",
     "not the number `20.5`"},
    {"yaml", kStage1, "steps: some", "18:18 spec.prior[0].process[0].steps", "not the text `some`"},
    {"yaml", "config_id: base", "config_id: 8", "3:14 metadata.config_id",
     "must be text, not the number"},
    {"yaml", "config_id: base", "config_id: yes", "3:14 metadata.config_id",
     "must be text, not the truth value"},
    {"yaml", "config_id: base", "config_id: \"8\""},
    {"yaml", kIgnored, "iters: 10\n      iters: 11", "43:7 spec.process[3].iters",
     "duplicate key `iters`, first given on line 42"},
    {"yaml", "        - qconfig: *w8",
     "        - qconfig: {<<: *w8, act: {scope: per_token, dtype: int8, symmetric: true, method: "
     "x}}",
     "46:30 spec.process[3].strategies[0].qconfig.act", "`<<` already merges it from line 10"},
    {"yaml", "        - qconfig: *w8", "        - qconfig: {<<: *w8}"},
    {"yaml", "config_id: base", "config_id: b@se", "3:14 metadata.config_id",
     "has a character that recipes may not use"},
    {"yaml", "config_id: base", "config_id: \"a_b \\\"'><=[](),{}:|/.*~?!+-\\\\\""},
    {"yaml", "w_bit: 4", "w@bit: 4", "5:11 metadata.label.w@bit", "the key `w@bit`"},
    {"yaml", "[Qwen3-8B]", "[Qwen3@8B]"},  // lists are not looked into
    {"yaml", "w8: &w8", letters(512) + ": 1\nw8: &w8"},
    {"yaml", "w8: &w8", letters(513) + ": 1\nw8: &w8", "8:1 " + letters(80) + "...",
     "more than 512 characters"},
    {"yaml", "w8: &w8", "anything: [of, {mine: 1}]\nw8: &w8"},
    {"yaml", "score: 10", "scores: 10", "4:3 metadata.scores", "unknown key `scores`"},
    {"yaml", "runner: auto", "runer: auto", "12:3 spec.runer", "unknown key `runer`"},
    {"yaml", "- dataset: fit.jsonl", "- data: fit.jsonl", "14:7 spec.prior[0].data", "unknown key"},
    {"yaml", kStage1, "step: 20", "18:11 spec.prior[0].process[0].step", "unknown key"},
    {"yaml", "alpha: 0.9", "alfa: 0.9", "25:7 spec.process[0].alfa", "unknown key"},
    {"yaml", "online: false", "onlin: false", "33:7 spec.process[1].onlin", "unknown key"},
    {"yaml", "include: [\"*.o_proj\"]", "includes: [\"*.o_proj\"]", "39:7 spec.process[2].includes",
     "unknown key"},
    {"yaml", kIgnored, "iter: 10", "42:7 spec.process[3].iter", "unknown key"},
    {"yaml", "include: [\"*.up_proj\"]", "includes: [\"*.up_proj\"]",
     "47:11 spec.process[3].strategies[0].includes", "unknown key"},
    {"yaml", "  act: {", "  activation: {", "10:3 spec.process[2].qconfig.activation",
     "unknown key"},
    {"yaml", "method: minmax, ext: {}}", "method: minmax, exts: {}}",
     "10:73 spec.process[2].qconfig.act.exts", "unknown key"},
    {"yaml", "part_file_size: 4", "part_size: 4", "51:7 spec.save[0].part_size", "unknown key"},
    {"yaml", "w_bit: 4", "w_bit: 4, mine: 1"},
    {"yaml", "ext: {}}", "ext: {mine: 1}}"},
    {"yaml", "dtype: int8, symmetric: true, method: minmax, ext: {scale",
     "dtype: INT8, symmetric: true, method: minmax, ext: {scale",
     "9:39 spec.process[2].qconfig.weight.dtype", "must be one of int8, int4"},

    // top level
    {"metadata", "apiversion: modelslim_v1\n", "", "1:1", "`apiversion` is missing"},
    {"metadata", "modelslim_v1", "modelslim_v0", "1:13 apiversion", "must be one of modelslim_v1"},
    {"metadata", "modelslim_v1", "modelslim_convert", "1:13 apiversion",
     "must be one of modelslim_v1"},
    {"metadata", "config_id: base", "config_id: " + letters(200)},
    {"metadata", "config_id: base", "config_id: " + letters(201), "3:14 metadata.config_id",
     "has 201 characters, the limit is 200"},
    {"metadata", "score: 10", "score: 0"},
    {"metadata", "score: 10", "score: 99.5"},
    {"metadata", "score: 10", "score: -1", "4:10 metadata.score", "must be a number"},
    {"metadata", "score: 10", "score: high", "4:10 metadata.score", "not the text `high`"},
    {"metadata", "label: {w_bit: 4, a_bit: 4}", "label: {}"},
    {"metadata", "label: {w_bit: 4, a_bit: 4}", "label: w4a4", "5:10 metadata.label",
     "must be a mapping"},
    {"metadata", "[Qwen3-8B]", "[]"},
    {"metadata", "[Qwen3-8B]", "Qwen3-8B", "6:25 metadata.verified_model_types", "must be a list"},
    {"metadata", "[Qwen3-8B]", "[8]", "6:26 metadata.verified_model_types[0]", "must be text"},
    {"metadata", "[Qwen3-8B]", "[" + letters(201) + "]", "6:26 metadata.verified_model_types[0]",
     "the limit is 200"},
    {"metadata", "[[Atlas_A2, long]]", "[]"},
    {"metadata", "[[Atlas_A2, long]]", "[Atlas_A2]", "7:30 metadata.verified_tags.Qwen3-8B[0]",
     "must be a list"},
    {"metadata", "{Qwen3-8B: [[Atlas_A2, long]]}", "[Qwen3-8B]", "7:18 metadata.verified_tags",
     "must be a mapping"},

    // spec
    {"spec", "runner: auto", "runner: model_wise"},
    {"spec", "runner: auto", "runner: layer_wise"},
    {"spec", "runner: auto", "runner: dp_layer_wise"},
    {"spec", "runner: auto", "runner: fast", "12:11 spec.runner",
     "must be one of auto, model_wise"},
    {"spec", "- dataset: fit.jsonl", "- dataset: null"},
    {"spec", "fit.jsonl", letters(4096)},
    {"spec", "fit.jsonl", letters(4097), "14:16 spec.prior[0].dataset", "the limit is 4096"},
    {"spec", "dataset: texts.jsonl", "dataset: " + letters(4096)},
    {"spec", "dataset: texts.jsonl", "dataset: " + letters(4097), "54:12 spec.dataset",
     "the limit is 4096"},
    {"spec", "dataset: texts.jsonl", "dataset: [a.jsonl]", "54:12 spec.dataset", "must be text"},
    {"spec", "  dataset: texts.jsonl\n", ""},
    {"spec",
     "    - type: linear_quant\n      qconfig: *w8\n      include: [\"*.o_proj\"]\n      "
     "exclude: [\"*.9.*\"]\n",
     "    - linear_quant\n", "37:7 spec.process[2]", "must be a mapping, not the text"},
    {"spec", "type: linear_quant", "type: linear_qaunt", "37:13 spec.process[2].type",
     "unknown processor `linear_qaunt`"},
    {"spec", "- type: linear_quant\n", "- type: 8\n", "37:13 spec.process[2].type", "must be text"},
    {"spec",
     "- type: linear_quant\n      qconfig: *w8\n      include: [\"*.o_proj\"]\n      "
     "exclude: [\"*.9.*\"]\n",
     "- type: group\n      configs: [{type: linear_quant, qconfig: *w8}]\n"},
    {"spec", "type: linear_quant", "type: ascendv1_saver", "37:13 spec.process[2].type",
     "is a saver, not a processor"},

    // adapt_rotation
    {"adapt_rotation", "          stage: 1\n", "", "16:11 spec.prior[0].process[0]",
     "`stage` is missing"},
    {"adapt_rotation", "stage: 1", "stage: 3", "17:18 spec.prior[0].process[0].stage",
     "from 1 to 2"},
    {"adapt_rotation", "      stage: 2\n", "", "31:7 spec.process[1]", "`stage` is missing"},
    {"adapt_rotation", kStage1, "steps: 1"},
    {"adapt_rotation", kStage1, "steps: 1000"},
    {"adapt_rotation", kStage1, "steps: 0", "18:18 spec.prior[0].process[0].steps",
     "from 1 to 1000"},
    {"adapt_rotation", kStage1, "steps: 1001", "18:18 spec.prior[0].process[0].steps",
     "from 1 to 1000"},
    {"adapt_rotation", "quant_dtype: int8", "quant_dtype: int4"},
    {"adapt_rotation", "quant_dtype: int8", "quant_dtype: float",
     "19:24 spec.prior[0].process[0].quant_dtype", "must be one of int4, int8"},
    {"adapt_rotation", "[up_proj]", "[q_proj, gate_proj]"},
    {"adapt_rotation", "[up_proj]", "[" + letters(128) + "]"},
    {"adapt_rotation", "[up_proj]", "[" + letters(129) + "]",
     "20:24 spec.prior[0].process[0].layer_type[0]", "the limit is 128"},
    {"adapt_rotation", "[up_proj]", "[]", "20:23 spec.prior[0].process[0].layer_type",
     "names no linear"},
    {"adapt_rotation", "[up_proj]", "[up_proj, \"  \"]",
     "20:33 spec.prior[0].process[0].layer_type[1]", "a blank name"},
    {"adapt_rotation", "[up_proj]", "[3]", "20:24 spec.prior[0].process[0].layer_type[0]",
     "must be text"},
    {"adapt_rotation", "block_size: -1", "block_size: 1"},
    {"adapt_rotation", "block_size: -1", "block_size: 4096"},
    {"adapt_rotation", "block_size: -1", "block_size: 0",
     "21:23 spec.prior[0].process[0].block_size", "must be a power of two"},
    {"adapt_rotation", "block_size: -1", "block_size: -2",
     "21:23 spec.prior[0].process[0].block_size", "from -1"},
    {"adapt_rotation", "block_size: -1", "block_size: 24",
     "21:23 spec.prior[0].process[0].block_size", "must be a power of two"},
    {"adapt_rotation", "max_samples: 2048", "max_samples: 1"},
    {"adapt_rotation", "max_samples: 2048", "max_samples: 100000"},
    {"adapt_rotation", "max_samples: 2048", "max_samples: 0",
     "22:24 spec.prior[0].process[0].max_samples", "from 1 to 100000"},
    {"adapt_rotation", "max_samples: 2048", "max_samples: 100001",
     "22:24 spec.prior[0].process[0].max_samples", "from 1 to 100000"},
    {"adapt_rotation", kStage1, "online: false", "18:11 spec.prior[0].process[0].online",
     "is a key of adapt_rotation, stage 2, not of adapt_rotation, stage 1"},
    {"adapt_rotation", kStage1, "down_proj_online_layers: []",
     "18:11 spec.prior[0].process[0].down_proj_online_layers",
     "is a key of adapt_rotation, stage 2"},
    {"adapt_rotation", kStage1, "max_tp_size: 4", "18:11 spec.prior[0].process[0].max_tp_size",
     "is a key of adapt_rotation, stage 2"},
    {"adapt_rotation", "online: false", "steps: 20", "33:7 spec.process[1].steps",
     "is a key of adapt_rotation, stage 1, not of adapt_rotation, stage 2"},
    {"adapt_rotation", "online: false", "quant_dtype: int4", "33:7 spec.process[1].quant_dtype",
     "is a key of adapt_rotation, stage 1"},
    {"adapt_rotation", "online: false", "layer_type: [up_proj]", "33:7 spec.process[1].layer_type",
     "is a key of adapt_rotation, stage 1"},
    {"adapt_rotation", "online: false", "max_samples: 8", "33:7 spec.process[1].max_samples",
     "is a key of adapt_rotation, stage 1"},
    {"adapt_rotation", "online: false", "online: perhaps", "33:15 spec.process[1].online",
     "must be true or false"},
    {"adapt_rotation", "block_size: 64", "block_size: -1"},
    {"adapt_rotation", "block_size: 64", "block_size: 48", "34:19 spec.process[1].block_size",
     "must be a power of two"},
    {"adapt_rotation", "[0, 3]", "[]"},
    {"adapt_rotation", "[0, 3]", "[0, -1]", "35:36 spec.process[1].down_proj_online_layers[1]",
     "from 0"},
    {"adapt_rotation", "[0, 3]", "[first]", "35:33 spec.process[1].down_proj_online_layers[0]",
     "must be a whole number"},
    {"adapt_rotation", "[0, 3]", "3", "35:32 spec.process[1].down_proj_online_layers",
     "must be a list"},
    {"adapt_rotation", "max_tp_size: 1", "max_tp_size: 64"},
    {"adapt_rotation", "max_tp_size: 1", "max_tp_size: 0", "36:20 spec.process[1].max_tp_size",
     "from 1 to 64"},
    {"adapt_rotation", "max_tp_size: 1", "max_tp_size: 128", "36:20 spec.process[1].max_tp_size",
     "from 1 to 64"},
    {"adapt_rotation", "max_tp_size: 1", "max_tp_size: 6", "36:20 spec.process[1].max_tp_size",
     "must be a power of two"},

    // quarot, in the place of stage 2
    {"quarot", kRotation,
     "    - type: quarot\n      export_extra_info: false\n      online: true\n"},
    {"quarot", kRotation, "    - type: quarot\n      stage: 2\n", "32:7 spec.process[1].stage",
     "unknown key `stage`"},
    {"quarot", kRotation, "    - type: quarot\n      export_extra_info: 5\n",
     "32:26 spec.process[1].export_extra_info", "must be true or false"},
    {"quarot", kRotationKeys, "    - type: quarot\n"},
    {"quarot", kRotationKeys, "    - type: quarot\n      max_tp_size: 128\n"},
    {"quarot", kRotationKeys, "    - type: quarot\n      max_tp_size: 3\n",
     "32:20 spec.process[1].max_tp_size", "must be a power of two"},
    {"quarot", kRotationKeys, "    - type: quarot\n      max_tp_size: 0\n",
     "32:20 spec.process[1].max_tp_size", "from 1"},
    {"quarot", kRotationKeys, "    - type: quarot\n      block_size: 12\n",
     "32:19 spec.process[1].block_size", "must be a power of two"},
    {"quarot", kRotationKeys, "    - type: quarot\n      steps: 5\n", "32:7 spec.process[1].steps",
     "unknown key `steps`"},

    // autoround_quant
    {"autoround_quant", kIgnored, "iters: 1"},
    {"autoround_quant", kIgnored, "iters: 0", "42:14 spec.process[3].iters", "from 1"},
    {"autoround_quant", kIgnored, "iters: -5", "42:14 spec.process[3].iters", "from 1"},
    {"autoround_quant", "enable_minmax_tuning: true", "enable_minmax_tuning: false"},
    {"autoround_quant", "enable_round_tuning: true", "enable_round_tuning: false"},
    {"autoround_quant", "enable_minmax_tuning: true\n      enable_round_tuning: true",
     "enable_minmax_tuning: false\n      enable_round_tuning: false"},
    {"autoround_quant", "enable_minmax_tuning: true", "enable_minmax_tuning: []",
     "43:29 spec.process[3].enable_minmax_tuning", "must be true or false"},
    {"autoround_quant",
     "      strategies:\n        - qconfig: *w8\n          include: [\"*.up_proj\"]\n          "
     "exclude: [\"*.4.*\"]\n",
     "      strategies: []\n", "45:19 spec.process[3].strategies", "there are no strategies"},
    {"autoround_quant",
     "      strategies:\n        - qconfig: *w8\n          include: [\"*.up_proj\"]\n          "
     "exclude: [\"*.4.*\"]\n",
     "", "41:7 spec.process[3]", "`strategies` is missing"},
    {"autoround_quant", "        - qconfig: *w8\n          include", "        - include",
     "46:11 spec.process[3].strategies[0]", "`qconfig` is missing"},
    {"autoround_quant", "include: [\"*.up_proj\"]", "include: []"},
    {"autoround_quant", "[\"*.up_proj\"]", "[" + letters(200) + "]"},
    {"autoround_quant", "[\"*.up_proj\"]", "[a, " + letters(201) + "]",
     "47:24 spec.process[3].strategies[0].include[1]", "the limit is 200"},
    {"autoround_quant", "[\"*.4.*\"]", "[" + letters(201) + "]",
     "48:21 spec.process[3].strategies[0].exclude[0]", "the limit is 200"},
    {"autoround_quant", "[\"*.up_proj\"]", "\"*.up_proj\"",
     "47:20 spec.process[3].strategies[0].include", "must be a list"},
    {"autoround_quant",
     "{scope: per_channel, dtype: int8, symmetric: true, method: minmax, ext: {scale_dtype: "
     "bfloat16}}",
     "{dtype: int8, symmetric: true, method: minmax}", "9:11 spec.process[2].qconfig.weight",
     "`scope` is missing"},
    {"autoround_quant", "dtype: int8, symmetric: true, method: minmax, ext: {scale_dtype",
     "symmetric: true, method: minmax, ext: {scale_dtype", "9:11 spec.process[2].qconfig.weight",
     "`dtype` is missing"},
    {"autoround_quant", "symmetric: true, method: minmax, ext: {}}", "method: minmax, ext: {}}",
     "10:8 spec.process[2].qconfig.act", "`symmetric` is missing"},
    {"autoround_quant", "symmetric: true, method: minmax, ext: {}}", "symmetric: true, ext: {}}",
     "10:8 spec.process[2].qconfig.act", "`method` is missing"},
    {"autoround_quant", "scope: per_token", "scope: per_line",
     "10:16 spec.process[2].qconfig.act.scope",
     "must be one of per_tensor, per_channel, per_group, per_block, per_token, pd_mix, per_head, "
     "dual_scale"},
    {"autoround_quant", "scope: per_channel, dtype: int8", "scope: per_channel, dtype: int2",
     "9:39 spec.process[2].qconfig.weight.dtype",
     "must be one of int8, int4, float, mxfp8, mxfp4, fp8_e4m3"},
    {"autoround_quant", "  weight: {", "  weigth: {", "9:3 spec.process[2].qconfig.weigth",
     "unknown key"},
    {"autoround_quant", "scale_dtype: bfloat16", "scale_dtype: float16"},
    {"autoround_quant", "scale_dtype: bfloat16", "scale_dtype: float32"},
    {"autoround_quant", "scale_dtype: bfloat16", "scale_dtype: float64",
     "9:97 spec.process[2].qconfig.weight.ext.scale_dtype",
     "must be one of float16, float32, bfloat16"},
    {"autoround_quant", "ext: {}}", "ext: {scale_dtype: any}}"},
    {"autoround_quant", "scale_dtype: bfloat16", "group_size: 64",
     "9:96 spec.process[2].qconfig.weight.ext.group_size", "goes only with `scope: per_group`"},
    {"autoround_quant", "ext: {}}", "ext: {group_size: 64}}",
     "10:91 spec.process[2].qconfig.act.ext.group_size", "goes only with `scope: per_group`"},

    // linear_quant (its pairs: kPairs in recipe_test.cpp)
    {"linear_quant", kWeight, "symmetric: true, method: gptq, ext: {percdamp: 0.05}}"},
    {"linear_quant", kWeight, "symmetric: true, method: gptq, ext: {percdamp: 2}}",
     "9:92 spec.process[2].qconfig.weight.ext.percdamp", "from 0 to 1"},
    {"linear_quant", kWeight, "symmetric: true, method: ssz}",
     "9:70 spec.process[2].qconfig.weight.method", "`method: ssz` is not supported"},
    {"linear_quant", kWeight, "symmetric: false, method: minmax}",
     "9:56 spec.process[2].qconfig.weight.symmetric", "do not fit the stored int8"},
    {"linear_quant", kAct, "scope: per_token, dtype: int8, symmetric: true, method: histogram}",
     "10:65 spec.process[2].qconfig.act.method", "`method: histogram` is not supported"},
    {"linear_quant", kAct, "scope: per_token, dtype: int8, symmetric: false, method: minmax}",
     "10:51 spec.process[2].qconfig.act.symmetric", "quantizes tokens symmetrically"},
    {"linear_quant", "      include: [\"*.o_proj\"]\n      exclude: [\"*.9.*\"]\n", ""},
    {"linear_quant", "- type: linear_quant\n      qconfig: *w8\n", "- type: linear_quant\n",
     "37:7 spec.process[2]", "`qconfig` is missing"},

    // iter_smooth
    {"iter_smooth", "alpha: 0.9", "alpha: 0.001"},
    {"iter_smooth", "alpha: 0.9", "alpha: \"0.5\""},
    {"iter_smooth", "alpha: 0.9", "alpha: 0", "25:14 spec.process[0].alpha", "between 0 and 1"},
    {"iter_smooth", "alpha: 0.9", "alpha: 1.0", "25:14 spec.process[0].alpha", "between 0 and 1"},
    {"iter_smooth", "scale_min: 1.0e-5", "scale_min: 0.999"},
    {"iter_smooth", "scale_min: 1.0e-5", "scale_min: 0.0", "26:18 spec.process[0].scale_min",
     "between 0 and 1"},
    {"iter_smooth", "scale_min: 1.0e-5", "scale_min: 1", "26:18 spec.process[0].scale_min",
     "between 0 and 1"},
    {"iter_smooth", "symmetric: true\n      enable_subgraph_type: [norm-linear, ov]",
     "symmetric: false\n      enable_subgraph_type: [ov, up-down, linear-linear]"},
    {"iter_smooth", "symmetric: true\n      enable_subgraph_type",
     "symmetric: false\n      enable_subgraph_type", "27:18 spec.process[0].symmetric",
     "would give norms and linears a bias"},
    {"iter_smooth", "[norm-linear, ov]", "[norm-linear, linear-linear, ov, up-down]"},
    {"iter_smooth", "[norm-linear, ov]", "[]"},
    {"iter_smooth", "[norm-linear, ov]", "[norm_linear]",
     "28:30 spec.process[0].enable_subgraph_type[0]",
     "must be one of norm-linear, linear-linear, ov, up-down"},
    {"iter_smooth", "include: [\"*\"]\n      exclude: [\"*.3.*\"]",
     "include: null\n      exclude: null"},
    {"iter_smooth", "include: [\"*\"]", "include: [" + letters(201) + "]",
     "29:17 spec.process[0].include[0]", "the limit is 200"},

    // savers
    {"ascendv1_saver", "part_file_size: 4", "part_file_size: 0"},
    {"ascendv1_saver", "part_file_size: 4", "part_file_size: -1",
     "51:23 spec.save[0].part_file_size", "from 0"},
    {"ascendv1_saver", "part_file_size: 4", "part_file_size: half",
     "51:23 spec.save[0].part_file_size", "whole number"},
    {"ascendv1_saver", "      ext: {}\n      save", "      ext: {anything: [1]}\n      save"},
    {"ascendv1_saver", "      ext: {}\n      save", "      ext: []\n      save",
     "52:12 spec.save[0].ext", "must be a mapping"},
    {"ascendv1_saver", "type: ascendv1_saver", "type: mindie_format_saver",
     "50:13 spec.save[0].type", "saver `mindie_format_saver` is not supported yet"},
    {"ascendv1_saver", "type: ascendv1_saver", "type: compressed_tensors",
     "50:13 spec.save[0].type", "saver `compressed_tensors` is not supported yet"},
    {"compressed_tensors_saver", "type: ascendv1_saver", "type: compressed_tensors_saver"},
    {"compressed_tensors_saver", "type: ascendv1_saver\n      part_file_size: 4",
     "type: compressed_tensors_saver\n      part_file_size: 0"},
    {"compressed_tensors_saver", "type: ascendv1_saver\n      part_file_size: 4",
     "type: compressed_tensors_saver\n      part_file_size: half",
     "51:23 spec.save[0].part_file_size", "whole number"},
    {"ascendv1_saver", "type: ascendv1_saver", "type: gguf", "50:13 spec.save[0].type",
     "unknown saver `gguf`"},

    // names
    {"patterns", "[\"*.up_proj\"]", "[\"{1..1000}\"]"},
    {"patterns", "[\"*.up_proj\"]", "[a, \"{1..1001}\"]",
     "47:24 spec.process[3].strategies[0].include[1]", "more than 1000 alternatives"},
    {"patterns", "[\"*.9.*\"]", "[\"{a,b}{1..600}\"]", "40:17 spec.process[2].exclude[0]",
     "more than 1000 alternatives"},
};

INSTANTIATE_TEST_SUITE_P(Table, FormatRow, testing::ValuesIn(kRows), [](const auto& p) {
  return test::as_word(std::string(p.param.section) + " " + p.param.to, p.index);
});

// Every type of the format: those that laos runs are in the base.
TEST(FormatTypes, OfOtherWorkAreKnownAndRefusedAtTheirPlace) {
  for (const char* type :
       {"smooth_quant", "flex_smooth_quant", "flex_awq_ssz", "awq", "kv_smooth", "online_quarot",
        "load", "dynamic_cache", "fa3_quant", "float_sparse", "svd_res", "unary_analysis",
        "binary_analysis", "binary_operator_layer_wise", "binary_operator_model_wise"}) {
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
