#include "recipe/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace laos::recipe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Line 1 is apiversion; tests below name lines of this text.
const std::string kGood = R"(apiversion: modelslim_v1
metadata: {config_id: test, score: 10, label: {w_bit: 4, a_bit: 4}}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process:
        - {type: adapt_rotation, stage: 1, steps: 7}
  process:
    - {type: adapt_rotation, stage: 2, max_tp_size: 1}
    - type: autoround_quant
      iters: 200
      strategies:
        - {qconfig: *w4, include: ["*.up_proj"]}
  save: [{type: ascendv1_saver, part_file_size: 2}]
  dataset: texts.jsonl
)";

// kGood with `from` replaced by `to`.
std::string with(const std::string& from, const std::string& to, std::string text = kGood) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

std::vector<Problem> problems_of(const std::string& text) {
  try {
    parse_recipe(text, "r.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kRecipe);
    return error.problems();
  }
  ADD_FAILURE() << "accepted:\n" << text;
  return {};
}

// The only problem of `text`; an empty one when there is not exactly one.
Problem problem_of(const std::string& text) {
  const std::vector<Problem> problems = problems_of(text);
  EXPECT_EQ(problems.size(), 1u) << testing::PrintToString(problems.size());
  for (const Problem& problem : problems) {
    EXPECT_FALSE(problem.what.empty());
    EXPECT_FALSE(problem.fix.empty());
    EXPECT_THAT(problem.where, testing::StartsWith("r.yaml"));
    if (problems.size() != 1) ADD_FAILURE() << problem.what << " at " << problem.where;
  }
  return problems.size() == 1 ? problems[0] : Problem{};
}

template <typename T>
const T& get(const Processor& processor) {
  return std::get<T>(processor.what);
}

TEST(Recipe, ReadsEveryPart) {
  const Recipe recipe = parse_recipe(kGood, "r.yaml");
  EXPECT_EQ(recipe.metadata.config_id, "test");
  EXPECT_EQ(recipe.metadata.score, 10);
  EXPECT_EQ(recipe.metadata.label.at("w_bit"), "4");
  ASSERT_EQ(recipe.prior.size(), 1u);
  EXPECT_EQ(get<FitRotation>(recipe.prior[0].process.at(0)).options.steps, 7);
  EXPECT_EQ(recipe.prior[0].dataset, "texts.jsonl");
  ASSERT_EQ(recipe.main.process.size(), 2u);
  EXPECT_EQ(get<Rotate>(recipe.main.process[0]).options.max_tp_size, 1);
  const auto& quant = get<AutoroundQuant>(recipe.main.process[1]);
  EXPECT_EQ(quant.options.iters, 200);
  ASSERT_EQ(quant.strategies.size(), 1u);
  EXPECT_EQ(quant::label_of(quant.strategies[0].scheme.value()), "W4A4_DYNAMIC");
  EXPECT_EQ(quant.strategies[0].location.text(), "r.yaml:15:11 spec.process[1].strategies[0]");
  EXPECT_EQ(quant.strategies[0].include.at(0).text, "*.up_proj");
  EXPECT_EQ(quant.strategies[0].include[0].location.text(),
            "r.yaml:15:36 spec.process[1].strategies[0].include[0]");
  ASSERT_EQ(recipe.save.size(), 1u);
  EXPECT_EQ(recipe.save[0].part_file_size, 2);
  EXPECT_EQ(recipe.main.dataset_location.text(), "r.yaml:17:12 spec.dataset");
  EXPECT_THAT(recipe.warnings, IsEmpty());
}

TEST(Recipe, HasTheDefaultsOfTheFormat) {
  const Recipe recipe = parse_recipe(R"(
apiversion: modelslim_v1
spec:
  prior: [{process: [{type: adapt_rotation, stage: 1}]}]
  process:
    - {type: adapt_rotation, stage: 2}
    - type: autoround_quant
      strategies:
        - qconfig:
            weight: {scope: per_channel, dtype: int8, symmetric: true, method: x}
            act: {scope: per_token, dtype: int8, symmetric: true, method: x}
  save: [{type: ascendv1_saver}]
)",
                                     "r.yaml");
  EXPECT_EQ(recipe.metadata.config_id, "Unknown");
  EXPECT_EQ(recipe.metadata.score, 100);
  EXPECT_EQ(recipe.main.dataset, "");
  EXPECT_EQ(recipe.save.at(0).part_file_size, 4);
  const auto& fit = get<FitRotation>(recipe.prior.at(0).process.at(0)).options;
  EXPECT_EQ(fit.steps, 20);
  EXPECT_EQ(fit.quant_bits, 4);
  EXPECT_THAT(fit.layer_type, ElementsAre("up_proj"));
  EXPECT_EQ(fit.block_size, -1);
  EXPECT_EQ(fit.max_samples, 2048);
  const auto& rotate = get<Rotate>(recipe.main.process.at(0)).options;
  EXPECT_FALSE(rotate.online);
  EXPECT_EQ(rotate.block_size, -1);
  EXPECT_EQ(rotate.max_tp_size, 4);
  const auto& quant = get<AutoroundQuant>(recipe.main.process.at(1));
  EXPECT_EQ(quant.options.iters, 10);
  EXPECT_EQ(quant.options.lr_scale, 5);
  EXPECT_TRUE(quant.options.enable_minmax_tuning);
  EXPECT_TRUE(quant.options.enable_round_tuning);
  EXPECT_EQ(quant.strategies.at(0).include.at(0).text, "*");
  EXPECT_THAT(quant.strategies[0].exclude, IsEmpty());
  EXPECT_EQ(quant.strategies[0].scheme.value().weight.scale_dtype, DType::kBF16);
}

TEST(Recipe, ReadsTheOptionsOfBothRotationStages) {
  const Recipe recipe = parse_recipe(
      with("stage: 2,", "stage: 2, online: no, block_size: 64, down_proj_online_layers: [0, 3],",
           with("steps: 7",
                "quant_dtype: int8, layer_type: [gate_proj, q_proj], block_size: 32, max_samples: "
                "5")),
      "r.yaml");
  const auto& fit = get<FitRotation>(recipe.prior[0].process[0]).options;
  EXPECT_EQ(fit.quant_bits, 8);
  EXPECT_THAT(fit.layer_type, ElementsAre("gate_proj", "q_proj"));
  EXPECT_EQ(fit.block_size, 32);
  EXPECT_EQ(fit.max_samples, 5);
  const auto& rotate = get<Rotate>(recipe.main.process[0]).options;
  EXPECT_EQ(rotate.block_size, 64);
  EXPECT_THAT(rotate.down_online_layers, ElementsAre(0, 3));
}

