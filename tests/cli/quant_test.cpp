// `laos quant` as users run it, on input that is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "core/dtype.h"
#include "hf/ascendv1.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "recipe/preset.h"
#include "save/format.h"
#include "support/command.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

using Result = test::CommandResult;
using test::run_laos;

// Scales of layer 1's down_proj with which the layer is off, but no worse than that.
constexpr float kDegrading = 0.0021f;

class QuantCommand : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny")}, model_);
    write("calib.jsonl", R"({"inputs_pretokenized": "In the beginning was the word"})");
    write("recipe.yaml", R"(apiversion: modelslim_v1
spec:
  process:
    - type: autoround_quant
      iters: 2
      strategies:
        - qconfig:
            weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
            act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)");
  }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ / name) << text << "\n";
  }
  Result quant(const std::string& more = "") {
    return run_laos("quant --model_path " + model_.string() + " --save_path " + save_.string() +
                    " --config_path " + (directory_ / "recipe.yaml").string() + " " + more);
  }
  void expect_refused(const Result& result, int exit_code, const std::string& text) {
    EXPECT_EQ(result.exit_code, exit_code) << result.output;
    EXPECT_THAT(result.output, AllOf(HasSubstr("laos: error:"), HasSubstr(text)));
    EXPECT_FALSE(std::filesystem::exists(save_));
  }

  test::TemporaryDirectory directory_;
  const std::filesystem::path model_ = directory_ / "model";
  const std::filesystem::path save_ = directory_ / "out";
};

// Engines run a float32 model as bfloat16, and read static scales as those of the dtype it names.
TEST_F(QuantCommand, WritesAFloat32ModelWithStaticActivationsAsABfloat16One) {
  hf::Config config = test::qwen3_config("tiny");
  config.dtype = DType::kF32;
  test::write_synthetic({.config = config}, model_);
  write("recipe.yaml", R"(apiversion: modelslim_v1
spec:
  process:
    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
        act: {scope: per_tensor, dtype: int8, symmetric: false, method: minmax}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)");
  const Result result = quant("--no-health");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("written as bfloat16"));
  EXPECT_THAT(io::read_text(save_ / "config.json", 1 << 20),
              HasSubstr("\"torch_dtype\": \"bfloat16\""));
  const hf::AscendV1Checkpoint saved = hf::AscendV1Checkpoint::open(save_);
  EXPECT_EQ(saved.weight("model.embed_tokens").dtype, DType::kBF16);
  const io::TensorFiles files = io::TensorFiles::open_files(hf::top_level_safetensors(save_));
  EXPECT_EQ(files.at("model.layers.0.self_attn.q_proj.deq_scale").dtype, DType::kF32);
}

// Its dtype stands in the tensors alone.
TEST_F(QuantCommand, SaysTheDtypeOfAModelWhoseConfigLeavesItToTheTensors) {
  std::string config = io::read_text(model_ / "config.json", 1 << 20);
  const size_t at = config.find("\"bfloat16\"");
  ASSERT_NE(at, std::string::npos);
  std::ofstream(model_ / "config.json") << config.replace(at, 10, "\"auto\"");
  const Result result = quant("--no-health");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(hf::AscendV1Checkpoint::open(save_).weight("model.embed_tokens").dtype, DType::kBF16);
  EXPECT_THAT(io::read_text(save_ / "config.json", 1 << 20),
              HasSubstr("\"torch_dtype\": \"bfloat16\""));
}

TEST_F(QuantCommand, MakesTheSameCheckpointByASchemeAndByTheRecipeItPrints) {
  const auto run = [&](const std::string& how, const std::string& out) {
    return run_laos("quant --no-health --dataset " + (directory_ / "calib.jsonl").string() +
                    " --model-path " + model_.string() + " " + how +
                    (out.empty() ? "" : " --save-path " + (directory_ / out).string()));
  };
  const std::string scheme =
      "--scheme w4a16 --group-size 8 --ignore \"lm_head,re:.*down_proj\" --no-rotate";
  const Result printed = run(scheme + " --print-recipe", "");
  ASSERT_EQ(printed.exit_code, 0) << printed.output;
  write("printed.yaml", printed.output);
  ASSERT_EQ(run(scheme, "by-scheme").exit_code, 0);
  const Result by_recipe =
      run("--config-path " + (directory_ / "printed.yaml").string(), "by-recipe");
  ASSERT_EQ(by_recipe.exit_code, 0) << by_recipe.output;
  const auto read = [&](const std::string& path) {
    return io::read_text(directory_ / path, int64_t{1} << 26);
  };
  EXPECT_EQ(read("by-scheme/model_best_practice.yaml"), printed.output);
  // Every file but the record of the run, which holds times.
  EXPECT_EQ(read("by-scheme/SHA256SUMS"), read("by-recipe/SHA256SUMS"));
}

