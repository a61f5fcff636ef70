// Models with experts, from the recipe to the integers that are evaluated.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "core/threads.h"
#include "eval/metrics.h"
#include "hf/ascendv1.h"
#include "io/file.h"
#include "pipeline/quant_options.h"
#include "pipeline/record.h"
#include "pipeline/run.h"
#include "recipe/preset.h"
#include "save/convert.h"
#include "save/format.h"
#include "save/inspect.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using model::Linear;
using testing::HasSubstr;

// What engines.md says of experts with these bits.
struct ExpertScheme {
  int weight_bits, act_bits;
  const char* label;
  bool in_vllm_ascend, in_sglang;
};
constexpr ExpertScheme kW8A8 = {8, 8, "W8A8_DYNAMIC", true, true},
                       kW4A8 = {4, 8, "W4A8_DYNAMIC", true, true},
                       kW4A4 = {4, 4, "W4A4_DYNAMIC", false, true};

std::string qconfig(int weight_bits, int act_bits, const std::string& scope = "per_token") {
  return "{weight: {scope: per_channel, dtype: int" + std::to_string(weight_bits) +
         ", symmetric: true, method: minmax}, act: {scope: " + scope + ", dtype: int" +
         std::to_string(act_bits) + ", symmetric: true, method: minmax}}";
}

class Experts : public testing::Test {
 protected:
  Experts() {
    test::write_synthetic({.config = test::qwen3_config("tiny-moe"), .seed = 7},
                          directory_ / "model");
    std::ofstream calib(directory_ / "calib.jsonl");
    for (const char* text : {"In the beginning was the word", "and the word was with the others",
                             "all of them in order, from the first to the last one."})
      calib << R"({"inputs_pretokenized": ")" << text << "\"}\n";
  }
  // Experts by GPTQ, attention rounded to 8 bits.
  void write_recipe(const std::string& experts, const std::string& more = "") const {
    std::ofstream(directory_ / "recipe.yaml")
        << "apiversion: modelslim_v1\nspec:\n  process:\n    - {type: quarot}\n"
           "    - type: gptq_quant\n      refine: 1\n      solve: [int4]\n      strategies:\n"
        << more << "        - {include: [\"*.experts.*\"], qconfig: " << experts
        << "}\n        - {include: [\"*\"], exclude: [\"*.experts.*\"], qconfig: " << qconfig(8, 8)
        << "}\n  save: [{type: ascendv1_saver}]\n  dataset: calib.jsonl\n";
  }
  QuantOptions options(const std::string& save_path = "out") const {
    return quant_options(directory_.path(), save_path);
  }
  RunResult quantize(const std::string& save_path = "out") const {
    Progress progress;
    return run(make_plan(options(save_path)), progress);
  }
  std::string weights(const std::string& save_path) const {
    return io::read_text(directory_ / save_path / "quant_model_weights-00001-of-00001.safetensors",
                         1 << 24);
  }
  std::string refusal(const QuantOptions& asked) const {
    try {
      make_plan(asked);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  double kl_from_float(const std::string& save_path) const {
    eval::Windows windows(1);
    for (int32_t i = 0; i < 64; ++i) windows[0].ids.push_back(i * 37 % 256);
    return eval::compare(*eval::open_eval_model(directory_ / save_path),
                         *eval::open_eval_model(directory_ / "model"), windows)
        .divergence.kl.value;
  }

  test::TemporaryDirectory directory_;
};

class ExpertSchemes : public Experts, public testing::WithParamInterface<ExpertScheme> {};
INSTANTIATE_TEST_SUITE_P(Of, ExpertSchemes, testing::Values(kW8A8, kW4A8, kW4A4),
                         [](const auto& p) { return std::string(p.param.label).substr(0, 4); });

// Names, shapes and dtypes of every tensor of an expert, and what each engine does with them.
TEST_P(ExpertSchemes, AreWrittenAsEnginesReadThem) {
  const ExpertScheme& scheme = GetParam();
  write_recipe(qconfig(scheme.weight_bits, scheme.act_bits));
  quantize();
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_ / "out");
  const hf::Config& config = checkpoint.config();
  const bool is_packed = std::string(scheme.label) == "W4A8_DYNAMIC";
  for (int64_t e = 0; e < config.num_experts; ++e)
    for (const auto& [linear, out, in] : {std::tuple("gate_proj", int64_t{32}, int64_t{64}),
                                          {"up_proj", int64_t{32}, int64_t{64}},
                                          {"down_proj", int64_t{64}, int64_t{32}}}) {
      const std::string name = "model.layers.1.mlp.experts." + std::to_string(e) + "." + linear;
      std::map<std::string, std::pair<DType, Shape>> parts = {
          {"weight", {DType::kI8, {is_packed ? out / 2 : out, in}}},
          {"weight_scale", {DType::kF32, {out, 1}}},
          {"weight_offset", {DType::kF32, {out, 1}}}};
      if (is_packed)
        parts["scale_bias"] = {DType::kF32, {out, linear == std::string("down_proj") ? 16 : 1}};
      for (const auto& [suffix, expected] : parts) {
        const TensorView* tensor = checkpoint.files().find(name + "." + suffix);
        ASSERT_NE(tensor, nullptr) << name << suffix;
        EXPECT_EQ(tensor->dtype, expected.first) << name << suffix;
        EXPECT_EQ(tensor->shape, expected.second) << name << suffix;
        ASSERT_NE(checkpoint.description().find(name + "." + suffix), nullptr);
        EXPECT_EQ(*checkpoint.description().find(name + "." + suffix), scheme.label);
      }
    }
  EXPECT_EQ(checkpoint.label("model.layers.1.mlp.gate"), "FLOAT");
  for (const auto& [engine, loads] : {std::pair(scheme::Engine::kVllmAscend, scheme.in_vllm_ascend),
                                      {scheme::Engine::kSglang, scheme.in_sglang}})
    EXPECT_EQ(save::inspect(directory_ / "out", {.engine = engine}).loads(), loads);
  // 64 wide and random, it is no model to lose much.
  EXPECT_LT(kl_from_float("out"), scheme.act_bits == 4 ? 0.02 : 0.005);
}

