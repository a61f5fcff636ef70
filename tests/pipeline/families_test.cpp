// Small random checkpoints of every family, with and without biases, through the whole program.
// tests/golden/families/make.py made them, and the logits that transformers gives them.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "eval/eval_model.h"
#include "hf/ascendv1.h"
#include "hf/family.h"
#include "hf/model_tensors.h"
#include "io/file.h"
#include "linalg/gemm.h"
#include "model/checkpoint.h"
#include "pipeline/quant_options.h"
#include "pipeline/run.h"
#include "support/rounding.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::pipeline {
namespace {

namespace fs = std::filesystem;
const fs::path kFamilies = LAOS_SOURCE_DIR "/tests/golden/families";

std::vector<std::string> family_cases() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFamilies))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

class Families : public testing::TestWithParam<std::string> {
 protected:
  // Quantizes directory/model by these processors, items of a YAML list.
  void quantize(const std::string& processors) {
    std::ofstream(directory_ / "recipe.yaml")
        << "apiversion: modelslim_v1\n"
           "w8: &w8\n"
           "  weight: {scope: per_channel, dtype: int8, symmetric: true, method: autoround}\n"
           "  act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}\n"
           "w4: &w4\n"
           "  weight: {scope: per_channel, dtype: int4, symmetric: true, method: autoround}\n"
           "  act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}\n"
           "spec:\n  process:\n"
        << processors << "  save: [{type: ascendv1_saver}]\n";
    QuantOptions options = quant_options(directory_.path(), "out");
    options.checks = false;  // the tokenizer is not theirs
    Progress progress;
    run(make_plan(options), progress);
  }
  void copy_model() {
    fs::copy(kFamilies / GetParam(), directory_ / "model");
    fs::remove(directory_ / "model/golden.safetensors");
    fs::copy(LAOS_SOURCE_DIR "/models/qwen3-tiny/tokenizer.json", directory_ / "model");
  }
  // Takes all that is written of a model with experts, of which vLLM-Ascend reads those of layers
  // with experts by the label of the first.
  void load_mixture(const hf::Config& config);
  // The same with its weights in f32, so that rounding to bfloat16 is not in the way.
  void widen_model() {
    copy_model();
    std::string config = io::read_text(directory_ / "model/config.json", 1 << 20);
    const size_t at = config.find("bfloat16");
    ASSERT_NE(at, std::string::npos);
    std::ofstream(directory_ / "model/config.json") << config.replace(at, 8, "float32");
    const io::TensorFiles files =
        io::TensorFiles::open_files({kFamilies / GetParam() / "model.safetensors"});
    std::vector<io::TensorSpec> specs;
    for (const auto& [name, tensor] : files.tensors())
      specs.push_back({name, DType::kF32, tensor.shape});
    io::ShardedWriter writer(directory_ / "model", io::plan_shards(specs, "model", 0));
    for (const auto& [name, tensor] : files.tensors()) {
      std::vector<float> values(static_cast<size_t>(num_elements(tensor.shape)));
      to_f32(tensor, values.data());
      writer.write(name, std::as_bytes(std::span(values)));
    }
    writer.commit();
  }

  const test::TemporaryDirectory directory_;
};
INSTANTIATE_TEST_SUITE_P(Golden, Families, testing::ValuesIn(family_cases()), [](const auto& p) {
  std::string name = p.param;
  std::erase(name, '-');
  return name;
});

// Norms folded and everything rotated, biases too: the function is the same.
TEST_P(Families, FoldedAndRotatedGiveTheLogitsOfTransformers) {
  widen_model();
  quantize("    - {type: quarot}\n");
  const io::TensorFiles golden =
      io::TensorFiles::open_files({kFamilies / GetParam() / "golden.safetensors"});
  const Mat<float> values = to_f32(golden.at("ids")), expected = to_f32(golden.at("logits"));
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < values.size(); ++i) ids.push_back(static_cast<int32_t>(values.data()[i]));
  const auto model = eval::open_eval_model(directory_ / "out");
  const model::HiddenStates hidden = eval::final_hidden(*model, {ids});
  const Mat<float> head = to_f32(model->lm_head());
  Mat<float> logits(expected.rows(), expected.cols());
  linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f,
               std::as_const(hidden.rows)
                   .view()
                   .slice_rows(hidden.rows.rows() - logits.rows(), hidden.rows.rows()),
               head.view(), 0.0f, logits.view());
  const double tolerance = test::logit_tolerance(model->config(), std::ssize(ids), true, expected);
  for (int64_t i = 0; i < logits.size(); ++i)
    ASSERT_NEAR(logits.data()[i], expected.data()[i], tolerance) << i;
}

