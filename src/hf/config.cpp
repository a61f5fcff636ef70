#include "hf/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "hf/ascendv1.h"
#include "hf/family.h"
#include "hf/json_file.h"
#include "io/file.h"
#include "io/own_file.h"
#include "io/safetensors.h"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

struct DTypeName {
  std::string_view name;
  DType dtype;
};
constexpr std::array kDTypeNames = {DTypeName{"bfloat16", DType::kBF16},
                                    DTypeName{"float16", DType::kF16},
                                    DTypeName{"float32", DType::kF32}};

struct RopeTypeName {
  std::string_view name;
  RopeScaling::Type type;
};
constexpr std::array kRopeTypeNames = {RopeTypeName{"default", RopeScaling::Type::kDefault},
                                       RopeTypeName{"linear", RopeScaling::Type::kLinear},
                                       RopeTypeName{"dynamic", RopeScaling::Type::kDynamic},
                                       RopeTypeName{"llama3", RopeScaling::Type::kLlama3},
                                       RopeTypeName{"yarn", RopeScaling::Type::kYarn}};

template <class List, class NameOf>
std::string joined(const List& list, NameOf&& name_of) {
  std::string text;
  for (const auto& entry : list) text += (text.empty() ? "" : ", ") + std::string(name_of(entry));
  return text;
}

// A value as a message shows it.
std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

// Reads fields of config.json and collects what is wrong with them.
class Reader {
 public:
  Reader(const Json& json, std::string file, std::span<const Family> known, bool may_be_quantized)
      : json_(json), file_(std::move(file)), known_(known), may_be_quantized_(may_be_quantized) {}

