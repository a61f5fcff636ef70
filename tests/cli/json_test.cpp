// What programs read of laos, held against docs/json.md.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/command.h"
#include "support/temporary_directory.h"

namespace laos::cli {
namespace {

using nlohmann::json;
using ::testing::IsEmpty;
using ::testing::Not;

const std::string kModel = LAOS_SOURCE_DIR "/models/qwen3-tiny";

std::string text_of_file(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

struct Key {
  std::string type;
  bool is_always = false;
};
using Schema = std::map<std::string, Key>;  // by path

// The tables of docs/json.md by the titles of their sections.
std::map<std::string, Schema> schemas() {
  std::map<std::string, Schema> all;
  std::string title, line;
  std::ifstream page(LAOS_SOURCE_DIR "/docs/json.md");
  while (std::getline(page, line)) {
    if (line.starts_with("## `")) title = line.substr(4, line.size() - 5);
    if (!line.starts_with("| `")) continue;
    std::vector<std::string> cells;
    std::istringstream in(line);
    for (std::string cell; std::getline(in, cell, '|');) {
      const size_t first = cell.find_first_not_of(' '), last = cell.find_last_not_of(' ');
      cells.push_back(first == std::string::npos ? "" : cell.substr(first, last - first + 1));
    }
    EXPECT_EQ(cells.size(), 5u) << line;
    if (cells.size() < 5) continue;
    all[title][cells[1].substr(1, cells[1].size() - 2)] = {cells[2], cells[3].empty()};
  }
  // A key that is said to be as another command's document.
  for (const auto& [key, what] : Schema(all["laos check --json"]))
    all["laos quant --json"]["health." + key] = what;
  return all;
}

std::string type_of(const json& value) {
  if (value.is_number_integer()) return "integer";
  if (value.is_number()) return "number";
  return value.is_array() ? "list" : value.type_name();
}

bool is_of_type(const json& value, const std::string& type) {
  const std::string actual = type_of(value);
  return type == actual || type == actual + " or null" ||
         (actual == "null" && type.ends_with(" or null")) ||
         (actual == "integer" && type.starts_with("number"));
}

class JsonPage : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(directory_ / "text.txt")
        << text_of_file(LAOS_SOURCE_DIR "/models/qwen3-tiny-eval.txt").substr(0, 1500);
    std::ofstream calib(directory_ / "calib.jsonl");
    for (int i = 0; i < 4; ++i)
      calib
          << R"({"text": "In the beginning God created the heaven and the earth. And the earth was )"
          << R"(without form, and void; and darkness was upon the face of the deep. And the )"
          << R"(Spirit of God moved upon the face of the waters. And God said, Let there be"})"
          << '\n';
    std::ofstream(directory_ / "recipe.yaml") << R"(apiversion: modelslim_v1
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 12}]
  process:
    - {type: adapt_rotation, stage: 2}
    - type: autoround_quant
      iters: 4
      strategies:
        - qconfig:
            act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
            weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";
    std::ofstream(directory_ / "items.jsonl")
        << R"({"task": "a", "question": "And God said, Let there be", "choices": ["light", "sheep"], "answer": "light"})"
           "\n"
        << R"({"task": "b", "kind": "generate", "prompt": "And it came to", "answer": "pass,"})"
           "\n";
  }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  std::string quant(const std::string& more) const {
    return "quant --model-path " + kModel + " --save-path " + path("out") + " --config-path " +
           path("recipe.yaml") + " --dataset " + path("calib.jsonl") + " " + more;
  }

  // The document on standard output; standard error is kept.
  json document(const std::string& arguments, int exit_code = 0) {
    const test::CommandResult result =
        test::run_laos(arguments + " 2>>'" + path("errors") + "' #");  // drops its own 2>&1
    EXPECT_EQ(result.exit_code, exit_code) << arguments << text_of_file(directory_ / "errors");
    json read = json::parse(result.output, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(read.is_discarded()) << arguments << "\n" << result.output;
    return read;
  }

  // Holds `value`, which stands at `at` of a document, against the page.
  void hold(const std::string& title, const json& value, const std::string& at = "") {
    const Schema& schema = all_.at(title);
    if (value.is_array()) {
      for (const json& item : value)
        if (item.is_structured()) hold(title, item, at + "[]");
      return;
    }
    if (!value.is_object()) return;
    const std::string prefix = at.empty() ? "" : at + ".";
    const bool has_any_names = schema.contains(prefix + "*");
    for (const auto& [name, item] : value.items()) {
      const std::string key = prefix + (has_any_names ? "*" : name);
      const auto found = schema.find(key);
      if (found == schema.end()) {
        ADD_FAILURE() << key << " is not on the page: " << title;
        continue;
      }
      seen_[title].insert(key);
      EXPECT_TRUE(is_of_type(item, found->second.type))
          << title << " " << key << " is " << type_of(item) << ", not " << found->second.type;
      hold(title, item, key);
    }
    for (const auto& [key, what] : schema) {
      if (!what.is_always || !key.starts_with(prefix)) continue;
      const std::string name = key.substr(prefix.size());
      if (name.find_first_of(".[*") != std::string::npos) continue;
      EXPECT_TRUE(value.contains(name)) << title << " has no " << key;
    }
  }

  // Every key of the page was printed, but those that begin with one of `but`.
  void expect_all_seen(const std::string& title, const std::vector<std::string>& but = {}) {
    for (const auto& [key, what] : all_.at(title)) {
      bool is_left_out = false;
      for (const std::string& start : but) is_left_out |= key.starts_with(start);
      if (!is_left_out) {
        EXPECT_TRUE(seen_[title].contains(key)) << title << " never printed " << key;
      }
    }
  }

  // Objects of --progress json.
  std::vector<json> told() {
    std::vector<json> objects;
    std::ifstream errors(directory_ / "errors");
    for (std::string line; std::getline(errors, line);)
      if (line.starts_with('{')) objects.push_back(json::parse(line));
    return objects;
  }

  test::TemporaryDirectory directory_;
  const std::map<std::string, Schema> all_ = schemas();
  std::map<std::string, std::set<std::string>> seen_;
};

