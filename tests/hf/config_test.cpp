#include "hf/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "hf/family.h"
#include "hf/model_tensors.h"
#include "io/safetensors.h"
#include "support/synthetic.h"
#include "support/temporary_directory.h"

namespace laos::hf {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::json;

// What transformers 4 writes for Qwen3-8B.
Json qwen3_8b() {
  return Json::parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})");
}

Config read_text_as_config(const std::string& text) {
  const test::TemporaryDirectory dir;
  std::ofstream(dir / "config.json") << text;
  return read_config(dir.path());
}
Config read(const Json& json) { return read_text_as_config(json.dump()); }

// The 8B config with one field changed; null removes it.
Json with(const std::string& field, const Json& value) {
  Json json = qwen3_8b();
  if (value.is_null())
    json.erase(field);
  else
    json[field] = value;
  return json;
}

std::string problem_of_text(const std::string& text, ErrorCode code) {
  try {
    read_text_as_config(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
    return error.what();
  }
  return "";
}
std::string problem(const Json& json, ErrorCode code) { return problem_of_text(json.dump(), code); }

// What transformers 4 writes for Qwen3-30B-A3B, of what matters here.
Json qwen3_30b_a3b() {
  Json json = qwen3_8b();
  json["architectures"] = {"Qwen3MoeForCausalLM"};
  json["model_type"] = "qwen3_moe";
  json["hidden_size"] = 2048;
  json["intermediate_size"] = 6144;
  json["num_hidden_layers"] = 48;
  json["num_key_value_heads"] = 4;
  json["decoder_sparse_step"] = 1;
  json["mlp_only_layers"] = Json::array();
  json["moe_intermediate_size"] = 768;
  json["norm_topk_prob"] = true;
  json["num_experts"] = 128;
  json["num_experts_per_tok"] = 8;
  return json;
}

TEST(ReadConfig, ReadsMixturesOfExperts) {
  Json json = qwen3_30b_a3b();
  const Config config = read(json);
  EXPECT_TRUE(config.family->qk_norm);
  EXPECT_EQ(config.num_experts, 128);
  EXPECT_EQ(config.num_experts_per_tok, 8);
  EXPECT_EQ(config.moe_intermediate_size, 768);
  EXPECT_EQ(config.shared_expert_intermediate_size, 0);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_EQ(config.decoder_sparse_step, 1);
  EXPECT_TRUE(config.mlp_only_layers.empty());

  json["num_local_experts"] = json["num_experts"];  // as transformers 5 writes it
  json.erase("num_experts");
  json.erase("norm_topk_prob");
  json["mlp_only_layers"] = {0, 47};
  json["decoder_sparse_step"] = 3;
  const Config other = read(json);
  EXPECT_EQ(other.num_experts, 128);
  EXPECT_FALSE(other.norm_topk_prob);
  EXPECT_EQ(other.mlp_only_layers, (std::vector<int64_t>{0, 47}));
  EXPECT_EQ(other.decoder_sparse_step, 3);

  json["architectures"] = {"Qwen2MoeForCausalLM"};
  json["shared_expert_intermediate_size"] = 5632;
  const Config shared = read(json);
  EXPECT_EQ(shared.shared_expert_intermediate_size, 5632);
  EXPECT_TRUE(shared.qkv_bias);
  EXPECT_FALSE(shared.family->qk_norm);
}

TEST(ReadConfig, RefusesExpertsThatCannotBe) {
  const auto refused = [](const char* field, const Json& value) {
    Json json = qwen3_30b_a3b();
    json[field] = value;
    return problem(json, ErrorCode::kFormat);
  };
  EXPECT_THAT(refused("num_experts", 0), HasSubstr("num_experts: 0 is not between"));
  EXPECT_THAT(refused("num_experts", 4),
              HasSubstr("num_experts_per_tok: 8 is more than num_experts 4"));
  EXPECT_THAT(refused("num_hidden_layers", 9999), HasSubstr("more than 1000000 linears"));
  EXPECT_THAT(refused("moe_intermediate_size", nullptr),
              HasSubstr("moe_intermediate_size: is missing"));
  EXPECT_THAT(refused("mlp_only_layers", {48}), HasSubstr("mlp_only_layers: must be a list"));
  EXPECT_THAT(refused("mlp_only_layers", 1), HasSubstr("mlp_only_layers: must be a list"));
  EXPECT_THAT(refused("decoder_sparse_step", -1), HasSubstr("decoder_sparse_step"));
  Json json = qwen3_30b_a3b();
  json["architectures"] = {"Qwen2MoeForCausalLM"};
  json["shared_expert_intermediate_size"] = 8;
  json["qkv_bias"] = false;
  EXPECT_THAT(problem(json, ErrorCode::kUnsupported), HasSubstr("without biases in attention"));
}

TEST(ReadConfig, ReadsWhatTransformers4Writes) {
  const Config config = read(qwen3_8b());
  EXPECT_EQ(config.architecture, "Qwen3ForCausalLM");
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 12288);
  EXPECT_EQ(config.num_hidden_layers, 36);
  EXPECT_EQ(config.num_attention_heads, 32);
  EXPECT_EQ(config.num_key_value_heads, 8);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.vocab_size, 151936);
  EXPECT_EQ(config.max_position_embeddings, 40960);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.eos_token_id, 151645);
}