TEST(Recipe, IterationsMayBeLeftToTheLayers) {
  const auto options = [](const std::string& iters) {
    const Recipe recipe = parse_recipe(with("iters: 200", "iters: " + iters), "r.yaml");
    return get<AutoroundQuant>(recipe.main.process[1]).options;
  };
  EXPECT_TRUE(options("auto").until_flat);
  EXPECT_EQ(options("auto").iters, 400);
  EXPECT_FALSE(options("300").until_flat);
}

TEST(Recipe, FirstStepsOfTrainingMayBeSmaller) {
  const Recipe recipe = parse_recipe(with("iters: 200", "lr_scale: 0.25"), "r.yaml");
  EXPECT_EQ(get<AutoroundQuant>(recipe.main.process[1]).options.lr_scale, 0.25);
}

TEST(Recipe, CoercesBetweenNumbersTruthValuesAndTheirText) {
  const auto iters = [](const std::string& text) {
    const Recipe recipe = parse_recipe(with("iters: 200", "iters: " + text), "r.yaml");
    return get<AutoroundQuant>(recipe.main.process[1]).options.iters;
  };
  EXPECT_EQ(iters("\"300\""), 300);
  EXPECT_EQ(iters("300.0"), 300);
  EXPECT_EQ(iters("0300"), 192);  // octal
  const auto round_tuning = [](const std::string& text) {
    const Recipe recipe =
        parse_recipe(with("iters: 200", "enable_round_tuning: " + text), "r.yaml");
    return get<AutoroundQuant>(recipe.main.process[1]).options.enable_round_tuning;
  };
  for (const char* text : {"1", "yes", "On", "\"true\"", "\"y\"", "1.0"})
    EXPECT_TRUE(round_tuning(text)) << text;
  for (const char* text : {"0", "no", "OFF", "\"False\""}) EXPECT_FALSE(round_tuning(text)) << text;
  EXPECT_EQ(parse_recipe(with("score: 10", "score: 1e-5"), "r.yaml").metadata.score, 1e-5);
}

TEST(Recipe, RefusesABareNumberWhereTextIsExpected) {
  const Problem problem = problem_of(with("config_id: test", "config_id: 12"));
  EXPECT_EQ(problem.what, "`config_id` must be text, not the number `12`");
  EXPECT_EQ(problem.where, "r.yaml:2:23 metadata.config_id");
  EXPECT_EQ(problem.fix, "put it in quotes: \"12\"");
  EXPECT_THAT(problem_of(with("texts.jsonl", "yes")).what, HasSubstr("not the truth value `yes`"));
}

struct ValueCase {
  const char* from;
  const char* to;
  const char* what;  // part of the message
};

TEST(Recipe, RefusesValuesOutOfRange) {
  for (const ValueCase& c : std::vector<ValueCase>{
           {"iters: 200", "iters: 0", "`iters` must be a whole number from 1"},
           {"iters: 200", "iters: 2.5", "not the number `2.5`"},
           {"iters: 200", "iters: many", "not the text `many`"},
           {"iters: 200", "iters: yes", "not the truth value"},
           {"iters: 200", "iters: [1]", "not a list"},
           {"iters: 200", "iters: 99999999999999999999", "whole number"},
           {"iters: 200", "lr_scale: 0", "above 0 and at most 100"},
           {"iters: 200", "lr_scale: 100.5", "above 0 and at most 100"},
           {"iters: 200", "lr_scale: fast", "not the text `fast`"},
           {"iters: 200", "enable_round_tuning: 2", "must be true or false"},
           {"steps: 7", "steps: 1001", "from 1 to 1000"},
           {"steps: 7", "quant_dtype: int5", "one of int4, int8"},
           {"steps: 7", "layer_type: []", "names no linear"},
           {"steps: 7", "layer_type: [\" \"]", "blank"},
           {"steps: 7", "layer_type: up_proj", "must be a list"},
           {"steps: 7", "block_size: 3", "power of two"},
           {"steps: 7", "block_size: 0", "power of two"},
           {"steps: 7", "max_samples: 100001", "from 1 to 100000"},
           {"max_tp_size: 1", "max_tp_size: 3", "power of two"},
           {"max_tp_size: 1", "max_tp_size: 128", "from 1 to 64"},
           {"max_tp_size: 1", "down_proj_online_layers: [-1]", "0 to"},
           {"stage: 2", "stage: 3", "from 1 to 2"},
           {"score: 10", "score: -1", "0 or more"},
           {"score: 10", "score: .nan", "0 or more"},
           {"part_file_size: 2", "part_file_size: -1", "from 0"},
           {"modelslim_v1", "modelslim_v2", "one of modelslim_v1"},
           {"save:", "runner: fast\n  save:", "one of auto, model_wise, layer_wise, dp_layer_wise"},
           {"w_bit: 4, a_bit: 4}", "w_bit: 4}, verified_tags: {Qwen3-8B: [a]}", "must be a list"},
       }) {
    EXPECT_THAT(problem_of(with(c.from, c.to)).what, HasSubstr(c.what)) << c.to;
  }
}

TEST(Recipe, AcceptsEveryRunner) {
  for (const char* runner : {"auto", "model_wise", "layer_wise", "dp_layer_wise"}) {
    EXPECT_NO_THROW(
        parse_recipe(with("save:", std::string("runner: ") + runner + "\n  save:"), "r.yaml"));
  }
}

TEST(Recipe, NamesTheNearestKeyForAnUnknownOne) {
  const Problem problem = problem_of(with("iters: 200", "iter: 200"));
  EXPECT_EQ(problem.what, "unknown key `iter`");
  EXPECT_EQ(problem.where, "r.yaml:13:7 spec.process[1].iter");
  EXPECT_THAT(problem.fix, HasSubstr("did you mean `iters`?"));
  EXPECT_THAT(
      problem.fix,
      HasSubstr(
          "type, iters, lr_scale, enable_minmax_tuning, enable_round_tuning, act_aware, train, "
          "strategies"));
}