TEST_F(QuantCommand, MakesEverySchemeInTheFormatsThatTakeIt) {
  write("text.txt", "In the beginning was the word and the word was with the beginning");
  for (const std::string& scheme : recipe::preset_schemes())
    for (const save::Format* format : save::formats()) {
      const std::string out = (directory_ / (scheme + "." + std::string(format->name()))).string();
      const Result made =
          run_laos("quant --no-health --method rtn --scheme " + scheme + " --format " +
                   std::string(format->name()) + " --model-path " + model_.string() +
                   " --dataset " + (directory_ / "calib.jsonl").string() + " --save-path " + out);
      const bool is_refused = made.output.find("is not written as") != std::string::npos;
      const bool has_place = format->name() == "ascendv1" ? scheme != "W4A16"
                             : format->name() == "gptq"   ? scheme.ends_with("A16")
                                                          : true;
      EXPECT_EQ(is_refused, !has_place) << made.output;
      EXPECT_EQ(made.exit_code, is_refused ? 1 : 0) << made.output;
      if (is_refused) continue;
      const Result scored = run_laos("eval --model-path " + out + " --seq-len 8 --text " +
                                     (directory_ / "text.txt").string());
      EXPECT_THAT(scored.output, HasSubstr("perplexity")) << scheme << " " << format->name();
    }
}

TEST_F(QuantCommand, RefusesASchemeBesideOtherWaysToChooseARecipe) {
  const std::string start =
      "quant --model-path " + model_.string() + " --save-path " + save_.string() + " ";
  expect_refused(run_laos(start + "--scheme W8A8 --config-path r.yaml --tag a"), 2,
                 "at:  --config-path, --tag");
  expect_refused(run_laos(start + "--scheme W8A8 --full --online"), 2, "at:  --full, --online");
  expect_refused(run_laos(start + "--scheme W8A8 --auto"), 2, "at:  --auto");
  expect_refused(run_laos(start + "--group-size 8 --no-rotate --quant-type w8a8"), 2,
                 "at:  --group-size, --no-rotate");
  expect_refused(run_laos(start + "--auto --print-recipe"), 2, "at:  --print-recipe");
  expect_refused(run_laos("quant --scheme W8A8 --model-path " + model_.string()), 2,
                 "at:  --save-path");
}

TEST_F(QuantCommand, BothFormatsAreTheSameModel) {
  const auto score = [&](const std::string& format) {
    const Result result = quant("--no-health --restart --format " + format);
    EXPECT_EQ(result.exit_code, 0) << result.output;
    write("text.txt", "In the beginning was the word and the word was with the beginning");
    return run_laos("eval --model-path " + save_.string() + " --text " +
                    (directory_ / "text.txt").string() + " --seq-len 8 | tail -2");
  };
  const Result ascendv1 = score("ascendv1");
  std::filesystem::remove_all(save_);
  const Result compressed = score("compressed-tensors");
  EXPECT_THAT(compressed.output, HasSubstr("perplexity"));
  EXPECT_EQ(compressed.output, ascendv1.output);
  EXPECT_FALSE(std::filesystem::exists(save_ / "quant_model_description.json"));
  EXPECT_THAT(io::read_text(save_ / "config.json", 1 << 20), HasSubstr("compressed-tensors"));
}