TEST(ReadConfig, ReadsTheSameFromWhatTransformers5Writes) {
  Json json = qwen3_8b();
  for (const char* field : {"rope_theta", "rope_scaling", "torch_dtype"}) json.erase(field);
  json["rope_parameters"] = {{"rope_theta", 1e6}, {"rope_type", "default"}};
  json["dtype"] = "float16";
  json["layer_types"] = std::vector<std::string>(36, "full_attention");
  json["pad_token_id"] = nullptr;
  const Config config = read(json);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.dtype, DType::kF16);
}

TEST(ReadConfig, TakesADtypeThatIsAutoOrAbsentFromTheTensors) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const test::TemporaryDirectory dir;
    Config config = test::qwen3_config("tiny");
    test::write_synthetic({.config = config}, dir.path());
    const io::TensorSpec embedding = {.name = "model.embed_tokens.weight",
                                      .dtype = dtype,
                                      .shape = {config.vocab_size, config.hidden_size}};
    io::ShardedWriter writer(dir.path(), io::plan_shards({embedding}, "model", 0));
    writer.write(embedding.name,
                 std::vector<std::byte>(static_cast<size_t>(embedding.size_bytes())));
    writer.commit();
    Json json = Json::parse(std::ifstream(dir / "config.json"));
    for (const Json& value : {Json("auto"), Json(nullptr)}) {
      json["torch_dtype"] = value;
      std::ofstream(dir / "config.json") << json;
      EXPECT_EQ(read_config(dir.path()).dtype, dtype) << value;
    }
    json.erase("torch_dtype");
    std::ofstream(dir / "config.json") << json;
    EXPECT_EQ(read_config(dir.path()).dtype, dtype);
  }
}

TEST(ReadConfig, GivesAbsentFieldsTheDefaultsOfQwen3) {
  Json json = qwen3_8b();
  for (const char* field :
       {"rope_theta", "rope_scaling", "rms_norm_eps", "head_dim", "tie_word_embeddings",
        "eos_token_id", "max_position_embeddings", "attention_bias", "hidden_act"})
    json.erase(field);
  const Config config = read(json);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.eos_token_id, -1);
  EXPECT_EQ(config.max_position_embeddings, 32768);
}

TEST(ReadConfig, TakesTheFirstOfSeveralEndTokens) {
  EXPECT_EQ(read(with("eos_token_id", {151645, 151643})).eos_token_id, 151645);
  EXPECT_THAT(problem(with("eos_token_id", "x"), ErrorCode::kFormat), HasSubstr("eos_token_id"));
  EXPECT_THAT(problem(with("eos_token_id", -5), ErrorCode::kFormat), HasSubstr("eos_token_id"));
}