// What the integers of an expert stand for is what was solved for.
TEST_F(Experts, LoseLessWhereTheyAreSolvedForThanRounded) {
  write_recipe(qconfig(4, 8));
  quantize("solved");
  std::string text = io::read_text(directory_ / "recipe.yaml", 1 << 16);
  text.replace(text.find("[int4]"), 6, "[]");
  std::ofstream(directory_ / "recipe.yaml") << text;
  quantize("rounded");
  EXPECT_LT(kl_from_float("solved"), 0.9 * kl_from_float("rounded"));
}

TEST_F(Experts, HaveTheSameBytesInOnePassAndInMany) {
  write_recipe(qconfig(4, 4));
  const RunResult whole = quantize();
  ASSERT_EQ(std::ssize(whole.records), 2);
  EXPECT_EQ(std::ssize(whole.records[0].expert_tokens), 8);
  const Plan plan = make_plan(options("parts"));
  const int64_t looks = plan.steps.back()->looks(plan, 0);
  EXPECT_EQ(looks, 1);
  const int64_t most = plan.steps.back()->peak_memory(plan, 0, {});
  for (const auto& step : plan.steps) step->save_memory(1);
  EXPECT_EQ(plan.steps.back()->looks(plan, 0), 2);
  for (const auto& step : plan.steps) step->save_memory(Step::kMostSavings);
  EXPECT_EQ(plan.steps.back()->looks(plan, 0), 8);
  EXPECT_LT(plan.steps.back()->peak_memory(plan, 0, {}), most);
  Progress progress;
  const RunResult parts = run(plan, progress);
  EXPECT_EQ(weights("parts"), weights("out"));
  for (size_t i = 0; i < whole.records.size(); ++i)
    EXPECT_EQ(parts.records[i].expert_tokens, whole.records[i].expert_tokens);
}

// What the recipe that needs most takes on the machines that people have.
TEST_F(Experts, OfPublishedModelsFitIntoTheMemoryOfAMachine) {
  for (const auto& [shape, limit] :
       {std::pair("30b-a3b", int64_t{24} << 30), std::pair("235b-a22b", int64_t{64} << 30)}) {
    SCOPED_TRACE(shape);
    std::filesystem::remove_all(directory_ / "model");
    test::write_synthetic({.config = test::qwen3_config(shape), .is_hollow = true},
                          directory_ / "model");
    QuantOptions asked = options();
    asked.recipe_path = std::filesystem::path(LAOS_SOURCE_DIR) / "recipes/qwen3-30b-a3b-w4a8.yaml";
    asked.dataset = (directory_ / "calib.jsonl").string();
    asked.max_memory = limit;
    asked.dry_run = true;
    const Plan plan = make_plan(asked);
    EXPECT_LE(peak_ram_bytes(plan), limit);
    for (const Problem& refusal : plan.refusals)  // of the disk, maybe
      EXPECT_NE(refusal.where, "--max-memory") << refusal.what;
  }
}