TEST_F(QuantCommand, WritesSeveralFormatsEachInADirectoryOfItsOwn) {
  const auto path = [&](const std::string& name) { return (save_ / name).string(); };
  const std::string both = "--format compressed-tensors,ascendv1 ";
  const Result planned = quant(both + "--dry-run");
  EXPECT_EQ(planned.exit_code, 0) << planned.output;
  EXPECT_THAT(planned.output, AllOf(HasSubstr(" in " + path("compressed-tensors") + " and "),
                                    HasSubstr(" in " + path("ascendv1") + ",")));
  const Result made = quant(both + "--no-health");
  EXPECT_EQ(made.exit_code, 0) << made.output;
  for (const std::string name : {"compressed-tensors", "ascendv1"}) {
    EXPECT_THAT(made.output, AllOf(HasSubstr("saved     " + path(name) + "\n"),
                                   HasSubstr("report    " + path(name + "/report.html"))));
    EXPECT_EQ(run_laos("inspect --verify " + path(name)).exit_code, 0);
    const auto run = nlohmann::json::parse(io::read_text(save_ / name / "run.json", 1 << 20));
    EXPECT_GT(run["checkpoint_bytes"], 0);
  }
  EXPECT_THAT(run_laos("status " + save_.string()).output,
              AllOf(HasSubstr(path("compressed-tensors") + ": a finished checkpoint"),
                    HasSubstr(path("ascendv1") + ": a finished checkpoint")));
  EXPECT_THAT(quant(both).output, HasSubstr("2 problems\n- a finished checkpoint is here"));
  // One is made from the other, bit for bit.
  const Result converted = run_laos("convert " + path("ascendv1") +
                                    " --to compressed-tensors --save-path " + path("converted"));
  EXPECT_EQ(converted.exit_code, 0) << converted.output;
  EXPECT_EQ(io::read_text(save_ / "converted/SHA256SUMS", 1 << 20),
            io::read_text(save_ / "compressed-tensors/SHA256SUMS", 1 << 20));
}

TEST_F(QuantCommand, RefusesSeveralFormatsThatDoNotGoTogether) {
  expect_refused(quant("--format ascendv1,gptq"), 1, "W8A8_DYNAMIC is not written as GPTQ");
  expect_refused(quant("--format ascendv1,ascendv1"), 2, "a format is named twice");
  expect_refused(quant("--format ascendv1,gtpq"), 2, "--format gtpq is none of");
  EXPECT_EQ(quant("--no-health").exit_code, 0);
  EXPECT_THAT(quant("--format ascendv1,compressed-tensors").output,
              HasSubstr("which holds weights itself"));
}

TEST_F(QuantCommand, QuantizesAndTheResultLoads) {
  const Result result = quant();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_EQ(run_laos("inspect " + save_.string()).exit_code, 0);
}

TEST_F(QuantCommand, CalibratesOnTheSetOfLaosWhereNothingIsNamedAndSaysSo) {
  std::ifstream file(directory_ / "recipe.yaml");
  std::stringstream recipe;
  recipe << file.rdbuf();
  const std::string named = recipe.str(), line = "  dataset: calib.jsonl\n";
  write("recipe.yaml", named.substr(0, named.find(line)));
  const std::string said = "the set that comes with laos (6 samples); your own text is better";
  const Result result = quant("--dry-run --nsamples 6 --seqlen 16");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr(said), HasSubstr("conversations left out, since")));

  const std::string own = "--dry-run --dataset " + (directory_ / "calib.jsonl").string();
  EXPECT_THAT(quant(own).output, AllOf(HasSubstr("samples   1,"), Not(HasSubstr("comes with"))));
  EXPECT_THAT(quant("--nsamples 6 --seqlen 16").output, HasSubstr(said));  // of a run as well
}

// The largest of the processes that this one has waited for.
int64_t peak_bytes_of_children() {
  rusage usage{};
  EXPECT_EQ(getrusage(RUSAGE_CHILDREN, &usage), 0);
  return int64_t{1024} * usage.ru_maxrss;
}

TEST_F(QuantCommand, MemoryDoesNotGrowWithTheNumberOfLayers) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep memory that was freed";
#endif
  hf::Config config = test::qwen3_config("tiny");
  config.hidden_size = 256;
  config.intermediate_size = 4096;
  const auto peak_of = [&](int64_t num_layers) {
    config.num_hidden_layers = num_layers;
    std::filesystem::remove_all(model_);
    std::filesystem::remove_all(save_);
    test::write_synthetic({.config = config}, model_);
    const Result result = quant();
    EXPECT_EQ(result.exit_code, 0) << result.output;
    return peak_bytes_of_children();
  };
  const int64_t few = peak_of(2);
  // Sixteen more layers, of which the float and the quantized files hold 10 MB each.
  EXPECT_LT(peak_of(18) - few, int64_t{40} << 20);
}