  Config read() {
    Config config;
    const Family& family = find_family();
    config.architecture = family.architecture;
    config.family = &family;
    config.hidden_size = size("hidden_size", int64_t{1} << 20);
    config.intermediate_size = size("intermediate_size", int64_t{1} << 22);
    config.num_hidden_layers = size("num_hidden_layers", 10'000);
    config.num_attention_heads = size("num_attention_heads", 65'536);
    config.num_key_value_heads =
        size("num_key_value_heads", 65'536,
             family.default_kv_heads_are_heads ? config.num_attention_heads : 0);
    config.head_dim = size("head_dim", 65'536, default_head_dim(family, config));
    config.vocab_size = size("vocab_size", int64_t{1} << 24);
    config.max_position_embeddings =
        size("max_position_embeddings", int64_t{1} << 30, family.default_max_position_embeddings);
    config.rms_norm_eps = real(json_, "rms_norm_eps", "rms_norm_eps", 0.0, 1.0).value_or(1e-6);
    rope(config);
    config.sliding_window = sliding_window(family, config.num_hidden_layers);
    const bool attention_bias = boolean("attention_bias", family.default_attention_bias);
    if (attention_bias && !family.attention_bias && !family.qkv_bias)
      refuse("attention_bias", "a " + config.architecture + " has no biases in attention",
             "use a checkpoint with attention_bias false");
    config.qkv_bias = family.qkv_bias || (family.attention_bias && attention_bias);
    config.o_bias = family.attention_bias && boolean(std::string(family.o_bias_key), false);
    config.mlp_bias = family.mlp_bias && boolean("mlp_bias", false);
    if (family.experts) mixture(family, config);
    config.tie_word_embeddings = boolean("tie_word_embeddings", false);
    config.dtype = dtype(family);
    config.eos_token_id = eos_token_id();

    if (config.num_key_value_heads > 0 &&
        config.num_attention_heads % config.num_key_value_heads != 0)
      bad("num_attention_heads", std::to_string(config.num_attention_heads) +
                                     " is not a multiple of num_key_value_heads " +
                                     std::to_string(config.num_key_value_heads));
    if (config.head_dim % 2 != 0)
      bad("head_dim", std::to_string(config.head_dim) + " is odd; rotary embeddings need pairs");
    refuse_variants();

    unsupported_.throw_if_any(ErrorCode::kUnsupported);
    malformed_.throw_if_any(ErrorCode::kFormat);
    return config;
  }

 private:
  std::string where(const std::string& field) const { return file_ + ": " + field; }
  void bad(const std::string& field, const std::string& what) {
    malformed_.add({.what = field + ": " + what,
                    .where = where(field),
                    .fix = "restore config.json from the model's source"});
  }
  void refuse(const std::string& field, const std::string& what, const std::string& fix) {
    unsupported_.add({.what = what, .where = where(field), .fix = fix});
  }

  // The field, or null when it is absent or JSON null: transformers writes both for "not set".
  static const Json* find(const Json& object, const std::string& field) {
    const auto found = object.find(field);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  const Family& find_family() {
    const Json* list = find(json_, "architectures");
    if (list == nullptr || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
      // Engines do not guess it either.
      const Json* type = find(json_, "model_type");
      const auto family = std::find_if(known_.begin(), known_.end(), [&](const Family& one) {
        return type != nullptr && type->is_string() && *type == std::string(one.model_type);
      });
      malformed_.add(
          {.what = std::string("architectures: ") +
                   (list == nullptr ? "is missing" : "must be a list of one string"),
           .where = where("architectures"),
           .fix = family == known_.end()
                      ? "restore config.json from the model's source"
                      : "engines need it: for this model_type write \"architectures\": [\"" +
                            std::string(family->architecture) + "\"]"});
      malformed_.throw_if_any(ErrorCode::kFormat);  // nothing else can be judged
    } else {
      const auto name = list->front().get<std::string>();
      for (const Family& family : known_)
        if (name == family.architecture) return family;
      refuse("architectures", "the architecture " + shown(list->front()) + " is not one laos knows",
             "use a checkpoint of one of: " +
                 joined(known_, [](const Family& f) { return f.architecture; }));
      unsupported_.throw_if_any(ErrorCode::kUnsupported);
    }
    return default_family();  // never reached: one of the two has thrown
  }

  int64_t default_head_dim(const Family& family, const Config& config) {
    if (family.default_head_dim != 0) return family.default_head_dim;
    if (find(json_, "head_dim") == nullptr && config.hidden_size % config.num_attention_heads != 0)
      bad("head_dim", "is missing, and hidden_size " + std::to_string(config.hidden_size) +
                          " is not a multiple of num_attention_heads " +
                          std::to_string(config.num_attention_heads));
    return std::max<int64_t>(1, config.hidden_size / config.num_attention_heads);
  }

  // An integer from 1 to `max`; nothing when absent or bad.
  std::optional<int64_t> integer(const Json& object, const std::string& field,
                                 const std::string& path, int64_t max) {
    const Json* value = find(object, field);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer()) {
      bad(path, "must be an integer, here is " + std::string(value->type_name()));
    } else if (!value->is_number_unsigned() || value->get<uint64_t>() < 1 ||
               value->get<uint64_t>() > static_cast<uint64_t>(max)) {
      bad(path, shown(*value) + " is not between 1 and " + std::to_string(max));
    } else {
      return value->get<int64_t>();
    }
    return std::nullopt;
  }

  // The same of a field of the file. `fallback` 0: the field is required. 1 in place of a bad
  // value, so that the checks between fields can go on.
  int64_t size(const std::string& field, int64_t max, int64_t fallback = 0) {
    if (const auto value = integer(json_, field, field, max)) return *value;
    if (find(json_, field) == nullptr) {
      if (fallback != 0) return fallback;
      bad(field, "is missing");
    }
    return field == "head_dim" ? 2 : 1;
  }

  // A number between `low` and `high`, both exclusive; nothing when absent or bad.
  std::optional<double> real(const Json& object, const std::string& field, const std::string& path,
                             double low, double high) {
    const Json* value = find(object, field);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) {
      bad(path, "must be a number, here is " + std::string(value->type_name()));
      return std::nullopt;
    }
    const auto number = value->get<double>();
    if (number > low && number < high) return number;
    bad(path, shown(*value) + " is not a sensible value");
    return std::nullopt;
  }

  bool boolean(const std::string& field, bool fallback) {
    const Json* value = find(json_, field);
    if (value == nullptr) return fallback;
    if (value->is_boolean()) return value->get<bool>();
    bad(field, "must be true or false, here is " + std::string(value->type_name()));
    return fallback;
  }

  void mixture(const Family& family, Config& config) {
    // transformers 5 writes the second for some of the families that 4 wrote the first for.
    const std::string field =
        find(json_, "num_experts") == nullptr && find(json_, "num_local_experts") != nullptr
            ? "num_local_experts"
            : "num_experts";
    config.num_experts = size(field, kMaxExperts - 1);
    config.num_experts_per_tok = size("num_experts_per_tok", kMaxExperts - 1);
    if (config.num_experts_per_tok > config.num_experts)
      bad("num_experts_per_tok", std::to_string(config.num_experts_per_tok) + " is more than " +
                                     field + " " + std::to_string(config.num_experts));
    constexpr int64_t kMaxExpertLinears = 1'000'000;
    if (3 * config.num_experts * config.num_hidden_layers > kMaxExpertLinears)
      bad(field, "experts of all layers would have more than " + std::to_string(kMaxExpertLinears) +
                     " linears");
    config.moe_intermediate_size = size("moe_intermediate_size", int64_t{1} << 22);
    if (family.shared_expert)
      config.shared_expert_intermediate_size =
          size("shared_expert_intermediate_size", int64_t{1} << 22);
    config.norm_topk_prob = boolean("norm_topk_prob", false);
    config.decoder_sparse_step = size("decoder_sparse_step", 10'000, 1);
    if (const Json* layers = find(json_, "mlp_only_layers"); layers != nullptr) {
      const auto is_layer = [&](const Json& layer) {
        return layer.is_number_unsigned() &&
               layer.get<uint64_t>() < static_cast<uint64_t>(config.num_hidden_layers);
      };
      if (layers->is_array() && std::all_of(layers->begin(), layers->end(), is_layer))
        for (const Json& layer : *layers) config.mlp_only_layers.push_back(layer.get<int64_t>());
      else
        bad("mlp_only_layers", "must be a list of numbers of layers");
    }
    if (!boolean("qkv_bias", config.qkv_bias) && config.qkv_bias)
      refuse("qkv_bias", "a " + config.architecture + " without biases in attention is not read",
             "use a checkpoint with qkv_bias true");
  }

  // transformers 4: rope_theta and rope_scaling; 5: both in rope_parameters.
  void rope(Config& config) {
    constexpr double kMaxTheta = 1e15;
    std::optional<double> theta = real(json_, "rope_theta", "rope_theta", 0.0, kMaxTheta);
    bool is_scaled = false;
    for (const std::string field : {"rope_scaling", "rope_parameters"}) {
      const Json* rope = find(json_, field);
      if (rope == nullptr) continue;
      if (!rope->is_object()) {
        bad(field, "must be an object, here is " + std::string(rope->type_name()));
        continue;
      }
      if (const Json* partial = find(*rope, "partial_rotary_factor");
          partial != nullptr && *partial != Json(1.0))
        refuse(field, "partial_rotary_factor " + shown(*partial) + " is not supported", "");
      bool is_by_layer = false;
      for (const auto& [key, value] : rope->items()) is_by_layer = is_by_layer || value.is_object();
      if (is_by_layer) {
        refuse(field, "rope parameters per layer type are not supported", "");
        continue;
      }
      const auto inner = real(*rope, "rope_theta", field + ".rope_theta", 0.0, kMaxTheta);
      if (inner && theta && *inner != *theta) bad(field + ".rope_theta", "differs from rope_theta");
      if (inner) theta = inner;
      const RopeScaling scaling = rope_scaling(*rope, field, config.max_position_embeddings);
      if (is_scaled && scaling != config.rope_scaling) bad(field, "differs from rope_scaling");
      config.rope_scaling = scaling;
      is_scaled = true;
    }
    config.rope_theta = theta.value_or(10000.0);
  }

  RopeScaling rope_scaling(const Json& rope, const std::string& field,
                           int64_t max_position_embeddings) {
    using Type = RopeScaling::Type;
    RopeScaling scaling;
    const Json* type = find(rope, "rope_type");
    if (type == nullptr) type = find(rope, "type");
    if (type == nullptr) {
      if (find(rope, "factor") != nullptr) bad(field + ".rope_type", "is missing");
      return scaling;
    }
    const auto* known =
        std::find_if(kRopeTypeNames.begin(), kRopeTypeNames.end(),
                     [&](const RopeTypeName& row) { return *type == Json(row.name); });
    if (known == kRopeTypeNames.end()) {
      refuse(field, "rope scaling " + shown(*type) + " is not supported",
             "kinds are " + joined(kRopeTypeNames, [](const RopeTypeName& r) { return r.name; }));
      return scaling;
    }
    scaling.type = known->type;
    if (scaling.type == Type::kDefault) return scaling;
    const auto number = [&](const std::string& key, double low, double high,
                            std::optional<double> fallback) {
      const auto value = real(rope, key, field + "." + key, low, high);
      if (!value && !fallback && find(rope, key) == nullptr) bad(field + "." + key, "is missing");
      return value.value_or(fallback.value_or(1.0));
    };
    constexpr double kMaxFactor = 1e6;
    // Beside the scaling or in it; the one beside it counts (Phi's spelling, which others copied).
    const std::string original = "original_max_position_embeddings";
    constexpr int64_t kMaxLength = int64_t{1} << 30;
    const auto inside = integer(rope, original, field + "." + original, kMaxLength),
               beside = integer(json_, original, original, kMaxLength);
    scaling.original_max_position_embeddings =
        beside.value_or(inside.value_or(max_position_embeddings));
    std::optional<double> implied;  // YaRN's factor may be left to the two lengths
    if (scaling.type == Type::kYarn &&
        scaling.original_max_position_embeddings < max_position_embeddings)
      implied = static_cast<double>(max_position_embeddings) /
                static_cast<double>(scaling.original_max_position_embeddings);
    scaling.factor = number("factor", 0.0, kMaxFactor, implied);
    if (scaling.type == Type::kLlama3) {
      scaling.low_freq_factor = number("low_freq_factor", 0.0, kMaxFactor, std::nullopt);
      scaling.high_freq_factor = number("high_freq_factor", 0.0, kMaxFactor, std::nullopt);
      if (scaling.high_freq_factor <= scaling.low_freq_factor)
        bad(field + ".high_freq_factor", "must be larger than low_freq_factor");
    }
    if (scaling.type == Type::kYarn) {
      scaling.beta_fast = number("beta_fast", 0.0, kMaxFactor, 32.0);
      scaling.beta_slow = number("beta_slow", 0.0, kMaxFactor, 1.0);
      if (const Json* truncate = find(rope, "truncate"); truncate != nullptr) {
        if (truncate->is_boolean())
          scaling.truncate = truncate->get<bool>();
        else
          bad(field + ".truncate", "must be true or false");
      }
      const auto growth = [&](double weight) {  // what attention gains at this factor
        return scaling.factor <= 1 ? 1.0 : 0.1 * weight * std::log(scaling.factor) + 1.0;
      };
      const double mscale = number("mscale", -kMaxFactor, kMaxFactor, 0.0),
                   mscale_all_dim = number("mscale_all_dim", -kMaxFactor, kMaxFactor, 0.0);
      const double implied_gain =
          mscale != 0 && mscale_all_dim != 0 ? growth(mscale) / growth(mscale_all_dim) : growth(1);
      scaling.attention_factor = number("attention_factor", 0.0, kMaxFactor, implied_gain);
    }
    return scaling;
  }

  // Tokens that some layer looks back at most; 0 when every layer sees all.
  int64_t sliding_window(const Family& family, int64_t num_hidden_layers) {
    bool binds = family.window != WindowKey::kNone;
    if (family.window == WindowKey::kUseSlidingWindow || family.window == WindowKey::kUseInAll)
      binds = boolean("use_sliding_window", false);
    bool any_layer = true;
    if (const Json* types = find(json_, "layer_types"); types != nullptr) {
      if (!types->is_array() || static_cast<int64_t>(types->size()) != num_hidden_layers) {
        bad("layer_types", "must be a list of num_hidden_layers strings");
        return 0;
      }
      any_layer = false;
      for (const Json& type : *types) {
        if (type == Json("full_attention")) continue;
        if (type == Json("sliding_attention") && family.window != WindowKey::kNone) {
          any_layer = true;
          continue;
        }
        refuse("layer_types", "layers of type " + shown(type) + " are not supported",
               "use a checkpoint whose layers are all \"full_attention\"");
        return 0;
      }
    } else if (family.window == WindowKey::kUseSlidingWindow) {
      any_layer = size("max_window_layers", int64_t{1} << 30, 28) < num_hidden_layers;
    }
    if (!binds || !any_layer) return 0;
    const auto window = json_.find("sliding_window");
    if (window == json_.end()) return family.default_sliding_window;
    return window->is_null() ? 0 : size("sliding_window", int64_t{1} << 30);
  }

  // The dtype of embed_tokens in the weights beside config.json, whatever prefix its name has.
  DType dtype_of_tensors(const Family& family) {
    const std::string_view module = family.names.embed_tokens;
    const std::string weight = std::string(module.substr(module.rfind('.') + 1)) + ".weight";
    for (const std::filesystem::path& path :
         top_level_safetensors(std::filesystem::path(file_).parent_path())) {
      const io::TensorFiles files = io::TensorFiles::open_files({path});
      for (const auto& [name, tensor] : files.tensors())
        if (name.ends_with(weight))
          for (const DTypeName& row : kDTypeNames)
            if (row.dtype == tensor.dtype) return row.dtype;
    }
    bad("torch_dtype", "is missing, and no float " + weight + " is here that tells it");
    return DType::kBF16;
  }

  // torch_dtype (transformers 4) or dtype (5); absent or "auto": that of the tensors.
  DType dtype(const Family& family) {
    std::optional<DType> found;
    for (const std::string field : {"torch_dtype", "dtype"}) {
      const Json* value = find(json_, field);
      if (value == nullptr || *value == "auto") continue;
      if (!value->is_string()) {
        bad(field, "must be a string, here is " + std::string(value->type_name()));
        return DType::kBF16;
      }
      const DTypeName* known = nullptr;
      for (const DTypeName& row : kDTypeNames)
        if (row.name == value->get_ref<const std::string&>()) known = &row;
      if (known == nullptr) {
        refuse(field, "the dtype " + shown(*value) + " is not supported",
               "convert the checkpoint to one of " +
                   joined(kDTypeNames, [](const DTypeName& d) { return d.name; }));
        return DType::kBF16;
      }
      if (found && *found != known->dtype) bad(field, "differs from torch_dtype");
      found = known->dtype;
    }
    return found ? *found : dtype_of_tensors(family);
  }

  int64_t eos_token_id() {
    const Json* value = find(json_, "eos_token_id");
    if (value == nullptr) return -1;
    if (value->is_array()) {
      if (value->empty()) return -1;
      value = &value->front();
    }
    if (value->is_number_unsigned() &&
        value->get<uint64_t>() <= std::numeric_limits<int32_t>::max())
      return value->get<int64_t>();
    bad("eos_token_id", "must be a token id or a list of them");
    return -1;
  }

  void refuse_variants() {
    if (const Json* act = find(json_, "hidden_act"); act != nullptr && *act != Json("silu"))
      refuse("hidden_act", "the activation " + shown(*act) + " is not supported",
             "use a checkpoint with \"silu\"");
    if (!may_be_quantized_ && find(json_, "quantization_config") != nullptr)
      refuse("quantization_config", "the checkpoint is already quantized",
             "use the float checkpoint it was made from");
  }

  const Json& json_;
  std::string file_;
  std::span<const Family> known_;
  bool may_be_quantized_;
  Problems malformed_;
  Problems unsupported_;
};

}  // namespace

std::string_view dtype_name(DType dtype) noexcept {
  for (const DTypeName& row : kDTypeNames)
    if (row.dtype == dtype) return row.name;
  return "";
}

namespace {

Config read_config_file(const std::filesystem::path& directory, std::span<const Family> known,
                        bool may_be_quantized) {
  const std::filesystem::path path = directory / "config.json";
  std::error_code ignored;  // what cannot be looked at is told of where it is read
  if (!std::filesystem::exists(directory, ignored))
    throw Error(
        ErrorCode::kIo,
        {.what = "there is no such model directory",
         .where = directory.string(),
         .fix = directory.string().starts_with("~")
                    ? "write the path out: a shell expands ~ only where a word begins with it"
                    : "give the directory of a checkpoint; laos downloads nothing"});
  if (!std::filesystem::is_directory(directory, ignored))
    throw Error(ErrorCode::kIo, {.what = "a file is no model directory",
                                 .where = directory.string(),
                                 .fix = "give the directory that it lies in"});
  if (!std::filesystem::exists(path, ignored))
    for (const auto& entry : std::filesystem::directory_iterator(directory / "snapshots", ignored))
      throw Error(
          ErrorCode::kIo,
          {.what = "this is a model's folder in the Hugging Face cache, and no snapshot of it",
           .where = directory.string(),
           .fix = "give " + entry.path().string()});
  if (!std::filesystem::exists(path, ignored) &&
      std::filesystem::exists(directory / "adapter_config.json", ignored))
    throw Error(ErrorCode::kUnsupported,
                {.what = "this is an adapter and no model",
                 .where = directory.string(),
                 .fix = "merge it into its base model (merge_and_unload of PEFT) and save that"});
  io::require_own_file(path);
  // A key that stands twice: readers disagree on which counts. `outer` is the key of the top object
  // that keys of depth 2 belong to.
  std::string outer;
  std::set<std::pair<std::string, std::string>> seen;
  const auto refuse_twice = [&](int depth, const std::string& key) {
    if (depth > 2) return;
    const std::string parent = depth == 1 ? "" : outer;
    if (depth == 1) outer = key;
    if (!seen.emplace(parent, key).second)
      throw Error(ErrorCode::kFormat, {.what = "the key " + shown(key) + " stands twice",
                                       .where = path.string(),
                                       .fix = "remove one of them"});
  };
  const Json json =
      parse_json<Json>(io::read_text(path, kMaxConfigBytes), path, kMaxConfigValues, refuse_twice);
  if (!json.is_object())
    throw Error(ErrorCode::kFormat, {.what = "the file is not a JSON object",
                                     .where = path.string(),
                                     .fix = "restore config.json from the model's source"});
  return Reader(json, path.string(), known, may_be_quantized).read();
}

}  // namespace

Config read_config(const std::filesystem::path& directory, std::span<const Family> known) {
  return read_config_file(directory, known, false);
}

Config read_config_of_quantized(const std::filesystem::path& directory) {
  return read_config_file(directory, families(), true);
}

}  // namespace laos::hf
