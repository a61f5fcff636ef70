#include "hf/synthetic.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "core/tensor.h"
#include "core/threads.h"
#include "hf/layer_spec.h"
#include "hf/model_tensors.h"
#include "io/file.h"
#include "io/large_json.h"
#include "io/safetensors.h"

namespace laos::hf {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kNumByteTokens = 256;
constexpr int64_t kEndOfText = 256;
constexpr int64_t kOutlierEvery = 61;  // one residual channel of so many is an outlier
constexpr float kOutlierFactor = 10.0f;

struct PublishedShape {
  int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
      num_key_value_heads, head_dim, vocab_size;
  bool tie_word_embeddings;
  // Of mixtures.
  int64_t num_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
};
const std::map<std::string, PublishedShape>& published_shapes() {
  static const std::map<std::string, PublishedShape> shapes = {
      {"tiny", {64, 128, 2, 4, 2, 32, 320, false}},
      {"tiny-moe", {64, 128, 2, 4, 2, 32, 320, false, 8, 2, 32}},
      {"0.6b", {1024, 3072, 28, 16, 8, 128, 151936, true}},
      {"8b", {4096, 12288, 36, 32, 8, 128, 151936, false}},
      {"14b", {5120, 17408, 40, 40, 8, 128, 151936, false}},
      {"32b", {5120, 25600, 64, 64, 8, 128, 151936, false}},
      {"30b-a3b", {2048, 6144, 48, 32, 4, 128, 151936, false, 128, 8, 768}},
      {"235b-a22b", {4096, 12288, 94, 64, 4, 128, 151936, false, 128, 8, 1536}},
  };
  return shapes;
}

// Vigna's SplitMix64 as a function of a counter: any element can be drawn by itself, on any thread.
uint64_t random_bits(uint64_t seed, uint64_t counter) noexcept {
  uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The sum of four uniform 16-bit numbers, centred, with deviation 1: nearly normal, up to 3.46
// deviations.
float random_normal(uint64_t seed, uint64_t counter) noexcept {
  const uint64_t bits = random_bits(seed, counter);
  const auto sum = static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                        (bits >> 32 & 0xffff) + (bits >> 48));
  constexpr float kDeviation = 37837.2f;  // 65536 / sqrt(3)
  return static_cast<float>(sum - 2 * 65535) / kDeviation;
}

float random_gain(uint64_t seed, uint64_t counter) noexcept {
  return 0.5f + static_cast<float>(random_bits(seed, counter) >> 40) * 0x1p-24f;
}

float outlier_factor(int64_t channel) noexcept {
  return channel % kOutlierEvery == kOutlierEvery / 2 ? kOutlierFactor : 1.0f;
}

// Elements [begin, end) of a weight.
void fill(const WeightModule& module, uint64_t seed, int64_t begin, int64_t end, float* target) {
  using Kind = WeightModule::Kind;
  const auto counter = [](int64_t i) { return static_cast<uint64_t>(i); };
  if (module.kind == Kind::kNorm) {
    for (int64_t i = begin; i < end; ++i) target[i - begin] = random_gain(seed, counter(i));
    return;
  }
  const int64_t cols = module.shape[1];
  const bool writes_residual = module.name.ends_with(short_name(Linear::kOProj)) ||
                               module.name.ends_with(short_name(Linear::kDownProj));
  for (int64_t i = begin; i < end; ++i) {
    float scale = 0.02f;
    if (writes_residual) scale *= outlier_factor(i / cols);
    if (module.kind == Kind::kEmbedding) scale *= outlier_factor(i % cols);
    target[i - begin] = scale * random_normal(seed, counter(i));
  }
}

void write_hollow(const std::vector<io::TensorSpec>& specs, const std::filesystem::path& file) {
  OrderedJson header = OrderedJson::object();
  int64_t end = 0;
  for (const io::TensorSpec& spec : specs) {
    const int64_t begin = end;
    end += spec.size_bytes();
    io::add_member(
        header, spec.name,
        {{"dtype", to_string(spec.dtype)}, {"shape", spec.shape}, {"data_offsets", {begin, end}}});
  }
  const std::string text = header.dump();
  std::string prefix(8, '\0');
  for (size_t i = 0; i < prefix.size(); ++i)
    prefix[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  io::write_text_atomically(file, prefix + text);
  std::filesystem::resize_file(file, prefix.size() + text.size() + static_cast<uintmax_t>(end));
}

void write_weights(const SyntheticModel& model, const std::filesystem::path& directory) {
  const DType dtype = model.config.dtype;
  std::vector<WeightModule> modules = weight_modules(model.config);
  if (model.config.tie_word_embeddings)
    std::erase_if(modules, [](const auto& m) { return m.kind == WeightModule::Kind::kHead; });
  std::vector<io::TensorSpec> specs;
  for (const WeightModule& module : modules)
    specs.push_back({.name = module.weight_name(), .dtype = dtype, .shape = module.shape});
  if (model.is_hollow) return write_hollow(specs, directory / "model.safetensors");
  io::ShardedWriter writer(directory, io::plan_shards(specs, "model", model.max_shard_bytes));

  constexpr int64_t kChunk = int64_t{1} << 24;  // elements in memory
  constexpr int64_t kGrain = int64_t{1} << 16;
  Buffer<std::byte> bytes(kChunk * size_of(dtype));
  uint64_t module_idx = 0;
  for (const WeightModule& module : modules) {
    const uint64_t seed = random_bits(model.seed, module_idx++);
    const int64_t count = num_elements(module.shape);
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      const int64_t chunk = std::min(kChunk, count - begin);
      parallel_for_ranges(chunk, kGrain, [&](int64_t from, int64_t to) {
        std::vector<float> values(static_cast<size_t>(to - from));
        fill(module, seed, begin + from, begin + to, values.data());
        from_f32(values.data(), to - from, dtype, bytes.data() + from * size_of(dtype));
      });
      writer.write_part(module.weight_name(), begin * size_of(dtype),
                        {bytes.data(), static_cast<size_t>(chunk * size_of(dtype))});
    }
  }
  writer.commit();
  if (model.max_shard_bytes > 0)
    io::write_text_atomically(directory / "model.safetensors.index.json", writer.index_json());
}

OrderedJson config_json(const SyntheticModel& model) {
  const Config& config = model.config;
  OrderedJson json;
  const bool is_mixture = config.num_experts > 0;
  json["architectures"] = {config.architecture};
  json["attention_bias"] = false;
  json["attention_dropout"] = 0.0;
  if (is_mixture) json["decoder_sparse_step"] = config.decoder_sparse_step;
  if (model.transformers5) json["dtype"] = dtype_name(config.dtype);
  json["eos_token_id"] = config.eos_token_id;
  json["head_dim"] = config.head_dim;
  json["hidden_act"] = "silu";
  json["hidden_size"] = config.hidden_size;
  json["initializer_range"] = 0.02;
  json["intermediate_size"] = config.intermediate_size;
  if (model.transformers5)
    json["layer_types"] =
        std::vector<std::string>(static_cast<size_t>(config.num_hidden_layers), "full_attention");
  json["max_position_embeddings"] = config.max_position_embeddings;
  json["max_window_layers"] = config.num_hidden_layers;
  if (is_mixture) {
    json["mlp_only_layers"] = config.mlp_only_layers;
    json["moe_intermediate_size"] = config.moe_intermediate_size;
    json["norm_topk_prob"] = config.norm_topk_prob;
    json["num_experts"] = config.num_experts;
    json["num_experts_per_tok"] = config.num_experts_per_tok;
  }
  json["model_type"] = is_mixture ? "qwen3_moe" : "qwen3";
  json["num_attention_heads"] = config.num_attention_heads;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["num_key_value_heads"] = config.num_key_value_heads;
  json["rms_norm_eps"] = config.rms_norm_eps;
  if (model.transformers5) {
    json["rope_parameters"] = {{"rope_theta", config.rope_theta}, {"rope_type", "default"}};
  } else {
    json["rope_scaling"] = nullptr;
    json["rope_theta"] = config.rope_theta;
  }
  json["sliding_window"] = nullptr;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  if (!model.transformers5) json["torch_dtype"] = dtype_name(config.dtype);
  json["transformers_version"] = model.transformers5 ? "5.0.0" : "4.51.0";
  json["use_cache"] = true;
  json["use_sliding_window"] = false;
  json["vocab_size"] = config.vocab_size;
  return json;
}

// GPT-2's table: bytes that print stand for themselves, the others for code points from 256.
std::vector<std::string> byte_tokens() {
  const auto utf8 = [](int code_point) {
    if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
    return std::string{static_cast<char>(0xc0 | code_point >> 6),
                       static_cast<char>(0x80 | (code_point & 0x3f))};
  };
  std::vector<std::string> printing, others;
  for (int byte = 0; byte < kNumByteTokens; ++byte) {
    const bool prints =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    if (prints)
      printing.push_back(utf8(byte));
    else
      others.push_back(utf8(256 + static_cast<int>(others.size())));
  }
  printing.insert(printing.end(), others.begin(), others.end());
  return printing;
}

OrderedJson tokenizer_json() {
  const OrderedJson byte_level = {{"type", "ByteLevel"},
                                  {"add_prefix_space", false},
                                  {"trim_offsets", false},
                                  {"use_regex", false}};
  OrderedJson json;
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = OrderedJson::array({OrderedJson{{"id", kEndOfText},
                                                         {"content", "<|endoftext|>"},
                                                         {"single_word", false},
                                                         {"lstrip", false},
                                                         {"rstrip", false},
                                                         {"normalized", false},
                                                         {"special", true}}});
  json["normalizer"] = {{"type", "NFC"}};
  const OrderedJson split = {
      {"type", "Split"},
      {"pattern",
       {{"Regex",
         "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
         "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", OrderedJson::array({split, byte_level})}};
  json["post_processor"] = byte_level;
  json["decoder"] = byte_level;
  OrderedJson vocab = OrderedJson::object();
  for (const std::string& token : byte_tokens()) vocab[token] = vocab.size();
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", false},
                   {"vocab", vocab},
                   {"merges", OrderedJson::array()}};
  return json;
}

OrderedJson tokenizer_config_json(const Config& config) {
  OrderedJson added;
  added[std::to_string(kEndOfText)] = {{"content", "<|endoftext|>"}, {"lstrip", false},
                                       {"normalized", false},        {"rstrip", false},
                                       {"single_word", false},       {"special", true}};
  return {{"add_bos_token", false},        {"add_prefix_space", false},
          {"added_tokens_decoder", added}, {"bos_token", nullptr},
          {"eos_token", "<|endoftext|>"},  {"model_max_length", config.max_position_embeddings},
          {"pad_token", "<|endoftext|>"},  {"tokenizer_class", "Qwen2Tokenizer"},
          {"unk_token", nullptr}};
}

}  // namespace

std::vector<std::string> qwen3_shapes() {
  std::vector<std::string> names;
  for (const auto& [name, shape] : published_shapes()) names.push_back(name);
  return names;
}

Config qwen3_config(const std::string& shape, int64_t num_layers, int64_t vocab_size) {
  const PublishedShape& published = published_shapes().at(shape);
  Config config;
  config.architecture = published.num_experts > 0 ? "Qwen3MoeForCausalLM" : "Qwen3ForCausalLM";
  config.hidden_size = published.hidden_size;
  config.intermediate_size = published.intermediate_size;
  config.num_hidden_layers = num_layers != 0 ? num_layers : published.num_hidden_layers;
  config.num_attention_heads = published.num_attention_heads;
  config.num_key_value_heads = published.num_key_value_heads;
  config.head_dim = published.head_dim;
  config.vocab_size = vocab_size != 0 ? vocab_size : published.vocab_size;
  config.max_position_embeddings = 40960;
  config.rope_theta = 1e6;
  config.tie_word_embeddings = published.tie_word_embeddings;
  config.eos_token_id = kEndOfText;
  config.num_experts = published.num_experts;
  config.num_experts_per_tok = published.num_experts_per_tok;
  config.moe_intermediate_size = published.moe_intermediate_size;
  config.norm_topk_prob = published.num_experts > 0;
  return config;
}

void write_synthetic(const SyntheticModel& model, const std::filesystem::path& directory) {
  LAOS_ASSERT(model.config.vocab_size > kEndOfText);
  std::filesystem::create_directories(directory);
  const auto write = [&](const std::string& name, const OrderedJson& json) {
    io::write_text_atomically(directory / name, json.dump(2));
  };
  write("config.json", config_json(model));
  write("generation_config.json",
        {{"bos_token_id", kEndOfText}, {"eos_token_id", kEndOfText}, {"pad_token_id", kEndOfText}});
  write("tokenizer.json", tokenizer_json());
  write("tokenizer_config.json", tokenizer_config_json(model.config));
  write_weights(model, directory);
}

}  // namespace laos::hf
