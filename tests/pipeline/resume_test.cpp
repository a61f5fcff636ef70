// Whatever interrupts a run, the next one ends in the same bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "core/threads.h"
#include "pipeline/identity.h"
#include "pipeline/quant_options.h"
#include "pipeline/run.h"
#include "save/inspect.h"
#include "save/work_directory.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kRecipe = R"(apiversion: modelslim_v1
w8: &w8
  weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
w4: &w4
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
w4g: &w4g
  weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}
  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}
spec:
  prior:
    - process: [{type: adapt_rotation, stage: 1, steps: 3, layer_type: [up_proj]}]
  process:
    - {type: adapt_rotation, stage: 2, online: false, max_tp_size: 1}
    - {type: iter_smooth, alpha: 0.5, enable_subgraph_type: [ov, up-down]}
    - type: autoround_quant
      iters: 2
      strategies:
        - {qconfig: *w8, include: ["*self_attn*"]}
        - {qconfig: *w4, include: ["*.up_proj", "*.gate_proj"]}
    - {type: gptq_quant, strategies: [{qconfig: *w4g, include: ["*.down_proj"]}]}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
)";

// Stops at the `count`-th question whether to.
class StopAt : public Progress {
 public:
  explicit StopAt(int64_t count) : left_(count) {}
  bool stop() override { return --left_ == 0; }

 private:
  int64_t left_;
};