TEST(ReadConfig, NamesKnownArchitecturesWhenItRefusesOne) {
  EXPECT_THAT(problem(with("architectures", {"GPT2LMHeadModel"}), ErrorCode::kUnsupported),
              AllOf(HasSubstr("GPT2LMHeadModel"), HasSubstr("Qwen3ForCausalLM"),
                    HasSubstr("LlamaForCausalLM")));
  EXPECT_THAT(problem(with("architectures", nullptr), ErrorCode::kFormat),
              AllOf(HasSubstr("architectures: is missing"),
                    HasSubstr("write \"architectures\": [\"Qwen3ForCausalLM\"]")));
  EXPECT_THAT(problem(with("architectures", Json::array()), ErrorCode::kFormat),
              HasSubstr("list of one string"));
  EXPECT_THAT(problem(with("architectures", "Qwen3ForCausalLM"), ErrorCode::kFormat),
              HasSubstr("list of one string"));
}

TEST(ReadConfig, RefusesEveryVariantThatComputesSomethingElse) {
  const std::vector<std::tuple<std::string, Json, std::string>> cases = {
      {"hidden_act", "gelu", "\"gelu\""},
      {"rope_scaling", {{"rope_type", "longrope"}, {"factor", 4.0}}, "\"longrope\""},
      {"rope_parameters",
       {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}},
       "partial_rotary_factor"},
      {"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}, "per layer type"},
      {"torch_dtype", "float8_e4m3fn", "float8_e4m3fn"},
      {"quantization_config", {{"quant_method", "gptq"}}, "already quantized"},
  };
  for (const auto& [field, value, message] : cases)
    EXPECT_THAT(problem(with(field, value), ErrorCode::kUnsupported),
                AllOf(HasSubstr(message), HasSubstr(field)))
        << field;
  Json types = qwen3_8b();
  types["layer_types"] = std::vector<std::string>(36, "full_attention");
  types["layer_types"][7] = "linear_attention";
  EXPECT_THAT(problem(types, ErrorCode::kUnsupported), HasSubstr("linear_attention"));
}

// What transformers writes for a small Llama 3.1.
Json llama() {
  Json json = qwen3_8b();
  for (const char* field : {"head_dim", "use_sliding_window", "sliding_window", "max_window_layers",
                            "num_key_value_heads"})
    json.erase(field);
  json["architectures"] = {"LlamaForCausalLM"};
  return json;
}

TEST(ReadConfig, GivesEachFamilyItsOwnDefaults) {
  Json json = llama();
  Config config = read(json);
  EXPECT_EQ(config.head_dim, 4096 / 32);
  EXPECT_EQ(config.num_key_value_heads, 32);
  EXPECT_FALSE(config.qkv_bias || config.o_bias || config.mlp_bias);
  EXPECT_EQ(size_of(config, Norm::kQNorm), 0);
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  config = read(json);
  EXPECT_TRUE(config.qkv_bias && config.o_bias && config.mlp_bias);
  json["hidden_size"] = 4095;
  EXPECT_THAT(problem(json, ErrorCode::kFormat), HasSubstr("head_dim"));

  json = with("architectures", {"Qwen2ForCausalLM"});
  json.erase("head_dim");
  config = read(json);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias || config.mlp_bias);

  json["architectures"] = {"MistralForCausalLM"};
  EXPECT_FALSE(read(json).qkv_bias);
  json["attention_bias"] = true;
  EXPECT_THAT(problem(json, ErrorCode::kUnsupported), HasSubstr("biases"));

  // Biases of o have a field of their own, and those of q, k and v are there unless it is said.
  json["architectures"] = {"SeedOssForCausalLM"};
  json.erase("attention_bias");
  config = read(json);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias);
  json["attention_bias"] = false;
  json["attention_out_bias"] = true;
  config = read(json);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_TRUE(config.o_bias);
}