TEST_F(QuantCommand, DryRunPrintsALinePerLinearAndWritesNothing) {
  const Result result = quant("--dry-run");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.output,
              AllOf(HasSubstr("model.layers.1.mlp.down_proj"), HasSubstr("W8A8_DYNAMIC"),
                    HasSubstr("strategies[0]"), HasSubstr("peak RAM")));
  EXPECT_FALSE(std::filesystem::exists(save_));
}

TEST_F(QuantCommand, RefusesMemoryThatIsNoAmount) {
  for (const std::string amount : {"-5", "0", "abc", "1e3"})
    expect_refused(quant("--max-memory=" + amount), 2, "--max-memory");
}

TEST_F(QuantCommand, RefusesATruncatedShard) {
  std::filesystem::resize_file(model_ / "model.safetensors",
                               std::filesystem::file_size(model_ / "model.safetensors") - 7);
  expect_refused(quant(), 1, "model.safetensors");
}

TEST_F(QuantCommand, RefusesANaNWeightBeforeAnythingIsTrained) {
  std::fstream file(model_ / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-2, std::ios::end);  // the last weight of the file, BF16
  const uint16_t nan = 0x7fc0;
  file.write(reinterpret_cast<const char*>(&nan), 2);
  file.close();
  const Result result = quant();
  expect_refused(result, 1, "NaN");
  EXPECT_THAT(result.output, HasSubstr(".weight"));
}

TEST_F(QuantCommand, RefusesAConfigThatDisagreesWithATensor) {
  std::stringstream text;
  text << std::ifstream(model_ / "config.json").rdbuf();
  std::string config = text.str();
  const size_t at = config.find("\"intermediate_size\": 128");
  ASSERT_NE(at, std::string::npos);
  config.replace(at, 24, "\"intermediate_size\": 136");
  std::ofstream(model_ / "config.json") << config;
  expect_refused(quant(), 1, "gate_proj.weight");
}

TEST_F(QuantCommand, ReportsFiveMistakesOfARecipeWithTheirLines) {
  write("recipe.yaml", R"(apiversion: modelslim_v1
spec:
  proces: []
  process:
    - type: autoround_quant
      iters: many
      strategies:
        - include: [7]
          qconfig:
            weight: {scope: per_channel, dtype: int3, symmetric: true, method: autoround}
            act: {scope: per_token, dtype: int8, symmetric: perhaps, method: minmax}
)");
  const Result result = quant();
  expect_refused(result, 1, "did you mean `process`?");
  for (const char* place :
       {"recipe.yaml:3:", "recipe.yaml:6:", "recipe.yaml:8:", "recipe.yaml:10:", "recipe.yaml:11:"})
    EXPECT_THAT(result.output, HasSubstr(place));
}

TEST_F(QuantCommand, RefusesMissingAndEmptyDatasets) {
  write("calib.jsonl", "");
  expect_refused(quant(), 1, "calib.jsonl");
  std::filesystem::remove(directory_ / "calib.jsonl");
  expect_refused(quant(), 1, "recipe.yaml:11:");
}

TEST_F(QuantCommand, RefusesAnOutputThatCannotBeWritten) {
  const Result result = run_laos("quant --model_path " + model_.string() + " --save_path " +
                                 (directory_ / "calib.jsonl").string() + "/out --config_path " +
                                 (directory_ / "recipe.yaml").string());
  expect_refused(result, 2, "calib.jsonl");
}

TEST_F(QuantCommand, RefusesFlagsThatMakeNoSenseWithExitCodeTwo) {
  expect_refused(quant("--quant_type w4a4"), 2, "--quant-type");
  expect_refused(quant("--iter 3"), 2, "--iter");
  for (const char* device : {"npu", "npu:0", "''", "cpu:0,1", "cpu:x"})
    expect_refused(quant(std::string("--device ") + device), 2, "--device cpu");
  expect_refused(quant("--recipes nowhere --quant_type w8a8"), 2, "--config-path, --quant-type");
  expect_refused(quant("--fast"), 2, "each choose the recipe");
  expect_refused(run_laos("quantise"), 2, "laos quant");
}

TEST_F(QuantCommand, CompletesFlagsThatAreCutShort) {
  const std::string recipe = (directory_ / "recipe.yaml").string();
  Result result = run_laos("quant --model_p " + model_.string() + " --save " + save_.string() +
                           " --config=" + recipe + " --model-t tiny --dry --trust False");
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("W8A8_DYNAMIC"));
  result = quant("--model X");
  expect_refused(result, 2, "--model could be --model-path, --model-type");
  expect_refused(quant("--quant=w4a4"), 2, "--config-path, --quant-type");
  expect_refused(quant("--nothing-like-it"), 2, "command line");
}