TEST_F(JsonPage, HasEveryKeyOfPlans) {
  const std::string title = "laos quant --dry-run --json";
  hold(title, document(quant("--dry-run --json --ranks 2")));
  const json refused = document(quant("--dry-run --json --max-memory 5MB"), 1);
  EXPECT_THAT(refused["refusals"], Not(IsEmpty()));
  hold(title, refused);
  hold(title, document("quant --auto --dry-run --json --seqlen 32 --nsamples 2 --model-path " +
                       kModel + " --save-path " + path("out")));
  expect_all_seen(title);
}

TEST_F(JsonPage, HasEveryKeyOfRunsOfTheirCheckpointsAndOfProgress) {
  const std::string run = "laos quant --json";
  const json record = document(quant("--json --progress json"));
  hold(run, record);
  EXPECT_EQ(record, json::parse(text_of_file(directory_ / "out" / "run.json")));
  EXPECT_EQ(record["health"]["verdict"], "good");
  // Those of several processes, and how texts go on, which a check this short leaves out.
  expect_all_seen(run, {"ranks[].", "health.continuations[]."});

  const std::string progress = "--progress json";
  for (const json& object : told()) hold(progress, object);
  // What is known only after a second of work.
  expect_all_seen(progress, {"stage_seconds_left", "seconds_left"});

  hold("laos check --json",
       document("check " + path("out") + " --json --progress none --baseline " + kModel));
  expect_all_seen("laos check --json");

  const std::string inspect = "laos inspect --json";
  hold(inspect, document("inspect --json --verify " + path("out")));
  std::filesystem::remove(directory_ / "out" / "config.json");
  hold(inspect, document("inspect --json " + path("out"), 1));
  expect_all_seen(inspect, {"tensor_parallel_size", "other_tensor_parallel_sizes"});
}

TEST_F(JsonPage, HasEveryKeyOfConversionsRecipesAndBenchmarks) {
  ASSERT_EQ(
      test::run_laos("quant --no-health --model-path " + kModel + " --save-path " + path("w8a8"))
          .exit_code,
      0);
  hold("laos convert --json", document("convert --json --to compressed-tensors " + path("w8a8") +
                                       " --save-path " + path("converted")));
  expect_all_seen("laos convert --json", {"tensor_parallel_size"});
  // Its matrices are for every tensor parallel size: it has none.
  const test::CommandResult other =
      test::run_laos("convert --tp 2 " + path("w8a8") + " --save-path " + path("other"));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.output, testing::HasSubstr("serves every tensor parallel size as it is"));
  const test::CommandResult neither =
      test::run_laos("convert " + path("w8a8") + " --save-path " + path("other"));
  EXPECT_EQ(neither.exit_code, 2);
  EXPECT_THAT(neither.output, testing::HasSubstr("--to FORMAT or --tp N"));
  hold("laos recipes --json", document("recipes --json"));
  expect_all_seen("laos recipes --json");
  hold("laos bench --json", document("bench --json --shape tiny --iters 2"));
  expect_all_seen("laos bench --json");
}