// What vLLM-Ascend (main of 2026-08-22) does with a directory when it loads it, module by module.
class AscendLoader {
 public:
  AscendLoader(const fs::path& directory, const hf::Config& config)
      : config_(config),
        files_(io::TensorFiles::open_files(hf::top_level_safetensors(directory))),
        description_(
            nlohmann::json::parse(std::ifstream(directory / "quant_model_description.json"))) {
    for (const auto& [name, tensor] : files_.tensors()) left_.insert(name);
  }

  // One linear of the engine made of these: all have a weight's label, and all the same.
  std::string load_fused(const std::string& layer, const std::vector<std::string>& shards,
                         bool has_bias, int64_t in_features,
                         const std::vector<int64_t>& out_features) {
    const std::string label = label_of(layer + shards.front());
    for (size_t i = 0; i < shards.size(); ++i) {
      EXPECT_EQ(label_of(layer + shards[i]), label) << layer + shards[i];
      load(layer + shards[i], label, has_bias, out_features[i], in_features);
    }
    return label;
  }
  // A module alone: it counts as FLOAT where any weight whose name begins with its own does.
  std::string load_alone(const std::string& name, bool has_bias, int64_t in_features,
                         int64_t out_features) {
    const std::string label = label_of(name);
    bool any_float = false;
    for (const auto& [key, value] : description_.items())
      any_float |= key.starts_with(name) && key.ends_with(".weight") && value == "FLOAT";
    EXPECT_EQ(any_float, label == "FLOAT") << name;
    load(name, label, has_bias, out_features, in_features);
    return label;
  }
  void load_norm(const std::string& name, int64_t size) {
    take(name + ".weight", config_.dtype, {size});
  }
  // Names that no module took: the engine stops at one.
  const std::set<std::string>& left() const { return left_; }

 private:
  std::string label_of(const std::string& module) const {
    const auto found = description_.find(module + ".weight");
    EXPECT_TRUE(found != description_.end()) << module;
    return found != description_.end() ? found->get<std::string>() : "";
  }
  void load(const std::string& name, const std::string& label, bool has_bias, int64_t out,
            int64_t in) {
    if (label == "FLOAT") {
      take(name + ".weight", config_.dtype, {out, in});
    } else {
      ASSERT_TRUE(label == "W8A8_DYNAMIC" || label == "W4A4_DYNAMIC") << name << " " << label;
      take(name + ".weight", DType::kI8, {out, in});
      take(name + ".weight_scale", DType::kF32, {out, 1});
      take(name + ".weight_offset", DType::kF32, {out, 1});
    }
    if (has_bias) take(name + ".bias", label == "FLOAT" ? config_.dtype : DType::kF32, {out});
  }
  void take(const std::string& name, DType dtype, const Shape& shape) {
    const TensorView* tensor = files_.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->dtype, dtype) << name;
    EXPECT_EQ(tensor->shape, shape) << name;
    EXPECT_EQ(left_.erase(name), 1u) << name;
  }

  const hf::Config config_;
  const io::TensorFiles files_;
  const nlohmann::json description_;
  std::set<std::string> left_;
};

void Families::load_mixture(const hf::Config& config) {
  AscendLoader loader(directory_ / "out", config);
  const int64_t hidden = config.hidden_size, q = config.num_attention_heads * config.head_dim,
                kv = config.num_key_value_heads * config.head_dim;
  const auto load_mlp = [&](const std::string& name, int64_t width, const std::string& label) {
    EXPECT_EQ(loader.load_fused(name, {"gate_proj", "up_proj"}, false, hidden, {width, width}),
              label);
    EXPECT_EQ(loader.load_fused(name, {"down_proj"}, false, width, {hidden}), label);
  };
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    EXPECT_EQ(loader.load_fused(layer + "self_attn.", {"q_proj", "k_proj", "v_proj"},
                                config.qkv_bias, hidden, {q, kv, kv}),
              "W8A8_DYNAMIC");
    EXPECT_EQ(loader.load_alone(layer + "self_attn.o_proj", config.o_bias, q, hidden),
              "W8A8_DYNAMIC");
    loader.load_norm(layer + "input_layernorm", hidden);
    loader.load_norm(layer + "post_attention_layernorm", hidden);
    if (config.family->qk_norm)
      for (const char* norm : {"q_norm", "k_norm"})
        loader.load_norm(layer + "self_attn." + norm, config.head_dim);
    if (!hf::is_mixture(config, i)) {
      load_mlp(layer + "mlp.", config.intermediate_size, "W8A8_DYNAMIC");
      continue;
    }
    for (int64_t e = 0; e < config.num_experts; ++e)
      load_mlp(layer + "mlp.experts." + std::to_string(e) + ".", config.moe_intermediate_size,
               "W8A8_DYNAMIC");
    EXPECT_EQ(loader.load_alone(layer + "mlp.gate", false, hidden, config.num_experts), "FLOAT");
    if (config.shared_expert_intermediate_size == 0) continue;
    load_mlp(layer + "mlp.shared_expert.", config.shared_expert_intermediate_size, "FLOAT");
    EXPECT_EQ(loader.load_alone(layer + "mlp.shared_expert_gate", false, hidden, 1), "FLOAT");
  }
  loader.load_norm("model.norm", hidden);
  loader.load_alone("model.embed_tokens", false, hidden, config.vocab_size);
  loader.load_alone("lm_head", false, hidden, config.vocab_size);
  EXPECT_TRUE(loader.left().empty()) << *loader.left().begin();
}