TEST(ReadConfig, KnowsWhereASlidingWindowBinds) {
  const auto window = [](const char* architecture, const Json& changes) {
    Json json = qwen3_8b();
    json["architectures"] = {architecture};
    json.update(changes);
    return read(json).sliding_window;
  };
  const Json used = {{"use_sliding_window", true}, {"sliding_window", 100}};
  EXPECT_EQ(window("Qwen3ForCausalLM", {{"sliding_window", 100}}), 0);
  EXPECT_EQ(window("Qwen3ForCausalLM", used), 0);  // max_window_layers is 36: none binds
  Json early = used;
  early["max_window_layers"] = 20;
  EXPECT_EQ(window("Qwen2ForCausalLM", early), 100);
  Json types = used;
  types["layer_types"] = std::vector<std::string>(36, "full_attention");
  EXPECT_EQ(window("Qwen3ForCausalLM", types), 0);
  types["layer_types"][35] = "sliding_attention";
  EXPECT_EQ(window("Qwen3ForCausalLM", types), 100);
  EXPECT_EQ(window("MistralForCausalLM", {{"sliding_window", 100}}), 100);
  EXPECT_EQ(window("MistralForCausalLM", {{"sliding_window", nullptr}}), 0);
  EXPECT_EQ(window("LlamaForCausalLM", {{"sliding_window", 100}}), 0);
}

TEST(ReadConfig, ReadsRopeScalingInBothSpellings) {
  using Type = RopeScaling::Type;
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  Json five = qwen3_8b();
  five.erase("rope_theta");
  five.erase("rope_scaling");
  five["rope_parameters"] = llama3;
  five["rope_parameters"]["rope_theta"] = 1e6;
  for (const Json& json : {with("rope_scaling", llama3), five}) {
    const RopeScaling scaling = read(json).rope_scaling;
    EXPECT_EQ(scaling.type, Type::kLlama3);
    EXPECT_EQ(scaling.factor, 8);
    EXPECT_EQ(scaling.high_freq_factor, 4);
    EXPECT_EQ(scaling.original_max_position_embeddings, 8192);
  }
  const RopeScaling yarn =
      read(with("rope_scaling",
                {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 10240}}))
          .rope_scaling;
  EXPECT_EQ(yarn.type, Type::kYarn);
  EXPECT_EQ(yarn.beta_fast, 32);
  EXPECT_DOUBLE_EQ(yarn.attention_factor, 0.1 * std::log(4.0) + 1);
  // The factor follows from the lengths where it is left out: 40960 / 10240.
  EXPECT_EQ(read(with("rope_scaling",
                      {{"rope_type", "yarn"}, {"original_max_position_embeddings", 10240}}))
                .rope_scaling.factor,
            4);
  EXPECT_EQ(read(with("rope_scaling", {{"type", "linear"}, {"factor", 2.0}})).rope_scaling.type,
            Type::kLinear);
}

