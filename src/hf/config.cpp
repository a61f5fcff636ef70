#include "hf/config.h"

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "hf/json_file.h"
#include "io/file.h"
#include "io/own_file.h"

namespace laos::hf {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::string_view, 1> kArchitectures = {"Qwen3ForCausalLM"};

struct DTypeName {
  std::string_view name;
  DType dtype;
};
constexpr std::array kDTypeNames = {DTypeName{"bfloat16", DType::kBF16},
                                    DTypeName{"float16", DType::kF16},
                                    DTypeName{"float32", DType::kF32}};

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
  Reader(const Json& json, std::string file) : json_(json), file_(std::move(file)) {}

  Config read() {
    Config config;
    config.architecture = architecture();
    config.hidden_size = size("hidden_size", int64_t{1} << 20);
    config.intermediate_size = size("intermediate_size", int64_t{1} << 22);
    config.num_hidden_layers = size("num_hidden_layers", 10'000);
    config.num_attention_heads = size("num_attention_heads", 65'536);
    config.num_key_value_heads = size("num_key_value_heads", 65'536);
    config.head_dim = size("head_dim", 65'536, 128);
    config.vocab_size = size("vocab_size", int64_t{1} << 24);
    config.max_position_embeddings = size("max_position_embeddings", int64_t{1} << 30, 32'768);
    config.rms_norm_eps = real(json_, "rms_norm_eps", "rms_norm_eps", 0.0, 1.0).value_or(1e-6);
    config.rope_theta = rope_theta();
    config.tie_word_embeddings = boolean("tie_word_embeddings", false);
    config.dtype = dtype();
    config.eos_token_id = eos_token_id();

    if (config.num_key_value_heads > 0 &&
        config.num_attention_heads % config.num_key_value_heads != 0)
      bad("num_attention_heads", std::to_string(config.num_attention_heads) +
                                     " is not a multiple of num_key_value_heads " +
                                     std::to_string(config.num_key_value_heads));
    if (config.head_dim % 2 != 0)
      bad("head_dim", std::to_string(config.head_dim) + " is odd; rotary embeddings need pairs");
    check_layer_types(config.num_hidden_layers);
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

  std::string architecture() {
    const Json* list = find(json_, "architectures");
    if (list == nullptr || !list->is_array() || list->size() != 1 || !list->front().is_string()) {
      bad("architectures", list == nullptr ? "is missing" : "must be a list of one string");
      malformed_.throw_if_any(ErrorCode::kFormat);  // nothing else can be judged
      return {};
    }
    auto name = list->front().get<std::string>();
    for (const std::string_view known : kArchitectures)
      if (name == known) return name;
    refuse("architectures", "the architecture " + shown(list->front()) + " is not one laos knows",
           "use a checkpoint of " + joined(kArchitectures, [](std::string_view a) { return a; }));
    unsupported_.throw_if_any(ErrorCode::kUnsupported);
    return {};
  }

  // An integer from 1 to `max`. `fallback` 0: the field is required. 1 in place of a bad value, so
  // that the checks between fields can go on.
  int64_t size(const std::string& field, int64_t max, int64_t fallback = 0) {
    const Json* value = find(json_, field);
    if (value == nullptr) {
      if (fallback != 0) return fallback;
      bad(field, "is missing");
    } else if (!value->is_number_integer()) {
      bad(field, "must be an integer, here is " + std::string(value->type_name()));
    } else if (value->is_number_unsigned() ? value->get<uint64_t>() < 1 ||
                                                 value->get<uint64_t>() > static_cast<uint64_t>(max)
                                           : true) {
      bad(field, shown(*value) + " is not between 1 and " + std::to_string(max));
    } else {
      return value->get<int64_t>();
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

  // transformers 4: rope_theta and rope_scaling; 5: both in rope_parameters.
  double rope_theta() {
    constexpr double kMaxTheta = 1e15;
    std::optional<double> theta = real(json_, "rope_theta", "rope_theta", 0.0, kMaxTheta);
    for (const std::string field : {"rope_scaling", "rope_parameters"}) {
      const Json* rope = find(json_, field);
      if (rope == nullptr) continue;
      if (!rope->is_object()) {
        bad(field, "must be an object, here is " + std::string(rope->type_name()));
        continue;
      }
      const Json* type = find(*rope, "rope_type");
      if (type == nullptr) type = find(*rope, "type");
      const bool is_scaled =
          type == nullptr ? field == "rope_scaling" && !rope->empty() : *type != Json("default");
      if (is_scaled)
        refuse(
            field,
            "rope scaling (" + (type == nullptr ? field : shown(*type)) + ") is not supported",
            "set " + field + " to its default; positions up to the original length stay the same");
      if (const Json* partial = find(*rope, "partial_rotary_factor");
          partial != nullptr && *partial != Json(1.0))
        refuse(field, "partial_rotary_factor " + shown(*partial) + " is not supported", "");
      for (const auto& [key, value] : rope->items())
        if (value.is_object())
          refuse(field, "rope parameters per layer type are not supported", "");
      const auto inner = real(*rope, "rope_theta", field + ".rope_theta", 0.0, kMaxTheta);
      if (inner && theta && *inner != *theta) bad(field + ".rope_theta", "differs from rope_theta");
      if (inner) theta = inner;
    }
    return theta.value_or(10000.0);
  }

  // torch_dtype (transformers 4) or dtype (5).
  DType dtype() {
    std::optional<DType> found;
    for (const std::string field : {"torch_dtype", "dtype"}) {
      const Json* value = find(json_, field);
      if (value == nullptr) continue;
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
    if (!found) bad("torch_dtype", "is missing");
    return found.value_or(DType::kBF16);
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

  void check_layer_types(int64_t num_hidden_layers) {
    const Json* types = find(json_, "layer_types");
    if (types == nullptr) return;
    if (!types->is_array() || static_cast<int64_t>(types->size()) != num_hidden_layers) {
      bad("layer_types", "must be a list of num_hidden_layers strings");
      return;
    }
    for (const Json& type : *types) {
      if (type == Json("full_attention")) continue;
      refuse("layer_types", "layers of type " + shown(type) + " are not supported",
             "use a checkpoint whose layers are all \"full_attention\"");
      return;
    }
  }

  void refuse_variants() {
    if (boolean("use_sliding_window", false))
      refuse("use_sliding_window", "sliding-window attention is not supported",
             "use a checkpoint with use_sliding_window false");
    if (boolean("attention_bias", false))
      refuse("attention_bias", "biases in attention are not supported",
             "use a checkpoint with attention_bias false");
    if (const Json* act = find(json_, "hidden_act"); act != nullptr && *act != Json("silu"))
      refuse("hidden_act", "the activation " + shown(*act) + " is not supported",
             "use a checkpoint with \"silu\"");
    if (find(json_, "quantization_config") != nullptr)
      refuse("quantization_config", "the checkpoint is already quantized",
             "use the float checkpoint it was made from");
  }

  const Json& json_;
  std::string file_;
  Problems malformed_;
  Problems unsupported_;
};

}  // namespace

Config read_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";

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
  return Reader(json, path.string()).read();
}

}  // namespace laos::hf