TEST_P(Families, AreWrittenAsVllmAscendLoadsThem) {
  copy_model();
  const hf::Config config = hf::read_config(directory_ / "model");
  if (config.num_experts > 0) {
    // What is refused until it is done.
    EXPECT_THROW(quantize("    - {type: iter_smooth}\n"), Error);
    EXPECT_THROW(quantize("    - {type: quarot, online: true}\n"), Error);
    EXPECT_FALSE(fs::exists(directory_ / "out"));
    quantize(
        "    - {type: quarot}\n"
        "    - type: gptq_quant\n      solve: []\n"
        "      strategies: [{qconfig: *w8, exclude: [\"*shared_expert*\"]}]\n");
    load_mixture(config);
    return;
  }
  // W4A4 packs eight inputs.
  const bool packs = config.hidden_size % 8 == 0;
  quantize(
      "    - {type: quarot}\n"
      "    - type: autoround_quant\n"
      "      iters: 1\n"
      "      enable_round_tuning: false\n"
      "      enable_minmax_tuning: false\n"
      "      strategies:\n"
      "        - {qconfig: *w8, include: [\"*self_attn*\", \"*.1.*.down_proj\"]}\n"
      "        - {qconfig: *" +
      std::string(packs ? "w4" : "w8") + ", include: [\"*.gate_proj\", \"*.up_proj\"]}\n");
  AscendLoader loader(directory_ / "out", config);
  const int64_t hidden = config.hidden_size, inter = config.intermediate_size,
                q = config.num_attention_heads * config.head_dim,
                kv = config.num_key_value_heads * config.head_dim;
  const bool has_head_norms = GetParam().starts_with("qwen3");
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    EXPECT_EQ(loader.load_fused(layer + "self_attn.", {"q_proj", "k_proj", "v_proj"},
                                config.qkv_bias, hidden, {q, kv, kv}),
              "W8A8_DYNAMIC");
    EXPECT_EQ(loader.load_alone(layer + "self_attn.o_proj", config.o_bias, q, hidden),
              "W8A8_DYNAMIC");
    EXPECT_EQ(loader.load_fused(layer + "mlp.", {"gate_proj", "up_proj"}, config.mlp_bias, hidden,
                                {inter, inter}),
              packs ? "W4A4_DYNAMIC" : "W8A8_DYNAMIC");
    EXPECT_EQ(loader.load_alone(layer + "mlp.down_proj", config.mlp_bias, inter, hidden),
              i == 1 ? "W8A8_DYNAMIC" : "FLOAT");
    loader.load_norm(layer + "input_layernorm", hidden);
    loader.load_norm(layer + "post_attention_layernorm", hidden);
    if (!has_head_norms) continue;
    loader.load_norm(layer + "self_attn.q_norm", config.head_dim);
    loader.load_norm(layer + "self_attn.k_norm", config.head_dim);
  }
  loader.load_norm("model.norm", hidden);
  EXPECT_EQ(loader.load_alone("model.embed_tokens", false, hidden, config.vocab_size), "FLOAT");
  EXPECT_EQ(loader.load_alone("lm_head", false, hidden, config.vocab_size), "FLOAT");
  EXPECT_TRUE(loader.left().empty()) << *loader.left().begin();

  const auto json = nlohmann::json::parse(std::ifstream(directory_ / "out/config.json"));
  EXPECT_FALSE(json.contains("quantization_config"));
  EXPECT_FALSE(json.at("tie_word_embeddings").get<bool>());
}