TEST(Recipe, RefusesUnknownKeysAtEveryLevelButTheTop) {
  for (const auto& [from, key] : std::vector<std::pair<std::string, std::string>>{
           {"config_id: test", "metadata.zzz"},
           {"score: 10", "metadata.zzz"},
           {"dataset: texts.jsonl", "spec.zzz"},
           {"max_tp_size: 1", "spec.process[0].zzz"},
           {"iters: 200", "spec.process[1].zzz"},
           {"qconfig: *w4", "spec.process[1].strategies[0].zzz"},
           {"part_file_size: 2", "spec.save[0].zzz"},
       }) {
    const bool is_flow = from != "iters: 200" && from != "dataset: texts.jsonl";
    const std::string gap = is_flow ? ", " : from == "iters: 200" ? "\n      " : "\n  ";
    const Problem problem = problem_of(with(from, from + gap + "zzz: 1"));
    EXPECT_EQ(problem.what, "unknown key `zzz`");
    EXPECT_THAT(problem.where, testing::EndsWith(" " + key));
  }
  EXPECT_NO_THROW(parse_recipe("anything: [1, {x: 2}]\n" + kGood, "r.yaml"));
  EXPECT_NO_THROW(parse_recipe(with("w_bit: 4", "w_bit: 4, mine: 1"), "r.yaml"));
}

TEST(Recipe, TheRangeObjectiveHasDefaultsOfItsOwn) {
  const auto fit_of = [](const std::string& text) {
    return get<FitRotation>(parse_recipe(text, "r.yaml").prior[0].process.at(0)).options;
  };
  const rotation::FitOptions published = fit_of(kGood);
  EXPECT_EQ(published.objective, rotation::FitObjective::kProcrustes);
  EXPECT_THAT(published.layer_type, ElementsAre("up_proj"));
  const rotation::FitOptions range = fit_of(with("steps: 7", "objective: token_range"));
  EXPECT_EQ(range.objective, rotation::FitObjective::kTokenRange);
  EXPECT_EQ(range.steps, 200);
  EXPECT_THAT(range.layer_type, ElementsAre("q_proj", "up_proj"));
  EXPECT_EQ(fit_of(with("steps: 7", "steps: 7, objective: token_range")).steps, 7);
  EXPECT_THAT(problem_of(with("steps: 7", "objective: nearest")).what,
              HasSubstr("`objective` must be one of"));
}

TEST(Recipe, RefusesKeysOfTheOtherRotationStage) {
  Problem problem = problem_of(with("max_tp_size: 1", "steps: 5"));
  EXPECT_EQ(problem.what,
            "`steps` is a key of adapt_rotation, stage 1, not of adapt_rotation, stage 2");
  EXPECT_EQ(problem.fix,
            "allowed here: type, stage, online, block_size, down_proj_online_layers, max_tp_size, "
            "export_extra_info");
  problem = problem_of(with("steps: 7", "online: false"));
  EXPECT_THAT(problem.fix, HasSubstr("steps, quant_dtype, layer_type, block_size, max_samples"));
  EXPECT_EQ(problem.where, "r.yaml:9:44 spec.prior[0].process[0].online");
}

TEST(Recipe, ReportsAllProblemsTogether) {
  const std::string text =
      with("steps: 7", "steps: 0",
           with("iters: 200", "iter: 1", with("score: 10", "score: low, score: 1")));
  std::vector<std::string> places;
  for (const Problem& problem : problems_of(text)) places.push_back(problem.where);
  EXPECT_THAT(places, ElementsAre("r.yaml:2:41 metadata.score", "r.yaml:2:36 metadata.score",
                                  "r.yaml:9:51 spec.prior[0].process[0].steps",
                                  "r.yaml:13:7 spec.process[1].iter"));
}

TEST(Recipe, ReportsAPlaceThatAliasesRepeatOnce) {
  const std::string strategy = "        - {qconfig: *w4, include: [\"*.up_proj\"]}\n";
  EXPECT_THAT(
      problem_of(with("dtype: int4", "dtype: int3", with(strategy, strategy + strategy))).what,
      HasSubstr("`dtype` must be one of"));
}

TEST(Recipe, CutsAListOfProblemsThatNobodyWouldRead) {
  std::string text = kGood;
  for (int i = 0; i < 150; ++i) text += "  unknown" + std::to_string(i) + ": 1\n";
  const std::vector<Problem> problems = problems_of(text);
  ASSERT_EQ(problems.size(), 101u);
  EXPECT_EQ(problems.back().what, "50 more problems are not listed");
}

TEST(Recipe, RefusesCharactersOutsideTheFormatsSet) {
  Problem problem = problem_of(with("texts.jsonl", "texts@home.jsonl"));
  EXPECT_THAT(problem.what, HasSubstr("`texts@home.jsonl` has a character"));
  EXPECT_EQ(problem.where, "r.yaml:17:12 spec.dataset");
  problem = problem_of("extra: {\"k\xC3\xA9y\": 1}\n" + kGood);
  EXPECT_THAT(problem.what, HasSubstr("the key `k\xC3\xA9y`"));
  EXPECT_NO_THROW(
      parse_recipe("extra: [\"a@b\"]\n" + kGood, "r.yaml"));  // lists are not looked into
}

TEST(Recipe, RefusesKeysAndPatternsThatAreTooLong) {
  EXPECT_NO_THROW(parse_recipe(std::string(512, 'k') + ": 1\n" + kGood, "r.yaml"));
  EXPECT_THAT(problem_of(std::string(513, 'k') + ": 1\n" + kGood).what,
              HasSubstr("512 characters"));
  EXPECT_NO_THROW(parse_recipe(with("*.up_proj", std::string(200, 'p')), "r.yaml"));
  const Problem problem = problem_of(with("*.up_proj", std::string(201, 'p')));
  EXPECT_EQ(problem.what, "`include[0]` has 201 characters, the limit is 200");
  EXPECT_EQ(problem.where, "r.yaml:15:36 spec.process[1].strategies[0].include[0]");
}

TEST(Recipe, RefusesPatternsWithTooManyAlternatives) {
  const Problem problem = problem_of(with("*.up_proj", "{1..1001}"));
  EXPECT_THAT(problem.what, HasSubstr("more than 1000 alternatives"));
  EXPECT_EQ(problem.where, "r.yaml:15:36 spec.process[1].strategies[0].include[0]");
  std::string many = "{1..1000}\"";
  for (int i = 0; i < 101; ++i) many += ", \"{1..1000}\"";
  EXPECT_THAT(problem_of(with("*.up_proj\"", many)).what, HasSubstr("100000 alternatives"));
}

TEST(Recipe, SaysHowToIndentAProcessor) {
  const Problem problem =
      problem_of(with("- {type: adapt_rotation, stage: 2, max_tp_size: 1}", "- adapt_rotation"));
  EXPECT_EQ(problem.what, "`process[0]` must be a mapping, not the text `adapt_rotation`");
  EXPECT_THAT(problem.fix, HasSubstr("indented below the `-`"));
}