TEST_F(Experts, AreCountedAndThoseWithFewTokensSaid) {
  write_recipe(qconfig(4, 8));
  const Plan plan = make_plan(options());
  EXPECT_THAT(plan.warnings, testing::Contains(HasSubstr("go to an expert on average")));
  struct Notes : Progress {
    std::vector<std::string> texts;
    void step(int64_t, const std::string& note) override { texts.push_back(note); }
  } notes;
  const RunResult result = run(plan, notes);
  int64_t tokens = 0;
  for (const std::vector<int32_t>& sample : *plan.samples) tokens += std::ssize(sample);
  for (const report::Layer& layer : result.records) {
    int64_t sum = 0;
    for (const int64_t count : layer.expert_tokens) sum += count;
    EXPECT_EQ(sum, 2 * tokens);
    EXPECT_EQ(layer.enough_expert_tokens, 4 * 64);
  }
  EXPECT_THAT(notes.texts, testing::Contains(HasSubstr("experts saw fewer than 256 tokens")));
}

// After quantization the router reads other inputs than before.
TEST_F(Experts, AreCheckedForTokensThatGoElsewhere) {
  write_recipe(qconfig(4, 4));
  quantize();
  std::ofstream text(directory_ / "text.jsonl");
  text << R"({"text": "whoever reads this goes to other experts than before, now and then"})"
       << '\n';
  text.close();
  Progress progress;
  const report::Health health =
      check_checkpoint(directory_ / "out", directory_ / "model",
                       load_health_text(directory_ / "text.jsonl", directory_ / "model"), progress);
  double most = 0;
  for (const eval::LayerHealth& layer : health.figures.layers) {
    EXPECT_GE(layer.rerouted, 0);
    EXPECT_LE(layer.rerouted, 1);
    most = std::max(most, layer.rerouted);
  }
  EXPECT_GT(most, 0);
  // The same model sends every token where it went.
  const report::Health same =
      check_checkpoint(directory_ / "model", directory_ / "model",
                       load_health_text(directory_ / "text.jsonl", directory_ / "model"), progress);
  for (const eval::LayerHealth& layer : same.figures.layers) EXPECT_EQ(layer.rerouted, 0);
}

// Engines read the label of expert 0 alone.
TEST_F(Experts, OfALayerHaveOneScheme) {
  write_recipe(qconfig(4, 8),
               "        - {include: [\"*.experts.3.*\"], qconfig: " + qconfig(8, 8) + "}\n");
  const std::string message = refusal(options());
  EXPECT_THAT(message, HasSubstr("mlp.experts.0.gate_proj is W4A8_DYNAMIC"));
  EXPECT_THAT(message, HasSubstr("mlp.experts.3.gate_proj is W8A8_DYNAMIC"));
  EXPECT_THAT(message, testing::Not(HasSubstr("mlp.experts.1.")));
}

TEST_F(Experts, AreRefusedWhatIsNotDoneForThem) {
  std::ofstream(directory_ / "recipe.yaml")
      << "apiversion: modelslim_v1\nspec:\n  process:\n    - {type: linear_quant, qconfig: "
      << qconfig(8, 8, "per_tensor") << "}\n  save: [{type: ascendv1_saver}]\n";
  EXPECT_THAT(refusal(options()), HasSubstr("inputs of experts get no range"));
  write_recipe(qconfig(8, 8));
  QuantOptions other = options();
  other.formats = {"gptq"};
  EXPECT_THAT(refusal(other), HasSubstr("experts are not written as GPTQ yet"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "out"));
}

// As vLLM reads them: one by one, the router in `ignore`.
TEST_F(Experts, AreWrittenAsCompressedTensors) {
  write_recipe(qconfig(8, 8));
  QuantOptions both = options();
  both.formats = {"ascendv1", "compressed-tensors"};
  Progress progress;
  run(make_plan(both), progress);
  const std::filesystem::path made = directory_ / "out/compressed-tensors";
  const auto json = nlohmann::json::parse(std::ifstream(made / "config.json"));
  EXPECT_THAT(json.at("quantization_config").at("ignore").get<std::vector<std::string>>(),
              testing::IsSupersetOf({"model.layers.0.mlp.gate", "model.layers.1.mlp.gate"}));
  const io::TensorFiles files = io::TensorFiles::open_files(hf::top_level_safetensors(made));
  const std::string name = "model.layers.1.mlp.experts.7.down_proj.";
  EXPECT_EQ(files.at(name + "weight").shape, (Shape{64, 32}));
  EXPECT_EQ(files.at(name + "weight").dtype, DType::kI8);
  EXPECT_EQ(files.at(name + "weight_scale").shape, (Shape{64, 1}));
  EXPECT_TRUE(save::inspect(made, {.engine = scheme::Engine::kVllm}).loads());
  EXPECT_FALSE(save::inspect(made, {.engine = scheme::Engine::kTransformers}).loads());
  EXPECT_EQ(kl_from_float("out/compressed-tensors"), kl_from_float("out/ascendv1"));
  save::convert(made, save::ascendv1_format(), directory_ / "back");
  EXPECT_EQ(weights("back"), weights("out/ascendv1"));
}