TEST_F(JsonPage, HasEveryKeyOfTuning) {
  ASSERT_EQ(
      test::run_laos("quant --no-health --scheme W4A4 --method rtn --no-rotate --model-path " +
                     kModel + " --save-path " + path("w4a4"))
          .exit_code,
      0);
  const std::string tune = "tune --json --threads 1 --progress none " + path("w4a4") +
                           " --baseline " + kModel + " --nsamples 16 --seqlen 64 --save-path ";
  const nlohmann::json plan = document(tune + path("tuned") + " --steps 24 --dry-run");
  EXPECT_FALSE(plan.contains("kl"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "tuned"));
  const nlohmann::json tuned = document(tune + path("tuned") + " --steps 24");
  hold("laos tune --json", tuned);
  expect_all_seen("laos tune --json");
  EXPECT_LT(tuned.at("kl"), tuned.at("kl_before"));
  EXPECT_EQ(tuned.at("save_path"), path("tuned"));
  EXPECT_EQ(test::run_laos("inspect --verify " + path("tuned")).exit_code, 0);
  // Where no step is better there is nothing to write.
  const nlohmann::json none = document(tune + path("none") + " --steps 1 --lr 0.1");
  EXPECT_EQ(none.at("best_step"), 0);
  EXPECT_TRUE(none.at("save_path").is_null());
  EXPECT_FALSE(std::filesystem::exists(directory_ / "none"));
  const test::CommandResult refused = test::run_laos("tune " + path("w4a4") + " --baseline " +
                                                     path("w4a4") + " --save-path " + path("x"));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.output, testing::HasSubstr("the baseline is quantized"));
}

TEST_F(JsonPage, HasEveryKeyOfEvaluationsOfTexts) {
  const std::string title = "laos eval --text --json";
  const std::string one =
      "eval --json --no-cache --seq-len 64 --text " + path("text.txt") + " --model-path " + kModel;
  hold(title, document(one));
  hold(title, document(one + " --progress json --baseline " + kModel));
  for (const json& object : told()) hold("--progress json", object);
  json several = document(one + " --model-path " + kModel + " --baseline " + kModel);
  EXPECT_EQ(several["models"].size(), 2u);
  for (const json& model : several["models"]) hold(title, model);
  several["models"].clear();
  hold(title, several);
  expect_all_seen(title);
}

TEST_F(JsonPage, HasEveryKeyOfEvaluationsOfTasks) {
  const std::string title = "laos eval --tasks --json";
  const std::string one = "eval --json --max-new-tokens 2 --tasks " + path("items.jsonl") +
                          " --baseline " + kModel + " --model-path " + kModel;
  const auto hold_each = [&](json figures, const auto& again) -> void {
    if (figures.contains("tasks"))
      for (json& task : figures["tasks"]) {
        hold(title, task);
        task = json::object();
      }
    if (figures.contains("models"))
      for (const json& model : figures["models"]) again(model, again);
    if (figures.contains("models")) figures["models"].clear();
    if (figures.contains("baseline")) {
      again(figures["baseline"], again);
      figures["baseline"] = json::object();
    }
    hold(title, figures);
  };
  hold_each(document(one), hold_each);
  hold_each(document(one + " --model-path " + kModel), hold_each);
  expect_all_seen(title);
}

TEST_F(JsonPage, HasEveryKeyOfAnalyses) {
  hold("laos analyze --json",
       document("analyze --json --kl --progress json --tokens 40 --model-path " + kModel +
                " --config-path " LAOS_SOURCE_DIR "/recipes/qwen3-tiny-w4a4-rtn.yaml --dataset " +
                path("calib.jsonl")));
  expect_all_seen("laos analyze --json");
  EXPECT_THAT(told(), Not(IsEmpty()));
  for (const json& object : told()) hold("--progress json", object);
}

TEST_F(JsonPage, HasEveryKeyOfTheStatus) {
  const std::string title = "laos status --json";
  const std::filesystem::path work = directory_ / "out/.laos-partial";
  std::filesystem::create_directories(work);
  std::ofstream(work / "state.json")
      << R"({"identity": {"seed": "42"}, "stamps": {}, "parts": {"layer": 8}})";
  std::ofstream(work / "now.json") << R"({"part": "quantize", "layer": 3, "iteration": 120,
    "iterations": 400, "share": 0.287, "layer_seconds_left": 180.2, "seconds_left": 4800})";
  const test::CommandResult running =
      test::run_laos("status --json " + path("out") + " 2>>" + path("errors") + " #",
                     "exec 9<" + work.string() + "; flock 9; ");
  hold(title, json::parse(running.output));
  hold(title, document("status --json " + path("out")));
  expect_all_seen(title);
}

TEST_F(JsonPage, AnErrorLeavesNoDocumentAndIsToldAsEver) {
  const test::CommandResult result =
      test::run_laos("quant --json --model-path none --save-path out 2>'" + path("errors") + "' #");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.output, "");
  EXPECT_THAT(text_of_file(directory_ / "errors"), testing::HasSubstr("laos: error: "));
}

TEST(Progress, IsToldAsIsAskedFor) {
  const test::TemporaryDirectory directory;
  const auto output_of = [&](const std::string& style) {
    return test::run_laos("quant --no-health --model-path " + kModel + " --save-path " +
                          (directory / style).string() + " --progress " + style);
  };
  EXPECT_THAT(output_of("text").output, testing::HasSubstr("quantize 8/8"));
  EXPECT_THAT(output_of("json").output, testing::HasSubstr("{\"stage\":\"quantize\",\"step\":8"));
  EXPECT_THAT(output_of("none").output, Not(testing::HasSubstr("quantize")));
  EXPECT_EQ(output_of("loud").exit_code, 2);
}

}  // namespace
}  // namespace laos::cli