// ---------------------------------------------------------------------------------- which
// processors

TEST(Recipe, TellsProcessorsNotSupportedYetFromUnknownOnes) {
  for (const char* type : {"smooth_quant", "awq", "dynamic_cache", "fa3_quant"}) {
    const Problem problem = problem_of(with("autoround_quant", type));
    EXPECT_EQ(problem.what, "processor `" + std::string(type) + "` is not supported yet");
    EXPECT_EQ(problem.where, "r.yaml:12:13 spec.process[1].type");
  }
  const Problem problem = problem_of(with("autoround_quant", "autoround_qant"));
  EXPECT_EQ(problem.what, "unknown processor `autoround_qant`");
  EXPECT_THAT(problem.fix, HasSubstr("did you mean `autoround_quant`?"));
}

TEST(Recipe, TellsSaversNotSupportedYetFromUnknownOnes) {
  EXPECT_EQ(problem_of(with("ascendv1_saver", "compressed_tensors")).what,
            "saver `compressed_tensors` is not supported yet");
  EXPECT_THAT(problem_of(with("ascendv1_saver", "ascendv2_saver")).fix,
              HasSubstr("`ascendv1_saver`?"));
  EXPECT_THAT(problem_of(with("type: autoround_quant", "type: ascendv1_saver")).fix,
              HasSubstr("spec.save"));
}

TEST(Recipe, ReadsSeveralSaversAndTheKeysTheyIgnore) {
  const Recipe recipe = parse_recipe(
      with("part_file_size: 2}",
           "part_file_size: 0, save_directory: x, ext: {a: 1}}, {type: ascendv1_saver}"),
      "r.yaml");
  ASSERT_EQ(recipe.save.size(), 2u);
  EXPECT_EQ(recipe.save[0].part_file_size, 0);
  EXPECT_EQ(recipe.save[1].part_file_size, 4);
}

TEST(Recipe, WarnsWhenNothingWillBeWritten) {
  const Recipe recipe =
      parse_recipe(with("  save: [{type: ascendv1_saver, part_file_size: 2}]\n", ""), "r.yaml");
  EXPECT_THAT(recipe.save, IsEmpty());
  EXPECT_THAT(recipe.warnings, ElementsAre(HasSubstr("nothing will be written")));
}

TEST(Recipe, ReadsOnlineRotationAndQuarot) {
  Recipe recipe = parse_recipe(
      with("max_tp_size: 1", "max_tp_size: 2, online: true, export_extra_info: true"), "r.yaml");
  EXPECT_TRUE(get<Rotate>(recipe.main.process[0]).options.online);
  EXPECT_TRUE(get<Rotate>(recipe.main.process[0]).options.use_fitted);
  EXPECT_TRUE(get<Rotate>(recipe.main.process[0]).options.export_extra_info);

  const auto quarot = [](const std::string& keys) {
    return parse_recipe(with("adapt_rotation, stage: 2, max_tp_size: 1", "quarot" + keys),
                        "r.yaml");
  };
  recipe = quarot("");
  const auto& defaults = get<Rotate>(recipe.main.process[0]).options;
  EXPECT_FALSE(defaults.use_fitted);
  EXPECT_FALSE(defaults.online);
  EXPECT_TRUE(defaults.export_extra_info);
  EXPECT_EQ(defaults.max_tp_size, 4);
  EXPECT_THAT(recipe.warnings, ElementsAre(HasSubstr("no stage 2 applies")));
  recipe = quarot(
      ", online: true, block_size: 32, max_tp_size: 128, down_proj_online_layers: [1, 2], "
      "export_extra_info: false");
  const auto& options = get<Rotate>(recipe.main.process[0]).options;
  EXPECT_TRUE(options.online);
  EXPECT_EQ(options.block_size, 32);
  EXPECT_EQ(options.max_tp_size, 128);
  EXPECT_THAT(options.down_online_layers, ElementsAre(1, 2));
  EXPECT_FALSE(options.export_extra_info);
  EXPECT_THAT(problem_of(with("adapt_rotation, stage: 2, max_tp_size: 1", "quarot, stage: 2")).what,
              HasSubstr("unknown key `stage`"));
  EXPECT_THAT(
      problem_of(with("adapt_rotation, stage: 2, max_tp_size: 1", "quarot, max_tp_size: 3")).what,
      HasSubstr("must be a power of two"));
}

TEST(Recipe, ReadsIterSmooth) {
  const auto smooth = [](const std::string& keys) {
    return with("    - {type: adapt_rotation, stage: 2",
                "    - {type: iter_smooth" + keys + "}\n    - {type: adapt_rotation, stage: 2");
  };
  Recipe recipe = parse_recipe(smooth(""), "r.yaml");
  const auto& defaults = get<IterSmooth>(recipe.main.process[0]);
  EXPECT_EQ(defaults.options.alpha, 0.9);
  EXPECT_EQ(defaults.options.scale_min, 1e-5);
  EXPECT_TRUE(defaults.options.norm_linear && defaults.options.ov && defaults.options.up_down);
  EXPECT_EQ(defaults.include.at(0).text, "*");
  recipe = parse_recipe(
      smooth(", alpha: 0.5, scale_min: 1e-2, symmetric: false, enable_subgraph_type: [ov, "
             "up-down], include: [\"*v_proj\"], exclude: null"),
      "r.yaml");
  const auto& smoothing = get<IterSmooth>(recipe.main.process[0]);
  EXPECT_EQ(smoothing.options.alpha, 0.5);
  EXPECT_EQ(smoothing.options.scale_min, 0.01);
  EXPECT_FALSE(smoothing.options.norm_linear);
  EXPECT_TRUE(smoothing.options.ov && smoothing.options.up_down);
  EXPECT_EQ(smoothing.include.at(0).text, "*v_proj");
  for (const char* value : {"0", "1", "1.5", "-1", "x"})
    EXPECT_EQ(problem_of(smooth(std::string(", alpha: ") + value)).where,
              "r.yaml:11:34 spec.process[0].alpha")
        << value;
  EXPECT_THAT(problem_of(smooth(", symmetric: false")).what, HasSubstr("which Qwen3 has not"));
  EXPECT_THAT(problem_of(smooth(", enable_subgraph_type: [up-dwn]")).fix,
              HasSubstr("did you mean `up-down`?"));
}