class Resume : public testing::Test {
 protected:
  void SetUp() override {
    test::write_synthetic({.config = test::qwen3_config("tiny", 3), .seed = 3},
                          directory_ / "model");
    write("recipe.yaml", kRecipe);
    write("calib.jsonl",
          "{\"inputs_pretokenized\": \"In the beginning was the word\"}\n"
          "{\"inputs_pretokenized\": \"and the word was with the other words, in order.\"}\n");
  }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
  }

  QuantOptions options(const std::string& save_path) const {
    return quant_options(directory_.path(), save_path);
  }

  // Whether the run came to its end before it was stopped.
  static bool finishes(const QuantOptions& options, int64_t stop_at) {
    StopAt progress(stop_at);
    try {
      run(make_plan(options), progress);
      return true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kStopped) throw;
      return false;
    }
  }
  static RunResult finish(const QuantOptions& options) {
    Progress progress;
    return run(make_plan(options), progress);
  }

  std::map<std::string, std::string> files_of(const std::string& save_path) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory_ / save_path)) {
      std::stringstream content;
      content << std::ifstream(entry.path(), std::ios::binary).rdbuf();
      files[fs::relative(entry.path(), directory_ / save_path).string()] = content.str();
    }
    return files;
  }

  fs::path part(const std::string& name) const {
    return directory_ / "out" / ".laos-partial" / "parts" / name;
  }

  // Leaves a run in out/ with exactly `layers` finished.
  void interrupt_after(int64_t layers) {
    class StopAfter : public Progress {
     public:
      explicit StopAfter(int64_t layers) : layers_(layers) {}
      void begin(const std::string& part, int64_t) override { quantizes_ = part == "quantize"; }
      void step(int64_t done, const std::string&) override {
        stop_ = quantizes_ && done == layers_;
      }
      bool stop() override { return stop_; }

     private:
      int64_t layers_;
      bool quantizes_ = false, stop_ = false;
    } progress(layers);
    QuantOptions restarted = options("out");
    restarted.restart = true;
    EXPECT_THROW(run(make_plan(restarted), progress), Error);
    EXPECT_EQ(save::work_status(directory_ / "out").parts["layer"].done, layers);
  }

  // Steps of the part "take finished layers", which it says it has and which it takes.
  static std::pair<int64_t, int64_t> taken_layers(const QuantOptions& options) {
    class Count : public Progress {
     public:
      void begin(const std::string& part, int64_t num_steps) override {
        takes_ = part == "take finished layers";
        if (takes_) planned = num_steps;
      }
      void step(int64_t step, const std::string&) override {
        if (takes_) done = step;
      }
      int64_t planned = 0, done = 0;

     private:
      bool takes_ = false;
    } progress;
    run(make_plan(options), progress);
    return {progress.planned, progress.done};
  }

  std::string refusal(const QuantOptions& options) const {
    try {
      make_plan(options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  test::TemporaryDirectory directory_;
};

TEST_F(Resume, GivesTheSameBytesWhereverItWasStopped) {
  finish(options("reference"));
  const auto reference = files_of("reference");
  const int threads = num_threads();
  for (const double keep_states : {0.0, 60.0}) {
    std::set<int64_t> kept;
    for (int64_t stop_at = 1;; ++stop_at) {
      SCOPED_TRACE(stop_at);
      fs::remove_all(directory_ / "out");
      QuantOptions stopped = options("out");
      stopped.keep_states_seconds = keep_states;
      if (finishes(stopped, stop_at)) break;
      set_num_threads(static_cast<int>(1 + stop_at % 3));
      kept.insert(finish(stopped).layers_kept);
      ASSERT_TRUE(files_of("out") == reference);
    }
    EXPECT_THAT(kept, testing::ElementsAre(0, 1, 2, 3));
  }
  set_num_threads(threads);
}

TEST_F(Resume, GivesTheSameBytesOfSeveralFormatsWhereverItWasStopped) {
  const std::vector<std::string> formats = {"ascendv1", "compressed-tensors"};
  const auto both = [&](const std::string& save_path) {
    QuantOptions result = options(save_path);
    result.formats = formats;
    result.keep_states_seconds = 0;
    return result;
  };
  finish(both("reference"));
  const auto reference = files_of("reference");
  // Each is what a run for it alone writes, but for the recipe, which names both.
  for (const std::string& format : formats) {
    QuantOptions alone = options("alone");
    alone.formats = {format};
    alone.restart = true;
    fs::remove_all(directory_ / "alone");
    finish(alone);
    auto expected = files_of("alone");
    auto written = files_of("reference/" + format);
    for (auto* files : {&expected, &written})
      for (const char* name : {"SHA256SUMS", "tiny_best_practice.yaml"}) files->erase(name);
    EXPECT_TRUE(written == expected) << format;
  }
  std::set<int64_t> kept;
  for (int64_t stop_at = 1;; ++stop_at) {
    SCOPED_TRACE(stop_at);
    fs::remove_all(directory_ / "out");
    if (finishes(both("out"), stop_at)) break;
    kept.insert(finish(both("out")).layers_kept);
    ASSERT_TRUE(files_of("out") == reference);
  }
  EXPECT_THAT(kept, testing::ElementsAre(0, 1, 2, 3));
  // Nothing of one of them is taken for a run of both.
  fs::remove_all(directory_ / "out");
  interrupt_after(1);
  EXPECT_THAT(refusal(both("out")), HasSubstr("changed since: recipe"));
}

TEST_F(Resume, GivesTheSameBytesWhenStoppedAgainAndAgain) {
  finish(options("reference"));
  int64_t runs = 1;
  // A few questions more each time, or none of the runs would get anywhere.
  for (; !finishes(options("out"), 4 + 3 * runs); ++runs) ASSERT_LT(runs, 100);
  EXPECT_GT(runs, 3);
  EXPECT_TRUE(files_of("out") == files_of("reference"));
}

TEST_F(Resume, ReportsTheSameLossesAsARunThatWasNotInterrupted) {
  const RunResult whole = finish(options("reference"));
  interrupt_after(2);
  const RunResult resumed = finish(options("out"));
  EXPECT_EQ(resumed.layers_kept, 2);
  ASSERT_EQ(resumed.layers.size(), whole.layers.size());
  for (size_t i = 0; i < whole.layers.size(); ++i) {
    // A kept layer's losses have the seven digits of run.json.
    ASSERT_EQ(resumed.layers[i].losses.size(), whole.layers[i].losses.size());
    for (size_t j = 0; j < whole.layers[i].losses.size(); ++j)
      EXPECT_NEAR(resumed.layers[i].losses[j], whole.layers[i].losses[j],
                  1e-6 * whole.layers[i].losses[j]);
    EXPECT_EQ(resumed.layers[i].kept_iteration, whole.layers[i].kept_iteration);
  }
  ASSERT_EQ(resumed.fits.size(), whole.fits.size());
  EXPECT_EQ(resumed.fits[0].best_step, whole.fits[0].best_step);
}

TEST_F(Resume, LeavesNothingWhenNothingWasFinished) {
  EXPECT_FALSE(finishes(options("out"), 1));
  EXPECT_FALSE(fs::exists(directory_ / "out"));
}

TEST_F(Resume, KeepsAnOlderCheckpointWholeMeanwhile) {
  finish(options("out"));
  const auto older = files_of("out");
  std::string recipe = kRecipe;
  recipe.replace(recipe.find("iters: 2"), 8, "iters: 3");
  write("recipe.yaml", recipe);
  QuantOptions restarted = options("out");
  restarted.restart = true;
  EXPECT_FALSE(finishes(restarted, 30));
  auto now = files_of("out");
  std::erase_if(now, [](const auto& file) { return file.first.starts_with(".laos-partial"); });
  EXPECT_TRUE(now == older);
  EXPECT_TRUE(save::inspect(directory_ / "out", {.verify_files = true}).loads());
  finish(options("out"));
  EXPECT_FALSE(files_of("out") == older);
}

TEST_F(Resume, MakesAPartAgainThatIsNotWhatWasWritten) {
  finish(options("reference"));
  const std::string layer = "layer-00000", rotation = "rotation-00000";
  const auto damage = [&](const std::string& file) {
    std::fstream stream(part(file), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-1, std::ios::end);
    stream.put('\x5a');
  };
  for (const std::string& file :
       {layer + ".safetensors", layer + ".json", rotation + ".safetensors"}) {
    SCOPED_TRACE(file);
    interrupt_after(2);
    damage(file);
    EXPECT_EQ(finish(options("out")).layers_kept, file.starts_with(layer) ? 1 : 2);
    EXPECT_TRUE(files_of("out") == files_of("reference"));
  }
  interrupt_after(2);
  fs::remove(part(layer + ".safetensors"));
  EXPECT_EQ(finish(options("out")).layers_kept, 1);
  EXPECT_TRUE(files_of("out") == files_of("reference"));
}

TEST_F(Resume, RefusesAnotherRunAndNamesWhatChanged) {
  interrupt_after(1);
  QuantOptions other = options("out");
  other.seed = 43;
  EXPECT_THAT(refusal(other), HasSubstr("changed since: seed (was 42, is 43)"));
  EXPECT_THAT(refusal(other), HasSubstr("--restart"));
  other = options("out");
  other.compute = linalg::ComputeType::kBf16;
  EXPECT_THAT(refusal(other), HasSubstr("compute dtype (was f32, is bf16)"));

  write("calib.jsonl",
        "{\"inputs_pretokenized\": \"Other words than those, and more of them.\"}\n");
  EXPECT_THAT(refusal(options("out")), HasSubstr("calibration data"));
  SetUp();
  test::write_synthetic({.config = test::qwen3_config("tiny", 3), .seed = 4}, directory_ / "model");
  EXPECT_THAT(refusal(options("out")), HasSubstr("model file model.safetensors"));
  EXPECT_THAT(refusal(options("out")), Not(HasSubstr("config.json")));
  EXPECT_THAT(refusal(options("out")), Not(HasSubstr("recipe")));
  std::string recipe = kRecipe;
  recipe.replace(recipe.find("iters: 2"), 8, "iters: 3");
  write("recipe.yaml", recipe);
  EXPECT_THAT(refusal(options("out")), HasSubstr("recipe"));

  QuantOptions restarted = options("out");
  restarted.restart = true;
  EXPECT_EQ(finish(restarted).layers_kept, 0);
}

TEST_F(Resume, RefusesAStateThatCannotBeRead) {
  interrupt_after(1);
  std::ofstream(directory_ / "out" / ".laos-partial" / "state.json") << "{\"identity\": 3";
  EXPECT_THAT(refusal(options("out")), HasSubstr("cannot be read"));
  QuantOptions restarted = options("out");
  restarted.restart = true;
  EXPECT_EQ(finish(restarted).layers_kept, 0);
}

TEST_F(Resume, CountsTheLayersThatItTakesNotThoseOfTheModel) {
  interrupt_after(2);
  EXPECT_EQ(taken_layers(options("out")), std::pair(int64_t{2}, int64_t{2}));
}

TEST_F(Resume, TakesTheSameBytesForTheSameModelWhateverTheirDateAndPlace) {
  finish(options("reference"));
  interrupt_after(2);
  fs::rename(directory_ / "model", directory_ / "moved");
  QuantOptions moved = options("out");
  moved.model_path = directory_ / "moved";
  fs::last_write_time(directory_ / "moved/config.json", fs::file_time_type::clock::now());
  fs::copy_file(directory_ / "moved/model.safetensors", directory_ / "copy");
  fs::rename(directory_ / "copy", directory_ / "moved/model.safetensors");
  EXPECT_EQ(finish(moved).layers_kept, 2);
  EXPECT_TRUE(files_of("out") == files_of("reference"));
}

TEST_F(Resume, RefusesOtherBytesOfTheSameSizeAndDate) {
  interrupt_after(2);
  const fs::path file = directory_ / "model/model.safetensors";
  const fs::file_time_type time = fs::last_write_time(file);
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(fs::file_size(file) / 2));
  stream.write("laos", 4);
  stream.close();
  fs::last_write_time(file, time);
  EXPECT_THAT(refusal(options("out")), HasSubstr("model file model.safetensors"));
}

TEST_F(Resume, ReadsTheModelsFilesOnceAndLaterOnlyThoseThatLookOtherwise) {
  interrupt_after(1);
  const auto unread = [&] {
    save::WorkPlan work;
    class Count : public Progress {
     public:
      void begin(const std::string&, int64_t num_steps) override { files = num_steps; }
      int64_t files = 0;
    } progress;
    add_model_content(make_plan(options("out")), work, &progress);
    return progress.files;
  };
  EXPECT_EQ(unread(), 0);
  fs::last_write_time(directory_ / "model/config.json", fs::file_time_type::clock::now());
  EXPECT_EQ(unread(), 1);
}

TEST_F(Resume, StateHasNoNegativeTimes) {
  interrupt_after(1);
  for (const auto& [name, stamp] : save::work_status(directory_ / "out").stamps)
    EXPECT_THAT(stamp, Not(HasSubstr(" -"))) << name;
  for (const auto& [name, value] : save::work_status(directory_ / "out").identity)
    EXPECT_THAT(value, Not(HasSubstr(" -"))) << name;
}

TEST_F(Resume, DoesNotBeginAFinishedOutputAgainUnlessRestarted) {
  finish(options("out"));
  EXPECT_THAT(refusal(options("out")), HasSubstr("a finished checkpoint is here already"));
  QuantOptions other = options("out");
  test::write_synthetic({.config = test::qwen3_config("tiny", 2)}, directory_ / "other");
  other.model_path = directory_ / "other";
  EXPECT_THAT(refusal(other), HasSubstr("--restart"));
  QuantOptions restarted = options("out");
  restarted.restart = true;
  EXPECT_EQ(finish(restarted).layers_kept, 0);
}

}  // namespace
}  // namespace laos::pipeline
