// Attention's cache in int8, from the recipe to the integers that are evaluated.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "eval/generate.h"
#include "eval/metrics.h"
#include "hf/ascendv1.h"
#include "model/cached_layer.h"
#include "pipeline/quant_options.h"
#include "pipeline/run.h"
#include "recipe/rewrite.h"
#include "save/convert.h"
#include "save/format.h"
#include "save/inspect.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

using model::Linear;
using testing::HasSubstr;

constexpr const char* kRecipe = R"(apiversion: modelslim_v1
spec:
  process:
    - type: linear_quant
      qconfig:
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
        act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
  save: [{type: ascendv1_saver}]
  dataset: calib.jsonl
  kv_cache: {dtype: int8}
)";

class Cache : public testing::Test {
 protected:
  Cache() {
    test::write_synthetic({.config = test::qwen3_config("tiny"), .seed = 5}, directory_ / "model");
    std::ofstream calib(directory_ / "calib.jsonl");
    for (const char* text : {"In the beginning was the word", "and the word was with the others",
                             "all of them in order, from the first to the last one."})
      calib << R"({"inputs_pretokenized": ")" << text << "\"}\n";
    write_recipe(kRecipe);
  }
  void write_recipe(const std::string& text) const {
    std::ofstream(directory_ / "recipe.yaml") << text;
  }
  QuantOptions options(const std::string& save_path = "out") const {
    return quant_options(directory_.path(), save_path);
  }
  RunResult quantize(const std::string& save_path = "out") const {
    Progress progress;
    return run(make_plan(options(save_path)), progress);
  }
  std::vector<std::vector<int32_t>> texts() const {
    std::vector<std::vector<int32_t>> texts(2);
    for (int32_t i = 0; i < 40; ++i) texts[static_cast<size_t>(i % 2)].push_back(i * 7 % 256);
    return texts;
  }

  test::TemporaryDirectory directory_;
};

// The scales are those of the keys and values that the float layer gives on the calibration text.
TEST_F(Cache, IsDescribedAsEnginesReadIt) {
  const RunResult result = quantize();
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_ / "out");
  EXPECT_EQ(checkpoint.description().kv_cache_type, "C8");
  const int64_t channels = 2 * 32;
  for (int64_t i = 0; i < 2; ++i)
    for (const char* linear : {"k_proj", "v_proj"}) {
      const std::string name =
          "model.layers." + std::to_string(i) + ".self_attn." + linear + ".kv_cache_";
      for (const char* part : {"scale", "offset"}) {
        ASSERT_NE(checkpoint.files().find(name + part), nullptr) << name << part;
        const TensorView& tensor = checkpoint.files().at(name + part);
        EXPECT_EQ(tensor.dtype, DType::kF32);
        EXPECT_EQ(tensor.shape, Shape{channels});
        ASSERT_NE(checkpoint.description().find(name + part), nullptr);
        EXPECT_EQ(*checkpoint.description().find(name + part), "C8");
      }
      for (const float offset : checkpoint.values(
               "model.layers." + std::to_string(i) + ".self_attn." + linear, "kv_cache_offset"))
        EXPECT_EQ(offset, 0);
    }
  EXPECT_TRUE(save::inspect(directory_ / "out").loads());
  const save::InspectReport sglang =
      save::inspect(directory_ / "out", {.engine = scheme::Engine::kSglang});
  EXPECT_FALSE(sglang.loads());
  ASSERT_FALSE(sglang.findings.empty());
  EXPECT_THAT(sglang.findings.front().what, HasSubstr("no scales of a cache"));
  for (const report::Layer& layer : result.records) {
    EXPECT_GT(layer.key_error, 0);
    EXPECT_LT(layer.key_error, 1e-3);
    EXPECT_GT(layer.value_error, 0);
    EXPECT_LT(layer.value_error, 1e-3);
  }
}

// Keys behind RoPE and values are multiples of their channel's scale, and attention reads those.
TEST_F(Cache, IsWhatAttentionReads) {
  quantize();
  const auto quantized = eval::open_eval_model(directory_ / "out");
  const auto checkpoint = hf::AscendV1Checkpoint::open(directory_ / "out");
  const hf::Config& config = quantized->config();
  model::HiddenStates states = model::embed(quantized->embed_tokens(), texts());
  const model::Rope<float> rope(config, 20);
  model::LayerSaved<float> saved(config, 40, false), plain(config, 40, false);
  const auto layer = quantized->load_layer(0);
  model::LayerNorms<float> without = layer->norms();
  without.key_scale = without.value_scale = nullptr;
  Mat<float> y(40, config.hidden_size);
  model::layer_forward<float>(config, without, layer->linears(), rope, states.samples,
                              std::as_const(states.rows).view(), plain, y.view());
  model::layer_forward<float>(config, layer->norms(), layer->linears(), rope, states.samples,
                              std::as_const(states.rows).view(), saved, y.view());
  const std::optional<hf::CacheScales> scales = checkpoint.cache_scales(0);
  ASSERT_TRUE(scales);
  double changed = 0;
  for (int64_t i = 0; i < 40; ++i)
    for (size_t j = 0; j < scales->keys.size(); ++j) {
      const auto col = static_cast<int64_t>(j);
      for (const auto& [actual, before, scale] :
           {std::tuple(saved.k_rotated(i, col), plain.k_rotated(i, col), scales->keys[j]),
            std::tuple(saved.v(i, col), plain.v(i, col), scales->values[j])}) {
        const double code =
            std::clamp(std::nearbyint(static_cast<double>(before * (1 / scale))), -128.0, 127.0);
        ASSERT_EQ(actual, static_cast<float>(code) * scale);
        changed += actual != before;
      }
    }
  EXPECT_GT(changed, 0);
}