TEST(Recipe, ReadsWhatTheCacheHolds) {
  const std::string save = "  save:";
  EXPECT_FALSE(parse_recipe(with("", ""), "r.yaml").kv_cache);
  const Recipe recipe = parse_recipe(with(save, "  kv_cache: {dtype: int8}\n" + save), "r.yaml");
  ASSERT_TRUE(recipe.kv_cache);
  EXPECT_EQ(recipe.kv_cache->location.key, "spec.kv_cache");
  for (const char* wrong : {"{dtype: int4}", "{}", "int8", "{dtype: int8, scale: 1}"})
    EXPECT_THAT(problem_of(with(save, "  kv_cache: " + std::string(wrong) + "\n" + save)).where,
                HasSubstr("spec.kv_cache"))
        << wrong;
}

TEST(Recipe, ReadsHeadRotationBetweenTheRotationAndTheQuantizers) {
  const std::string rotate = "    - {type: adapt_rotation, stage: 2, max_tp_size: 1}\n";
  const std::string heads = "    - {type: head_rotation}\n";
  Recipe recipe = parse_recipe(with(rotate, rotate + heads), "r.yaml");
  EXPECT_EQ(get<HeadRotation>(recipe.main.process.at(1)).options.steps, 100);
  EXPECT_THAT(recipe.warnings, IsEmpty());
  recipe = parse_recipe(with(rotate, rotate + "    - {type: head_rotation, steps: 7}\n"), "r.yaml");
  EXPECT_EQ(get<HeadRotation>(recipe.main.process.at(1)).options.steps, 7);
  for (const char* steps : {"0", "1001", "x"})
    EXPECT_EQ(
        problem_of(with(rotate, rotate + "    - {type: head_rotation, steps: " + steps + "}\n"))
            .where,
        "r.yaml:12:36 spec.process[1].steps")
        << steps;
  recipe = parse_recipe(with(rotate, heads + rotate), "r.yaml");
  ASSERT_EQ(recipe.warnings.size(), 1u);
  EXPECT_THAT(recipe.warnings[0], HasSubstr("move head_rotation behind it"));
  EXPECT_THAT(problem_of(with("  save:", heads + "  save:")).what,
              HasSubstr("head_rotation stands behind a quantizer"));
  const std::string online = "    - {type: adapt_rotation, stage: 2, online: true}\n";
  EXPECT_THAT(problem_of(with(rotate, online + heads)).what, HasSubstr("mixes across heads"));
}

TEST(Recipe, ReadsLinearQuantAndGroups) {
  const Recipe recipe = parse_recipe(R"(apiversion: modelslim_v1
spec:
  process:
    - type: group
      configs:
        - type: linear_quant
          qconfig:
            weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
            act: {scope: per_tensor, dtype: int8, symmetric: false, method: histogram}
          exclude: ["*down_proj*"]
        - type: linear_quant
          qconfig:
            weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
            act: {scope: per_tensor, dtype: int8, symmetric: true, method: minmax, ext: {aggregation_type: mean}}
    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
  save: [{type: ascendv1_saver}]
)",
                                     "r.yaml");
  ASSERT_EQ(recipe.main.process.size(), 3u);
  const auto scheme = [&](size_t i) {
    return get<LinearQuant>(recipe.main.process[i]).strategy.scheme.value();
  };
  EXPECT_TRUE(scheme(0).act.is_static);
  EXPECT_FALSE(scheme(0).act.symmetric);
  EXPECT_EQ(scheme(0).act.range, quant::RangeFrom::kLeastError);
  EXPECT_EQ(get<LinearQuant>(recipe.main.process[0]).strategy.exclude.at(0).text, "*down_proj*");
  EXPECT_TRUE(scheme(1).act.symmetric);
  EXPECT_EQ(scheme(1).act.range, quant::RangeFrom::kMean);
  EXPECT_EQ(quant::label_of(scheme(1)), "W8A8");
  EXPECT_EQ(quant::label_of(scheme(2)), "W8A16");
  EXPECT_EQ(recipe.main.process[1].location.text(), "r.yaml:11:11 spec.process[0].configs[1]");
}

TEST(Recipe, RefusesProcessorsInTheWrongPass) {
  EXPECT_THAT(problems_of(with("stage: 2, max_tp_size: 1", "stage: 1")).front().what,
              HasSubstr("only after stage 2 has looked for it"));
  EXPECT_THAT(problems_of(with("stage: 1, steps: 7", "stage: 2")).front().what,
              HasSubstr("stands in spec.prior"));
  EXPECT_THAT(problems_of(with("{type: adapt_rotation, stage: 1, steps: 7}",
                               "{type: autoround_quant, strategies: [{qconfig: *w4}]}"))
                  .front()
                  .what,
              HasSubstr("would be lost"));
}

TEST(Recipe, RefusesAnOrderThatWouldNotWork) {
  const std::string rotate = "    - {type: adapt_rotation, stage: 2, max_tp_size: 1}\n";
  EXPECT_THAT(problem_of(with("  save:", rotate + "  save:", with(rotate, ""))).what,
              HasSubstr("stands behind a quantizer"));
  EXPECT_THAT(problem_of(with(rotate, rotate + rotate)).what,
              HasSubstr("rotate the weights again"));
  const std::string smooth = "    - {type: iter_smooth}\n";
  EXPECT_THAT(problem_of(with("  save:", smooth + "  save:")).what,
              HasSubstr("iter_smooth stands behind a quantizer"));
  EXPECT_THAT(
      problem_of(with(rotate, "    - {type: adapt_rotation, stage: 2, online: true}\n" + smooth))
          .what,
      HasSubstr("that the online rotation in front of them has mixed"));
  // Two quantizers may follow each other: the first that takes a linear keeps it.
  const std::string quant = "    - {type: autoround_quant, strategies: [{qconfig: *w4}]}\n";
  EXPECT_EQ(parse_recipe(with("  save:", quant + "  save:"), "r.yaml").main.process.size(), 3u);
  const std::string fit = "        - {type: adapt_rotation, stage: 1, steps: 7}\n";
  EXPECT_THAT(problem_of(with(fit, fit + fit)).what, HasSubstr("second stage 1"));
}