TEST_F(Experts, OfFourBitsBesideFloatInputsAreWrittenInGroups) {
  QuantOptions asked = options();
  asked.recipe_text =
      recipe::preset_yaml({.scheme = "W4A16", .saver_type = "compressed_tensors_saver"},
                          hf::read_config(directory_ / "model"));
  asked.dataset = (directory_ / "calib.jsonl").string();
  Progress progress;
  run(make_plan(asked), progress);
  const io::TensorFiles files =
      io::TensorFiles::open_files(hf::top_level_safetensors(directory_ / "out"));
  EXPECT_EQ(files.at("model.layers.0.mlp.experts.2.up_proj.weight_packed").shape, (Shape{32, 8}));
  EXPECT_EQ(files.at("model.layers.0.mlp.experts.2.up_proj.weight_scale").shape, (Shape{32, 2}));
  EXPECT_LT(kl_from_float("out"), 0.005);
  EXPECT_TRUE(save::inspect(directory_ / "out", {.engine = scheme::Engine::kVllm}).loads());
}

TEST_F(Experts, KeepTheirKeysInInt8) {
  write_recipe(qconfig(8, 8));
  QuantOptions asked = options();
  asked.int8_cache = true;
  Progress progress;
  run(make_plan(asked), progress);
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_ / "out");
  ASSERT_TRUE(checkpoint.cache_scales(1));
  EXPECT_EQ(checkpoint.cache_scales(1)->keys.size(), 64u);
  EXPECT_TRUE(save::inspect(directory_ / "out").loads());
  EXPECT_LT(kl_from_float("out"), 0.005);
}

// With the router's choice held, training makes the output of the layer nearer to the float one's;
// attention is trained beside the experts, or stays as it was rounded.
TEST_F(Experts, LearnTheirRounding) {
  for (const char* include : {"[\"*.experts.*\"]", "[\"*\"]"}) {
    SCOPED_TRACE(include);
    std::ofstream(directory_ / "recipe.yaml")
        << "apiversion: modelslim_v1\nspec:\n  process:\n"
           "    - type: autoround_quant\n      iters: 20\n      act_aware: true\n"
           "      strategies: [{qconfig: {weight: {scope: per_channel, dtype: int4, symmetric: "
           "true, method: autoround}, act: {scope: per_token, dtype: int8, symmetric: true, "
           "method: minmax}}, include: "
        << include << "}]\n    - {type: linear_quant, qconfig: " << qconfig(8, 8)
        << ", include: [\"*\"]}\n  save: [{type: ascendv1_saver}]\n  dataset: calib.jsonl\n";
    for (const char* old : {"out", "again"}) std::filesystem::remove_all(directory_ / old);
    const RunResult result = quantize();
    for (const report::Layer& layer : result.records) {
      ASSERT_EQ(layer.training.size(), 1u);
      EXPECT_LT(layer.training[0].loss, 0.97 * layer.training[0].rounding_loss);
    }
    const auto checkpoint = hf::AscendV1Checkpoint::open(directory_ / "out");
    EXPECT_EQ(checkpoint.label("model.layers.1.mlp.experts.3.up_proj"), "W4A8_DYNAMIC");
    // The same bytes on any number of threads, and with as little memory as there may be.
    const std::string bytes = weights("out");
    const int threads = num_threads();
    set_num_threads(threads == 1 ? 3 : 1);
    const Plan plan = make_plan(options("again"));
    for (const auto& step : plan.steps) step->save_memory(Step::kMostSavings);
    Progress progress;
    run(plan, progress);
    set_num_threads(threads);
    EXPECT_EQ(weights("again"), bytes);
  }
}

// A description that was put together by hand.
TEST_F(Experts, WithMixedLabelsAreFoundByInspect) {
  write_recipe(qconfig(8, 8));
  quantize();
  const std::filesystem::path file = directory_ / "out" / hf::kDescriptionFile;
  auto json = nlohmann::ordered_json::parse(std::ifstream(file));
  for (const char* part : {"weight", "weight_scale", "weight_offset"})
    json["model.layers.0.mlp.experts.5.up_proj." + std::string(part)] = "W4A4_DYNAMIC";
  std::ofstream(file) << json.dump();
  const save::InspectReport report = save::inspect(directory_ / "out");
  EXPECT_FALSE(report.loads());
  const auto found = std::ranges::find_if(report.findings, [](const save::Finding& finding) {
    return finding.what.find(
               "different labels: mlp.experts.0.gate_proj is W8A8_DYNAMIC, "
               "mlp.experts.5.up_proj is W4A4_DYNAMIC") != std::string::npos;
  });
  EXPECT_NE(found, report.findings.end());
}

}  // namespace
}  // namespace laos::pipeline