// config.json of models as they were published: what laos computes with, of the fields there.
struct Published {
  const char* model;
  const char* json;
  int64_t head_dim, num_key_value_heads, sliding_window;
  RopeScaling::Type rope;
  bool qkv_bias;
};
const Published kPublished[] = {
    {"Llama-2-7b", R"({"architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
      "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
      "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
      "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
      "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
      "tie_word_embeddings": false, "torch_dtype": "float16", "use_cache": true,
      "vocab_size": 32000})",
     128, 32, 0, RopeScaling::Type::kDefault, false},
    {"Meta-Llama-3-8B", R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
      "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001,
      "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
      "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 32,
      "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
      "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256})",
     128, 8, 0, RopeScaling::Type::kDefault, false},
    {"Llama-3.1-8B-Instruct", R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
      "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
      "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
      "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32,
      "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
      "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
      "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 128256})",
     128, 8, 0, RopeScaling::Type::kLlama3, false},
    {"Llama-3.2-1B", R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
      "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
      "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false,
      "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
      "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0,
      "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
      "rope_theta": 500000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
      "vocab_size": 128256})",
     64, 8, 0, RopeScaling::Type::kLlama3, false},
    {"SmolLM2-135M-Instruct", R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false,
      "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
      "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192,
      "mlp_bias": false, "num_attention_heads": 9, "num_hidden_layers": 30,
      "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
      "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
      "tie_word_embeddings": true, "torch_dtype": "bfloat16",
      "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "vocab_size": 49152})",
     64, 3, 0, RopeScaling::Type::kDefault, false},
    {"Yi-1.5-9B", R"({"architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
      "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
      "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 48,
      "num_key_value_heads": 4, "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": null,
      "rope_theta": 5000000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 64000})",
     128, 4, 0, RopeScaling::Type::kDefault, false},
    {"Mistral-7B-v0.1", R"({"architectures": ["MistralForCausalLM"], "bos_token_id": 1,
      "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
      "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
      "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
      "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 32000})",
     128, 8, 4096, RopeScaling::Type::kDefault, false},
    {"Mistral-Nemo-Instruct-2407", R"({"architectures": ["MistralForCausalLM"],
      "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128,
      "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 14336,
      "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 40,
      "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
      "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "vocab_size": 131072})",
     128, 8, 0, RopeScaling::Type::kDefault, false},
    {"Qwen2-7B", R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
      "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584,
      "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28,
      "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
      "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false,
      "vocab_size": 152064})",
     128, 4, 0, RopeScaling::Type::kDefault, true},
    {"Qwen2.5-7B-Instruct for long texts", R"({"architectures": ["Qwen2ForCausalLM"],
      "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584,
      "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
      "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
      "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false,
      "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768,
      "type": "yarn"}, "vocab_size": 152064})",
     128, 4, 0, RopeScaling::Type::kYarn, true},
    {"QwQ-32B", R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
      "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 5120,
      "intermediate_size": 27648, "max_position_embeddings": 40960, "max_window_layers": 64,
      "num_attention_heads": 40, "num_hidden_layers": 64, "num_key_value_heads": 8,
      "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": 32768,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false,
      "vocab_size": 152064})",
     128, 8, 0, RopeScaling::Type::kDefault, true},
    {"DeepSeek-R1-Distill-Qwen-1.5B", R"({"architectures": ["Qwen2ForCausalLM"],
      "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 1536,
      "intermediate_size": 8960, "max_position_embeddings": 131072, "max_window_layers": 21,
      "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2,
      "rms_norm_eps": 1e-06, "rope_theta": 10000, "sliding_window": 4096,
      "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_mrope": false,
      "use_sliding_window": false, "vocab_size": 151936})",
     128, 2, 0, RopeScaling::Type::kDefault, true},
};

TEST(ReadConfig, TakesConfigurationsAsModelsArePublishedWithThem) {
  for (const Published& published : kPublished) {
    const Config config = read(Json::parse(published.json));
    EXPECT_EQ(config.head_dim, published.head_dim) << published.model;
    EXPECT_EQ(config.num_key_value_heads, published.num_key_value_heads) << published.model;
    EXPECT_EQ(config.sliding_window, published.sliding_window) << published.model;
    EXPECT_EQ(config.rope_scaling.type, published.rope) << published.model;
    EXPECT_EQ(config.qkv_bias, published.qkv_bias) << published.model;
    EXPECT_FALSE(config.o_bias || config.mlp_bias) << published.model;
    EXPECT_GT(config.eos_token_id, 0) << published.model;
  }
}