TEST(Recipe, ReadsFlatquantWithItsOwnOptionsAndMsModelSlimsDefaults) {
  const std::string rotate = "    - {type: adapt_rotation, stage: 2, max_tp_size: 1}\n";
  const auto read = [&](const std::string& options) {
    const Recipe recipe =
        parse_recipe(with(rotate, rotate + "    - {type: flatquant" + options + "}\n"), "r.yaml");
    return std::get<Flatquant>(recipe.main.process.at(1).what);
  };
  const Flatquant plain = read("");
  EXPECT_EQ(plain.options.method, flatquant::Method::kAuto);
  EXPECT_TRUE(plain.options.clip);
  EXPECT_EQ(plain.tp, std::vector<int64_t>{1});
  EXPECT_FALSE(plain.keeps_unfit);
  EXPECT_EQ(plain.include.at(0).text, "*");
  const Flatquant own = read(
      ", include: ['*.mlp.*'], exclude: ['*.down_proj'], method: closed, clip: false, tp: 4, "
      "unfit: "
      "keep");
  EXPECT_EQ(own.options.method, flatquant::Method::kClosed);
  EXPECT_FALSE(own.options.clip);
  EXPECT_EQ(own.tp, std::vector<int64_t>{4});
  EXPECT_TRUE(own.keeps_unfit);
  EXPECT_EQ(own.include.at(0).text, "*.mlp.*");
  EXPECT_EQ(own.exclude.at(0).text, "*.down_proj");
  (void)read(", epochs: 10, flat_lr: 1.0e-3, add_diag: true, diag_init: one_style, a_bits: 4");
  const auto refusal = [&](const std::string& options) {
    return problem_of(with(rotate, rotate + "    - {type: flatquant, " + options + "}\n"));
  };
  EXPECT_THAT(refusal("epochs: 15").what, HasSubstr("its default, 10, is all that it may be"));
  EXPECT_EQ(refusal("lwc: false").where, "r.yaml:12:30 spec.process[1].lwc");
  EXPECT_EQ(read(", tp: [1, 2, 4], method: train").tp, (std::vector<int64_t>{1, 2, 4}));
  EXPECT_THAT(refusal("tp: 0").what, HasSubstr("tp"));
  EXPECT_THAT(refusal("tp: []").what, HasSubstr("an empty list"));
  EXPECT_THAT(refusal("tp: [2, 2]").what, HasSubstr("2 is there twice"));
  EXPECT_THAT(refusal("method: best").what, HasSubstr("best"));
}

TEST(Recipe, RefusesFlatquantWhereWhatFollowsWouldUndoIt) {
  const std::string rotate = "    - {type: adapt_rotation, stage: 2, max_tp_size: 1}\n",
                    pairs = "    - {type: flatquant}\n";
  EXPECT_THAT(problem_of(with(rotate, pairs + rotate)).what,
              HasSubstr("adapt_rotation stands behind flatquant"));
  EXPECT_THAT(problem_of(with(rotate, rotate + pairs + "    - {type: iter_smooth}\n")).what,
              HasSubstr("iter_smooth stands behind flatquant"));
  EXPECT_THAT(problem_of(with("  save:", pairs + "  save:")).what,
              HasSubstr("flatquant stands behind a quantizer"));
  EXPECT_THAT(problem_of(with(rotate, rotate + pairs + pairs)).what,
              HasSubstr("a second flatquant"));
  EXPECT_THAT(
      problem_of(with(rotate, "    - {type: adapt_rotation, stage: 2, online: true}\n" + pairs))
          .what,
      HasSubstr("flatquant stands behind an online rotation"));
}

TEST(Recipe, WantsAFittedRotationForStage2) {
  const Problem problem = problem_of(
      with("  prior:\n    - process:\n        - {type: adapt_rotation, stage: 1, steps: 7}\n", ""));
  EXPECT_THAT(problem.what, HasSubstr("spec.prior has no stage 1"));
  EXPECT_THAT(problem.fix, HasSubstr("`type: quarot`"));
  EXPECT_EQ(problem.where, "r.yaml:8:7 spec.process[0]");
}

TEST(Recipe, RefusesARecipeThatDoesNothing) {
  EXPECT_THAT(problem_of("apiversion: modelslim_v1\n").what, HasSubstr("`spec` is missing"));
  EXPECT_THAT(problem_of("apiversion: modelslim_v1\nspec: {save: []}\n").what,
              HasSubstr("`process` is missing"));
  EXPECT_THAT(problem_of("apiversion: modelslim_v1\nspec: {process: []}\n").what,
              HasSubstr("nothing to do"));
  EXPECT_THAT(problem_of("apiversion: modelslim_v1\nspec:\n").what,
              HasSubstr("must be a mapping, not nothing"));
  EXPECT_THAT(problem_of("apiversion: modelslim_v1\nsepc: {}\n").fix, HasSubstr("is `sepc` meant"));
  EXPECT_THAT(problem_of("- a\n").what, HasSubstr("must be a mapping, not a list"));
  EXPECT_THAT(problem_of("").what, HasSubstr("must be a mapping, not nothing"));
  EXPECT_THAT(problem_of(with("apiversion: modelslim_v1\n", "")).what,
              HasSubstr("`apiversion` is missing"));
}

TEST(Recipe, GivesAPriorPassItsOwnDataset) {
  const auto prior_dataset = [](const std::string& line) {
    return parse_recipe(with("    - process:", "    - dataset: " + line + "\n      process:"),
                        "r.yaml")
        .prior.at(0)
        .dataset;
  };
  EXPECT_EQ(prior_dataset("own.jsonl"), "own.jsonl");
  EXPECT_EQ(prior_dataset("null"), "texts.jsonl");
}

// ------------------------------------------------------------------------------------------
// qconfig

// Every act/weight pair that the two kinds of quantizers accept, and what it is stored as.
struct PairRow {
  const char* weight;  // dtype scope
  const char* act;     // "" = left out
  const char* autoround_label;
  const char* linear_label;  // "" = refused
};
constexpr PairRow kPairs[] = {
    {"int4 per_channel", "int4 per_token", "W4A4_DYNAMIC", ""},
    {"int4 per_group", "int4 per_token", "W4A4_DYNAMIC", ""},
    {"int8 per_channel", "int8 per_token", "W8A8_DYNAMIC", "W8A8_DYNAMIC"},
    {"int8 per_group", "int8 per_token", "W8A8_DYNAMIC", ""},
    {"int4 per_channel", "int8 per_token", "W4A8_DYNAMIC", "W4A8_DYNAMIC"},
    {"int4 per_group", "int8 per_token", "", ""},
    {"int8 per_channel", "", "W8A16", "W8A16"},
    {"int8 per_channel", "float per_token", "W8A16", "W8A16"},
    {"int8 per_group", "", "W8A16", ""},
    {"int8 per_channel", "int8 per_tensor", "", "W8A8"},
    {"int4 per_channel", "int8 per_tensor", "", ""},
    {"int4 per_channel", "", "W4A16", "W4A16"},
    {"int4 per_group", "float per_tensor", "W4A16", ""},
    {"int8 per_channel", "int4 per_token", "", ""},
    {"int8 per_channel", "int8 per_channel", "", ""},
    {"int8 per_channel", "int8 pd_mix", "", ""},
    {"int8 per_tensor", "int8 per_token", "", ""},
    {"mxfp8 per_block", "mxfp8 per_block", "", ""},
    {"float per_channel", "int8 per_token", "", ""},
    {"float per_channel", "", "FLOAT", "FLOAT"},
};