TEST_F(QuantCommand, ChoosesTheRecipeByTheConfigurationWhereNoneIsNamed) {
  const std::string paths =
      "quant --dry-run --model-path " + model_.string() + " --save-path " + save_.string();
  const Result any = run_laos(paths + " --device cpu:0");
  EXPECT_EQ(any.exit_code, 0) << any.output;
  EXPECT_THAT(any.output, AllOf(HasSubstr("w8a8 is meant"), HasSubstr("laos-dense-w8a8"),
                                HasSubstr("the recipe for every Qwen3ForCausalLM is taken")));
  const Result named = run_laos(paths + " --model_type mine --quant-type w8a8");
  EXPECT_THAT(named.output, HasSubstr("no recipe is for model type `mine`"));
  const std::string bundled = std::string("quant --dry-run --model-path ") + LAOS_SOURCE_DIR +
                              "/models/qwen3-tiny --save-path " + save_.string();
  const Result fast = run_laos(bundled + " --fast");
  EXPECT_EQ(fast.exit_code, 0) << fast.output;
  EXPECT_THAT(fast.output, AllOf(HasSubstr("config.json is that of qwen3-tiny"),
                                 HasSubstr("laos-qwen3-tiny-w4a4-fast")));
  EXPECT_THAT(run_laos(bundled + " --model-type QWEN3-TINY").output,
              HasSubstr("laos-qwen3-tiny-w8a8"));
}

TEST_F(QuantCommand, AutoChoosesWidthsWithinTheBudgetAndSaysWhatCameOfIt) {
  std::string samples;
  for (const char* text : {"In the beginning was the word, and the word was with all of them.",
                           "A quick brown fox jumps over the lazy dog, and then over another one.",
                           "int main() { return 0; } // the shortest program that there is, nearly",
                           "Ten green bottles hanging on the wall, and if one should fall down."})
    for (int i = 0; i < 4; ++i)
      samples += std::string(R"({"text": ")") + text + std::to_string(i) + "\"}\n";
  write("calib.jsonl", samples);
  const std::string arguments = "quant --auto --model-path " + model_.string() + " --dataset " +
                                (directory_ / "calib.jsonl").string() + " --average-bits 5";
  const Result plan = run_laos(arguments + " --save-path " + save_.string() + " --dry-run");
  EXPECT_EQ(plan.exit_code, 0) << plan.output;
  EXPECT_THAT(plan.output, AllOf(HasSubstr("laos-dense-w4a4-auto"), HasSubstr("analysis  about"),
                                 HasSubstr("comes first")));
  EXPECT_FALSE(std::filesystem::exists(save_));

  const Result result =
      run_laos(arguments + " --save-path " + save_.string() + " --hold-back 2 --lenient");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, AllOf(HasSubstr("analysis  about"), HasSubstr("groups at W8A8"),
                                   HasSubstr("auto      KL predicted")));
  const hf::Config config = test::qwen3_config("tiny");
  const nlohmann::json labels =
      nlohmann::json::parse(io::read_text(save_ / "quant_model_description.json", 1 << 20));
  double low = 0, all = 0;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const hf::Linear l : hf::kAllLinears) {
      const auto size = static_cast<double>(hf::num_weights(config, l));
      const std::string label = labels.at(hf::name_of(config, i, l) + ".weight");
      EXPECT_THAT(label, testing::AnyOf("W4A4_DYNAMIC", "W8A8_DYNAMIC"));
      all += size;
      if (label == "W4A4_DYNAMIC") low += size;
    }
  EXPECT_GE(low / all, 0.75);
  EXPECT_LT(low / all, 1);
}

TEST_F(QuantCommand, RefusesABudgetThatNothingIsChosenWithinAndDataThatCanBeReadOnce) {
  const std::string arguments =
      "quant --model-path " + model_.string() + " --save-path " + save_.string();
  expect_refused(quant("--auto"), 2, "each choose the recipe");
  expect_refused(run_laos(arguments + " --fast --max-kl 0.1"), 2, "nothing is chosen within it");
  expect_refused(run_laos(arguments + " --auto --max-kl 0.1 --w4a4-share 0.5"), 2,
                 "each are the budget");
  expect_refused(run_laos(arguments + " --auto --dataset -"), 2, "read twice");
}