TEST(ReadConfig, ReadsAFamilyThatIsOneMoreRowOfTheTable) {
  Family toy = families().front();
  toy.architecture = "ToyForCausalLM";
  toy.names.layers = "transformer.h";
  toy.names.linears[Linear::kUpProj] = "ffn.widen";
  toy.qk_norm = false;
  const test::TemporaryDirectory dir;
  std::ofstream(dir / "config.json") << with("architectures", {"ToyForCausalLM"}).dump();
  const Config config = read_config(dir.path(), {&toy, 1});
  EXPECT_EQ(name_of(config, 3, Linear::kUpProj), "transformer.h.3.ffn.widen");
  const std::vector<WeightModule> modules = weight_modules(config);
  EXPECT_EQ(modules.size(), 36u * 9 + 3);
  EXPECT_TRUE(std::any_of(modules.begin(), modules.end(), [](const WeightModule& module) {
    return module.name == "transformer.h.35.ffn.widen" && module.shape == Shape{12288, 4096};
  }));
  EXPECT_THROW(read_config(dir.path()), Error);
}

TEST(ReadConfig, AcceptsVariantsThatAreSwitchedOff) {
  EXPECT_NO_THROW(read(with("rope_scaling", {{"rope_type", "default"}})));
  EXPECT_NO_THROW(read(with("sliding_window", 4096)));  // counts only with use_sliding_window
}

TEST(ReadConfig, RefusesMissingAndSenselessSizes) {
  for (const char* field : {"hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads", "num_key_value_heads", "vocab_size"}) {
    EXPECT_THAT(problem(with(field, nullptr), ErrorCode::kFormat),
                HasSubstr(std::string(field) + ": is missing"));
    for (const Json& value :
         {Json(0), Json(-1), Json(int64_t{1} << 40), Json(std::numeric_limits<uint64_t>::max()),
          Json(1.5), Json("4096"), Json(true), Json::array({4096}), Json(1e300)})
      EXPECT_THAT(problem(with(field, value), ErrorCode::kFormat), HasSubstr(field)) << value;
  }
}

TEST(ReadConfig, RefusesWrongTypesAndValues) {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"rms_norm_eps", "x"},
      {"rms_norm_eps", 0.0},
      {"rms_norm_eps", -1e-6},
      {"rope_theta", 0},
      {"rope_theta", "1e6"},
      {"tie_word_embeddings", 1},
      {"torch_dtype", 16},
      {"torch_dtype", nullptr},
      {"layer_types", "full_attention"},
      {"use_sliding_window", "yes"},
      {"rope_scaling", "yarn"},
      {"rope_scaling", {{"factor", 4.0}}},
      {"rope_scaling", {{"rope_type", "linear"}}},
      {"rope_scaling", {{"rope_type", "linear"}, {"factor", "4"}}},
      {"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}},
      {"rope_scaling",
       {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}, {"truncate", 1}}},
      {"rope_scaling",
       {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", -1}}},
      {"head_dim", 127},
      {"num_key_value_heads", 5},
      {"attention_bias", "none"},
      {"layer_types", {"full_attention"}},
  };
  for (const auto& [field, value] : cases)
    EXPECT_THAT(problem(with(field, value), ErrorCode::kFormat), HasSubstr(field))
        << field << " " << value;
}

TEST(ReadConfig, RefusesOldAndNewSpellingsThatDisagree) {
  EXPECT_THAT(problem(with("dtype", "float32"), ErrorCode::kFormat), HasSubstr("differs"));
  EXPECT_NO_THROW(read(with("dtype", "bfloat16")));
  EXPECT_THAT(problem(with("rope_parameters", {{"rope_theta", 5.0}, {"rope_type", "default"}}),
                      ErrorCode::kFormat),
              HasSubstr("differs"));
}

TEST(ReadConfig, ListsAllProblemsOfAKindAtOnce) {
  Json json = with("hidden_size", "x");
  json["vocab_size"] = -3;
  json.erase("intermediate_size");
  EXPECT_THAT(problem(json, ErrorCode::kFormat),
              AllOf(HasSubstr("3 problems"), HasSubstr("hidden_size"), HasSubstr("vocab_size"),
                    HasSubstr("intermediate_size")));
  json["hidden_act"] = "gelu";
  json["torch_dtype"] = "int8";
  EXPECT_THAT(problem(json, ErrorCode::kUnsupported), HasSubstr("2 problems"));
}