TEST(Recipe, TakesThePairsThatHaveAFormatAndRefusesTheOthers) {
  const auto side = [](const std::string& text) {
    const size_t blank = text.find(' ');
    const std::string scope = text.substr(blank + 1);
    return "{dtype: " + text.substr(0, blank) + ", scope: " + scope +
           ", symmetric: true, method: minmax" +
           (scope == "per_group" ? ", ext: {group_size: 32}}" : "}");
  };
  for (const PairRow& row : kPairs) {
    const std::string act = row.act;
    const std::string qconfig =
        "{weight: " + side(row.weight) + (act.empty() ? "}" : ", act: " + side(act) + "}");
    for (const bool autoround : {true, false}) {
      const std::string expected = autoround ? row.autoround_label : row.linear_label;
      const std::string processor =
          autoround ? "{type: autoround_quant, strategies: [{qconfig: " + qconfig + "}]}"
                    : "{type: linear_quant, qconfig: " + qconfig + "}";
      const std::string text = "apiversion: modelslim_v1\nspec:\n  process: [" + processor +
                               "]\n  save: [{type: ascendv1_saver}]\n";
      SCOPED_TRACE(processor);
      if (expected.empty()) {
        const Problem problem = problem_of(text);
        EXPECT_THAT(problem.what, HasSubstr("is not supported"));
        EXPECT_EQ(problem.where, autoround ? "r.yaml:3:60 spec.process[0].strategies[0].qconfig"
                                           : "r.yaml:3:43 spec.process[0].qconfig");
        EXPECT_THAT(problem.fix,
                    HasSubstr(autoround ? "weight int4 per_group with act int4 per_token "
                                          "(W4A4_DYNAMIC)"
                                        : "with act int8 per_tensor (W8A8)"));
        continue;
      }
      const Recipe recipe = parse_recipe(text, "r.yaml");
      const auto scheme =
          autoround ? get<AutoroundQuant>(recipe.main.process.at(0)).strategies.at(0).scheme
                    : get<LinearQuant>(recipe.main.process.at(0)).strategy.scheme;
      EXPECT_EQ(scheme ? quant::label_of(*scheme).value() : "FLOAT", expected);
    }
  }
}

TEST(Recipe, ReadsGptqQuantAndItsMethodInLinearQuant) {
  const auto gptq = [](const std::string& keys) {
    return "apiversion: modelslim_v1\nspec:\n  process:\n    - {type: gptq_quant" + keys +
           ", strategies: [{qconfig: {weight: {dtype: int4, scope: per_channel, symmetric: true, "
           "method: x}, act: {dtype: int4, scope: per_token, symmetric: true, method: x}}}]}\n  "
           "save: [{type: ascendv1_saver}]\n";
  };
  const auto options = [&](const std::string& keys) {
    const Recipe recipe = parse_recipe(gptq(keys), "r.yaml");
    EXPECT_EQ(get<GptqQuant>(recipe.main.process.at(0)).strategies.size(), 1u);
    return get<GptqQuant>(recipe.main.process[0]).options;
  };
  EXPECT_EQ(options("").damp, 0.01);
  EXPECT_TRUE(options("").act_order);
  EXPECT_EQ(options("").refit, 0);
  EXPECT_EQ(options(", damp: auto").damp, std::nullopt);
  EXPECT_EQ(options(", damp: 0.5, act_order: no, refit: yes").damp, 0.5);
  EXPECT_FALSE(options(", act_order: no").act_order);
  EXPECT_EQ(options(", refit: yes").refit, 1);
  EXPECT_EQ(options(", refit: no").refit, 0);
  EXPECT_EQ(options(", refit: 0.5").refit, 0.5);
  EXPECT_EQ(options(", refit: auto").refit, std::nullopt);
  EXPECT_EQ(options("").refine, 0);
  EXPECT_EQ(options(", refine: 3").refine, 3);
  EXPECT_TRUE(options("").solves(4) && options("").solves(8));
  EXPECT_TRUE(options(", solve: [int4]").solves(4));
  EXPECT_FALSE(options(", solve: [int4]").solves(8));
  EXPECT_THAT(parse_recipe(gptq(", solve: [int8]"), "r.yaml").warnings,
              ElementsAre(HasSubstr("`solve` names the weight dtype of no strategy")));
  EXPECT_THAT(problem_of(gptq(", refine: 101")).what, HasSubstr("refine"));
  EXPECT_THAT(problem_of(gptq(", damp: 2")).what, HasSubstr("from 0 to 1"));
  EXPECT_THAT(problem_of(gptq(", refit: 1.5")).what, HasSubstr("from 0 to 1"));
  EXPECT_THAT(problem_of(gptq(", refit: most")).what, HasSubstr("refit"));
  EXPECT_THAT(problem_of(gptq(", refit: most")).fix, HasSubstr("or auto"));
  EXPECT_THAT(problem_of(gptq(", iters: 2")).what, HasSubstr("unknown key `iters`"));

  const auto linear = [](const std::string& weight, const std::string& act) {
    return "apiversion: modelslim_v1\nspec:\n  process: [{type: linear_quant, qconfig: {weight: {" +
           weight + ", symmetric: true, method: gptq, ext: {percdamp: 0.1" +
           (weight.find("group") == std::string::npos ? "" : ", group_size: 32") + "}}, act: {" +
           act + ", symmetric: true, method: minmax}}}]\n  save: [{type: ascendv1_saver}]\n";
  };
  const Recipe recipe = parse_recipe(
      linear("dtype: int8, scope: per_group", "dtype: int8, scope: per_token"), "r.yaml");
  EXPECT_EQ(get<LinearQuant>(recipe.main.process[0]).gptq.value().damp, 0.1);
  EXPECT_THAT(
      problem_of(linear("dtype: int4, scope: per_channel", "dtype: int4, scope: per_token")).what,
      HasSubstr("is not supported"));
}