// A family whose names share nothing with Qwen3's: a row of the table is all it takes.
hf::Family toy_family() {
  hf::ModuleNames names{.layers = "transformer.h",
                        .linears = {},
                        .norms = {"mix.query_norm", "mix.key_norm", "norm_1", "norm_2"},
                        .embed_tokens = "transformer.wte",
                        .norm = "transformer.norm",
                        .lm_head = "transformer.out"};
  names.linears[model::Linear::kQProj] = "mix.query";
  names.linears[model::Linear::kKProj] = "mix.key";
  names.linears[model::Linear::kVProj] = "mix.value";
  names.linears[model::Linear::kOProj] = "mix.out";
  names.linears[model::Linear::kGateProj] = "ffn.open";
  names.linears[model::Linear::kUpProj] = "ffn.widen";
  names.linears[model::Linear::kDownProj] = "ffn.narrow";
  return {.architecture = "ToyForCausalLM", .model_type = "toy", .names = names, .qk_norm = true};
}

TEST(ToyFamily, GivesTheTensorsOfItsTwinUnderItsOwnNames) {
  const test::TemporaryDirectory directory;
  fs::create_directories(directory / "twin");
  const hf::Config twin = test::qwen3_config("tiny");
  const hf::Family family = toy_family();
  hf::Config toy = twin;
  toy.architecture = family.architecture;
  toy.family = &family;
  // What the twin calls a module, by what the toy calls it.
  std::map<std::string, std::string> twin_of;
  const std::vector<hf::WeightModule> toys = hf::weight_modules(toy),
                                      twins = hf::weight_modules(twin);
  ASSERT_EQ(toys.size(), twins.size());
  for (size_t i = 0; i < toys.size(); ++i) twin_of[toys[i].name] = twins[i].name;
  const auto named_as_twin = [&](const std::string& tensor) {
    const size_t dot = tensor.rfind('.');
    return twin_of.at(tensor.substr(0, dot)) + tensor.substr(dot);
  };

  test::write_synthetic({.config = twin}, directory / "twin/model");
  test::write_synthetic({.config = toy, .is_hollow = true}, directory / "model");
  const io::TensorFiles weights =
      io::TensorFiles::open_files({directory / "twin/model/model.safetensors"});
  std::vector<io::TensorSpec> specs;
  for (const hf::WeightModule& module : toys)
    specs.push_back({module.weight_name(), twin.dtype, module.shape});
  io::ShardedWriter writer(directory / "model", io::plan_shards(specs, "model", 0));
  for (const io::TensorSpec& spec : specs) {
    const TensorView& tensor = weights.at(named_as_twin(spec.name));
    writer.write(spec.name, {tensor.data, static_cast<size_t>(spec.size_bytes())});
  }
  writer.commit();

  const std::string recipe =
      "apiversion: modelslim_v1\nspec:\n  process:\n"
      "    - {type: iter_smooth}\n    - {type: quarot}\n"
      "    - type: gptq_quant\n      strategies:\n"
      "        - include: [\"*\"]\n          qconfig:\n"
      "            weight: {scope: per_channel, dtype: int4, symmetric: true, method: minmax}\n"
      "            act: {scope: per_token, dtype: int4, symmetric: true, method: minmax}\n"
      "  save: [{type: ascendv1_saver}]\n";
  for (const fs::path& place : {directory.path(), directory / "twin"}) {
    std::ofstream(place / "recipe.yaml") << recipe;
    QuantOptions options = quant_options(place, "out");
    if (place == directory.path()) options.families = {&family, 1};
    options.dataset = LAOS_SOURCE_DIR "/calib/qwen3-tiny-calib.jsonl";
    options.nsamples = 2;
    options.calib_seq_len = 64;
    options.checks = false;
    Progress progress;
    run(make_plan(options), progress);
  }
  const auto made = io::TensorFiles::open_files(hf::top_level_safetensors(directory / "out")),
             expected =
                 io::TensorFiles::open_files(hf::top_level_safetensors(directory / "twin/out"));
  EXPECT_EQ(made.tensors().size(), expected.tensors().size());
  for (const auto& [name, tensor] : made.tensors()) {
    const TensorView& same = expected.at(named_as_twin(name));
    ASSERT_EQ(tensor.shape, same.shape) << name;
    ASSERT_EQ(tensor.dtype, same.dtype) << name;
    EXPECT_TRUE(std::equal(
        tensor.data, tensor.data + num_elements(tensor.shape) * size_of(tensor.dtype), same.data))
        << name;
  }
  const auto description =
      nlohmann::json::parse(std::ifstream(directory / "out/quant_model_description.json"));
  EXPECT_EQ(description.at("transformer.h.1.ffn.widen.weight"), "W4A4_DYNAMIC");
  EXPECT_EQ(description.at("transformer.out.weight"), "FLOAT");
}

}  // namespace
}  // namespace laos::pipeline