TEST(ReadConfig, RefusesMalformedFiles) {
  for (const std::string& text : std::vector<std::string>{
           "", "{", "[]", "null", "3", "{\"a\":\"\xff\"}", "{\"hidden_size\": NaN}"})
    EXPECT_NE(problem_of_text(text, ErrorCode::kFormat), "") << text;
  EXPECT_NE(problem_of_text(std::string(200'000, '['), ErrorCode::kFormat), "");
  EXPECT_NE(problem_of_text("{\"a\":" + std::string(200'000, '['), ErrorCode::kFormat), "");
  EXPECT_NE(problem_of_text(std::string(2'000'000, ' ') + "{}", ErrorCode::kIo), "");
}

TEST(ReadConfig, RefusesAKeyThatStandsTwice) {
  std::string text = qwen3_8b().dump();
  text.insert(1, R"("hidden_size":8,)");
  EXPECT_THAT(problem_of_text(text, ErrorCode::kFormat), HasSubstr("\"hidden_size\" stands twice"));
}

TEST(ReadConfig, ReportsAMissingDirectoryAsOneThatIsNotDownloaded) {
  const test::TemporaryDirectory dir;
  try {
    read_config(dir / "Qwen/Qwen3-8B");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(), HasSubstr("downloads nothing"));
  }
}

TEST(ReadConfig, SaysWhichDirectoryIsMeant) {
  const test::TemporaryDirectory dir;
  std::filesystem::create_directories(dir / "models--Qwen--Qwen3-8B/snapshots/abc");
  std::ofstream(dir / "model.safetensors") << "";
  for (const auto& [path, said] :
       {std::pair{dir / "models--Qwen--Qwen3-8B", "snapshots/abc"},
        std::pair{dir / "model.safetensors", "give the directory that it lies in"},
        std::pair{std::filesystem::path("~/Qwen3-8B"), "a shell expands ~ only"}}) {
    try {
      read_config(path);
      ADD_FAILURE() << "nothing was thrown: " << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kIo);
      EXPECT_THAT(error.what(), HasSubstr(said));
    }
  }
}

TEST(ReadConfig, ReportsAnAdapter) {
  const test::TemporaryDirectory dir;
  std::ofstream(dir / "adapter_config.json") << "{}";
  try {
    read_config(dir.path());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_THAT(error.what(), HasSubstr("merge it into its base model"));
  }
}

TEST(ReadConfig, ReportsAGitLfsPointer) {
  const test::TemporaryDirectory dir;
  std::ofstream(dir / "config.json") << "version https://git-lfs.github.com/spec/v1\n";
  try {
    read_config(dir.path());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("git lfs pull"));
  }
}

TEST(ReadConfig, ReportsAMissingFile) {
  const test::TemporaryDirectory dir;
  try {
    read_config(dir.path());
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_THAT(error.what(), HasSubstr("config.json"));
  }
}

TEST(ReadConfig, ReadsSyntheticConfigsOfBothSpellings) {
  for (const bool transformers5 : {false, true}) {
    const test::TemporaryDirectory dir;
    const Config expected = test::qwen3_config("tiny", 3, 300);
    test::write_synthetic({.config = expected, .transformers5 = transformers5}, dir.path());
    const Config config = read_config(dir.path());
    EXPECT_EQ(config.hidden_size, expected.hidden_size);
    EXPECT_EQ(config.num_hidden_layers, 3);
    EXPECT_EQ(config.vocab_size, 300);
    EXPECT_EQ(config.rope_theta, 1e6);
    EXPECT_EQ(config.eos_token_id, 256);
  }
}

}  // namespace
}  // namespace laos::hf