TEST(Recipe, TrainsTheWeightDtypesItIsTold) {
  const auto options = [](const Recipe& recipe) {
    return get<AutoroundQuant>(recipe.main.process.at(1)).options;
  };
  const auto trained = [](const std::string& dtypes) {
    return with("iters: 200", "iters: 200\n      train: " + dtypes);
  };
  const auto all = options(parse_recipe(trained("[int8, int4]"), "r.yaml"));
  EXPECT_TRUE(all.trains(4) && all.trains(8));
  const Recipe four = parse_recipe(trained("[int4]"), "r.yaml");
  EXPECT_TRUE(options(four).trains(4));
  EXPECT_FALSE(options(four).trains(8));
  EXPECT_THAT(four.warnings, IsEmpty());
  EXPECT_THAT(parse_recipe(trained("[]"), "r.yaml").warnings,
              ElementsAre(HasSubstr("`train` names the weight dtype of no strategy")));
  EXPECT_THAT(problem_of(trained("[int5]")).fix, HasSubstr("int4"));
}

TEST(Recipe, ComparesMethodsInLinearQuantOnly) {
  EXPECT_NO_THROW(parse_recipe(with("method: autoround", "method: ssz"), "r.yaml"));
  const Problem problem = problem_of(
      "apiversion: modelslim_v1\nspec: {process: [{type: linear_quant, qconfig: {weight: {dtype: "
      "int8, scope: per_channel, symmetric: true, method: ssz}}}], save: [{type: "
      "ascendv1_saver}]}\n");
  EXPECT_EQ(problem.what, "`method: ssz` is not supported");
}

TEST(Recipe, RefusesAsymmetricQuantizationWithTheReason) {
  EXPECT_THAT(problem_of(with("symmetric: true", "symmetric: false")).what,
              HasSubstr("do not fit the stored int8"));
}

TEST(Recipe, WantsAGroupSizeExactlyForPerGroup) {
  const auto with_weight = [](const std::string& scope, const std::string& ext) {
    return with("{scope: per_channel, dtype: int4, symmetric: true, method: autoround}",
                "{scope: " + scope +
                    ", dtype: int4, symmetric: true, method: autoround, ext: " + ext + "}");
  };
  EXPECT_THAT(problems_of(with_weight("per_group", "{}")).front().what,
              HasSubstr("needs the size of a group"));
  EXPECT_THAT(problem_of(with_weight("per_channel", "{group_size: 64}")).what,
              HasSubstr("only with `scope: per_group`"));
  EXPECT_THAT(problems_of(with_weight("per_group", "{group_size: 0}")).front().what,
              HasSubstr("1 to"));
  const Recipe recipe = parse_recipe(with_weight("per_group", "{group_size: 64}"), "r.yaml");
  EXPECT_EQ(
      get<AutoroundQuant>(recipe.main.process[1]).strategies[0].scheme.value().weight.group_size,
      64);
}

TEST(Recipe, ReadsTheDtypeOfScales) {
  const auto scale_dtype = [](const std::string& name) {
    const Recipe recipe = parse_recipe(
        with("method: autoround}", "method: autoround, ext: {scale_dtype: " + name + "}}"),
        "r.yaml");
    return get<AutoroundQuant>(recipe.main.process[1])
        .strategies[0]
        .scheme.value()
        .weight.scale_dtype;
  };
  EXPECT_EQ(scale_dtype("float16"), DType::kF16);
  EXPECT_EQ(scale_dtype("float32"), DType::kF32);
  EXPECT_EQ(scale_dtype("bfloat16"), DType::kBF16);
  EXPECT_THAT(
      problem_of(with("method: autoround}", "method: autoround, ext: {scale_dtype: int8}}")).what,
      HasSubstr("one of float16, float32, bfloat16"));
  EXPECT_NO_THROW(
      parse_recipe(with("method: minmax}", "method: minmax, ext: {scale_dtype: any}}"), "r.yaml"));
}

TEST(Recipe, WarnsOfExtKeysWithoutMeaning) {
  const Recipe recipe = parse_recipe(
      with("method: autoround}", "method: autoround, ext: {scale_dtpye: float32}}"), "r.yaml");
  EXPECT_THAT(recipe.warnings, ElementsAre(HasSubstr("`scale_dtpye` has no meaning")));
}

TEST(Recipe, WantsEveryKeyOfASide) {
  const std::vector<Problem> problems = problems_of(
      with("{scope: per_channel, dtype: int4, symmetric: true, method: autoround}", "{}"));
  ASSERT_EQ(problems.size(), 4u);
  EXPECT_EQ(problems[0].what, "`dtype` is missing");
  EXPECT_EQ(problems[3].what, "`method` is missing");
  EXPECT_THAT(problem_of(with("qconfig: *w4, ", "")).what, HasSubstr("`qconfig` is missing"));
  EXPECT_THAT(problem_of(with("\n        - {qconfig: *w4, include: [\"*.up_proj\"]}", " []")).what,
              HasSubstr("there are no strategies"));
}

// --------------------------------------------------------------------------------------------
// files

TEST(Recipe, WritesTheConfigWithAnchorsExpandedInItsOrder) {
  const Recipe recipe = parse_recipe("zeta: 1\n" + kGood, "r.yaml");
  EXPECT_THAT(
      recipe.yaml,
      testing::StartsWith("zeta: 1\napiversion: modelslim_v1\nmetadata:\n  config_id: test\n"));
  EXPECT_THAT(recipe.yaml, testing::Not(HasSubstr("*w4")));
  EXPECT_THAT(
      recipe.yaml,
      HasSubstr("        - qconfig:\n            weight:\n              scope: per_channel\n"));
  EXPECT_EQ(parse_recipe(recipe.yaml, "again.yaml").yaml, recipe.yaml);
}

TEST(Recipe, NamesFilesThatCannotBeRead) {
  const auto refusal = [](const std::filesystem::path& path) {
    try {
      load_recipe(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_EQ(error.problems().at(0).where, path.string());
      return error.problems()[0].what;
    }
    return std::string("accepted");
  };
  const std::filesystem::path directory =
      std::filesystem::path(testing::TempDir()) / "laos_recipe.yaml";
  std::filesystem::create_directories(directory);
  EXPECT_THAT(refusal(directory), HasSubstr("not a file"));
  EXPECT_THAT(refusal(directory / "none.yaml"), HasSubstr("no such file"));
  EXPECT_THAT(refusal(directory / "recipe.json"), HasSubstr("neither yaml nor yml"));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace laos::recipe