TEST_F(QuantCommand, NoticesAModelTypeThatContradictsTheConfiguration) {
  expect_refused(run_laos("quant --dry-run --model-path " + model_.string() + " --save-path " +
                          save_.string() + " --model-type Qwen3-8B"),
                 2, "is a Qwen3ForCausalLM of 36 layers");
  const Result named = quant("--model-type Qwen3-8B --dry-run");
  EXPECT_EQ(named.exit_code, 0) << named.output;
  EXPECT_THAT(named.output, HasSubstr("warning: model type `Qwen3-8B` is a"));
}

TEST_F(QuantCommand, DebugWritesTheLossesOfEveryStep) {
  const Result result = quant("--debug");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  std::ifstream file(save_ / "debug_info" / "debug_info.json");
  const auto info = nlohmann::json::parse(file);
  ASSERT_EQ(info["autoround_quant"].size(), 2u);
  EXPECT_EQ(info["autoround_quant"][1]["losses"].size(), 2u);
  EXPECT_EQ(run_laos("inspect " + save_.string()).exit_code, 0);
}

TEST_F(QuantCommand, LeavesItsRecordAndItsReportAndEndsWithTheVerdict) {
  const Result result = quant();
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const size_t last = result.output.rfind('\n', result.output.size() - 2);
  EXPECT_THAT(result.output.substr(last + 1), HasSubstr("health: "));
  std::ifstream file(save_ / "run.json");
  const auto run = nlohmann::json::parse(file);
  EXPECT_THAT(run["recipe"]["text"].get<std::string>(), HasSubstr("autoround_quant"));
  ASSERT_EQ(run["layers"].size(), 2u);
  EXPECT_EQ(run["layers"][1]["linears"].size(), 7u);
  EXPECT_EQ(run["layers"][1]["linears"][6]["label"], "W8A8_DYNAMIC");
  EXPECT_EQ(run["layers"][1]["training"][0]["losses"].size(), 2u);
  EXPECT_GT(run["layers"][0]["linears"][0]["weight_error"].get<double>(), 0);
  EXPECT_EQ(run["health"]["layers"].size(), 2u);
  EXPECT_GT(run["peak_rss_bytes"].get<int64_t>(), 0);
  EXPECT_TRUE(std::filesystem::exists(save_ / "report.html"));

  const auto page = [&] {
    std::stringstream text;
    text << std::ifstream(save_ / "report.html").rdbuf();
    return text.str();
  };
  const std::string before = page();
  std::filesystem::remove(save_ / "report.html");
  EXPECT_EQ(run_laos("report " + save_.string()).exit_code, 0);
  EXPECT_EQ(page(), before);
  EXPECT_GT(run["recipe"]["flops"].get<double>(), 0);
  const std::string beside = "report " + save_.string() + " --beside ";
  EXPECT_EQ(run_laos(beside + save_.string()).exit_code, 0);
  EXPECT_THAT(page(), HasSubstr("Beside other runs"));
  const Result missing = run_laos(beside + (save_ / "nowhere").string());
  EXPECT_NE(missing.exit_code, 0);
  EXPECT_THAT(missing.output, HasSubstr("nowhere"));
  EXPECT_THAT(page(), HasSubstr("Beside other runs"));
}

TEST_F(QuantCommand, WithoutHealthCheckRecordsNone) {
  const Result result = quant("--no-health");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, Not(HasSubstr("health: ")));
  std::ifstream file(save_ / "run.json");
  EXPECT_TRUE(nlohmann::json::parse(file)["health"].is_null());
}

TEST_F(QuantCommand, RefusesAMissingHealthTextBeforeAnythingIsTrained) {
  expect_refused(quant("--health-text nowhere.jsonl"), 1, "nowhere.jsonl");
}