TEST_F(Cache, GivesTheSameWithAndWithoutKeptKeys) {
  quantize();
  const auto model = eval::open_eval_model(directory_ / "out");
  const model::HiddenStates whole = eval::final_hidden(*model, texts());
  const hf::Config& config = model->config();
  model::KvCache cache(config, std::vector<int64_t>{20});
  model::LayerSaved<float> saved(config, 1, false);
  const model::Rope<float> rope(config, 20);
  model::HiddenStates tokens = model::embed(model->embed_tokens(), texts());
  for (int64_t t = 0; t < 20; ++t) {
    Mat<float> x(1, config.hidden_size), y(1, config.hidden_size);
    std::copy_n(tokens.rows.row(t), config.hidden_size, x.data());
    model::Ragged one;
    one.append(1);
    const std::vector<int64_t> sequence = {0};
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      const auto layer = model->load_layer(i);
      model::cached_layer_forward(config, i, layer->norms(), layer->linears(), rope, one, sequence,
                                  std::as_const(x).view(), cache, saved, y.view());
      std::swap(x, y);
    }
    cache.extend(0, 1);
    model::HiddenStates last = model::embed(model->embed_tokens(), {{0}});
    std::copy_n(x.data(), x.size(), last.rows.row(0));
    eval::normalize_final(*model, last);
    // Sums have another order; a code on an edge may fall either way.
    double error = 0, size = 0;
    for (int64_t j = 0; j < config.hidden_size; ++j) {
      error += std::pow(last.rows(0, j) - whole.rows(t, j), 2);
      size += std::pow(whole.rows(t, j), 2);
    }
    EXPECT_LT(error, 1e-4 * size) << t;
  }
}

TEST_F(Cache, StaysNearTheFloatOne) {
  quantize();
  std::string text = kRecipe;
  text.erase(text.find("  kv_cache"));
  write_recipe(text);
  quantize("plain");
  const auto files = hf::AscendV1Checkpoint::open(directory_ / "plain");
  EXPECT_FALSE(files.cache_scales(0));
  eval::Windows windows(1);
  windows[0].ids = texts()[0];
  const auto comparison = eval::compare(*eval::open_eval_model(directory_ / "out"),
                                        *eval::open_eval_model(directory_ / "plain"), windows);
  EXPECT_GT(comparison.divergence.kl.value, 0);
  EXPECT_LT(comparison.divergence.kl.value, 1e-4);
}

TEST_F(Cache, IsAskedForByAnOptionAsByARecipe) {
  quantize();
  std::string text = kRecipe;
  text.erase(text.find("  kv_cache"));
  write_recipe(text);
  QuantOptions asked = options("asked");
  asked.int8_cache = true;
  const Plan plan = make_plan(asked);
  EXPECT_THAT(plan.recipe.yaml, HasSubstr("kv_cache:\n    dtype: int8"));
  Progress progress;
  run(plan, progress);
  const auto scales = [&](const char* path) {
    return hf::AscendV1Checkpoint::open(directory_ / path).cache_scales(1)->values;
  };
  EXPECT_EQ(scales("asked"), scales("out"));
}

TEST_F(Cache, IsRefusedWhereItHasNoPlace) {
  const auto message = [&](const auto& work) -> std::string {
    try {
      work();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  QuantOptions other = options();
  other.formats = {"compressed-tensors"};
  EXPECT_THAT(message([&] { make_plan(other); }),
              HasSubstr("int8 cache have no place in compressed-tensors"));
  EXPECT_FALSE(std::filesystem::exists(directory_ / "out"));
  quantize();
  EXPECT_THAT(message([&] {
                save::convert(directory_ / "out", save::compressed_tensors_format(),
                              directory_ / "converted");
              }),
              HasSubstr("no place in compressed-tensors"));

  hf::Config narrow = test::qwen3_config("tiny");
  narrow.head_dim = 16;
  std::filesystem::remove_all(directory_ / "model");
  test::write_synthetic({.config = narrow, .seed = 5}, directory_ / "model");
  EXPECT_THAT(message([&] { make_plan(options("narrow")); }),
              HasSubstr("head_dim 16 is no multiple of 32"));
  std::string text = kRecipe;
  text.replace(text.find("dtype: int8}\n", text.find("kv_cache")), 11, "dtype: int4");
  write_recipe(text);
  EXPECT_THAT(message([&] { make_plan(options("int4")); }), HasSubstr("spec.kv_cache.dtype"));
}

// What an engine would compute with something else, or not at all.
TEST_F(Cache, IsNotReadWhenHalfOfItIsMissing) {
  quantize();
  const std::filesystem::path file = directory_ / "out" / hf::kDescriptionFile;
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  std::string without = text.str();
  const std::string field = "\"kv_cache_type\": \"C8\",";
  ASSERT_NE(without.find(field), std::string::npos);
  without.erase(without.find(field), field.size());
  std::ofstream(file) << without;
  EXPECT_THROW(hf::AscendV1Checkpoint::open(directory_ / "out"), Error);
  EXPECT_FALSE(save::inspect(directory_ / "out").loads());
}

}  // namespace
}  // namespace laos::pipeline