class CheckCommand : public QuantCommand {
 protected:
  void SetUp() override {
    QuantCommand::SetUp();
    ASSERT_EQ(quant("--no-health").exit_code, 0);
  }
  Result check(const std::string& more = "") {
    return run_laos("check " + save_.string() + " --baseline " + model_.string() + " " + more);
  }
  // Scales of one linear, all of them `value`.
  void spoil(float value) {
    std::fstream file(save_ / "quant_model_weights-00001-of-00001.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header_bytes = 0;
    file.read(reinterpret_cast<char*>(&header_bytes), 8);
    std::string header(header_bytes, ' ');
    file.read(header.data(), static_cast<std::streamsize>(header_bytes));
    const auto tensor =
        nlohmann::json::parse(header)["model.layers.1.mlp.down_proj.weight_scale"]["data_offsets"];
    const std::vector<float> scales((tensor[1].get<size_t>() - tensor[0].get<size_t>()) / 4, value);
    file.seekp(static_cast<std::streamoff>(8 + header_bytes + tensor[0].get<size_t>()));
    file.write(reinterpret_cast<const char*>(scales.data()),
               static_cast<std::streamsize>(4 * scales.size()));
  }
  std::string text_of(const std::string& name) const {
    std::stringstream text;
    text << std::ifstream(save_ / name).rdbuf();
    return text.str();
  }
};

TEST_F(CheckCommand, BeginsWithTheVerdictAndWritesNothing) {
  const std::string before = text_of("run.json");
  std::filesystem::permissions(
      save_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const Result sound = check();
  std::filesystem::permissions(save_, std::filesystem::perms::owner_all);
  EXPECT_EQ(sound.exit_code, 0) << sound.output;
  EXPECT_LT(sound.output.find("health: good"), sound.output.find("checked "));
  EXPECT_EQ(text_of("run.json"), before);
  EXPECT_FALSE(std::filesystem::exists(save_ / "check.json"));
}

// The run's own record stays; what was found later stands beside it, of the same run.
TEST_F(CheckCommand, WritesBesideTheRunsRecordWhereAskedTo) {
  const std::string record = text_of("run.json"), page = text_of("report.html");
  spoil(5);
  const Result spoiled = check("--write");
  EXPECT_EQ(spoiled.exit_code, 1) << spoiled.output;
  EXPECT_THAT(spoiled.output, AllOf(HasSubstr("worst     layer 1:"), HasSubstr("health: broken")));
  EXPECT_EQ(text_of("run.json"), record);
  EXPECT_EQ(text_of("report.html"), page);
  const auto written = nlohmann::json::parse(text_of("check.json"));
  EXPECT_EQ(written["recipe"], nlohmann::json::parse(record)["recipe"]);
  EXPECT_EQ(written["health"]["layers"].size(), 2u);
  EXPECT_THAT(text_of("check.html"), HasSubstr("health: broken"));
  EXPECT_LT(text_of("check.html").find("model.layers.1 is off"),
            text_of("check.html").find("Worst layers"));
}

TEST_F(CheckCommand, FailsForABrokenCheckpointUnlessLenientAndWarnsOfADegradedOne) {
  EXPECT_EQ(check("--strict").exit_code, 0);
  spoil(5);
  EXPECT_EQ(check().exit_code, 1);
  EXPECT_EQ(check("--lenient").exit_code, 0);
  EXPECT_EQ(check("--lenient --strict").exit_code, 2);
  spoil(kDegrading);
  const Result degraded = check();
  EXPECT_EQ(degraded.exit_code, 0) << degraded.output;
  EXPECT_THAT(degraded.output, AllOf(HasSubstr("health: degraded"), HasSubstr("laos: warning: ")));
  EXPECT_EQ(check("--strict").exit_code, 1);
}

// Four bits everywhere are more than these weights bear without loss.
TEST_F(QuantCommand, WarnsWhenWhatItMadeIsDegradedAndFailsWhereStrict) {
  std::stringstream text;
  text << std::ifstream(directory_ / "recipe.yaml").rdbuf();
  std::string recipe = text.str();
  const std::string from = "dtype: int8";
  for (size_t at = recipe.find(from); at != std::string::npos; at = recipe.find(from))
    recipe.replace(at, from.size(), "dtype: int4");
  write("recipe.yaml", recipe);
  const std::string on = " --health-text " LAOS_SOURCE_DIR "/calib/health.jsonl";
  const Result degraded = quant(on);
  EXPECT_EQ(degraded.exit_code, 0) << degraded.output;
  EXPECT_THAT(degraded.output, AllOf(HasSubstr("health: degraded"), HasSubstr("laos: warning: ")));
  EXPECT_EQ(quant("--restart --strict" + on).exit_code, 1);
}

TEST_F(QuantCommand, NamesMissingFiles) {
  std::filesystem::remove(model_ / "config.json");
  expect_refused(quant(), 1, "config.json");
}

}  // namespace
}  // namespace laos::cli
