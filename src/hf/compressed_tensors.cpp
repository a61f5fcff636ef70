#include "hf/compressed_tensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "hf/ascendv1.h"
#include "hf/model_tensors.h"
#include "hf/name_pattern.h"
#include "hf/quantization_config.h"
#include "hf/tensor_check.h"

namespace laos::hf {
namespace {

namespace fs = std::filesystem;
using CtJson = nlohmann::ordered_json;

constexpr int kWordBits = 32;
constexpr size_t kMaxNamePatterns = 20'000;

struct Group {
  std::vector<NamePattern> targets;
  CompressedLinear linear;
};

// quantization_config of a config.json.
class ConfigReader {
 public:
  explicit ConfigReader(const fs::path& directory) : path_((directory / "config.json").string()) {
    const CtJson json = read_quantization_config(directory);
    for (const char* key : {"kv_cache_scheme", "sparsity_config", "transform_config"})
      if (const auto value = json.find(key);
          value != json.end() && !value->is_null() && !(value->is_object() && value->empty()))
        refuse(key, std::string("a ") + key + " is not computed");
    const std::string format = text(json, "", "format");
    if (const auto ignore = json.find("ignore"); ignore != json.end() && !ignore->is_null())
      ignore_ = patterns(*ignore, "ignore");
    const auto groups = json.find("config_groups");
    if (groups == json.end() || !groups->is_object()) {
      refuse("config_groups", "must be a mapping");
    } else {
      for (const auto& [name, group] : groups->items())
        read_group("config_groups." + name, group, format);
    }
    problems_.throw_if_any(ErrorCode::kUnsupported);
  }

  // Null for a linear that stays float. A name goes before an expression before the class.
  const CompressedLinear* find(const std::string& name) const {
    const auto any = [&](const std::vector<NamePattern>& list) {
      return std::any_of(list.begin(), list.end(),
                         [&](const NamePattern& p) { return p.is_class() || p.matches(name); });
    };
    if (any(ignore_)) return nullptr;
    const CompressedLinear* of_class = nullptr;
    for (const Group& group : groups_)
      for (const NamePattern& target : group.targets) {
        if (target.matches(name)) return &group.linear;
        if (target.is_class() && of_class == nullptr) of_class = &group.linear;
      }
    return of_class;
  }

 private:
  std::string at(const std::string& key) const {
    return path_ + ", " + kQuantizationConfig + "." + key;
  }
  void refuse(const std::string& key, std::string what) {
    problems_.add({std::move(what), at(key),
                   "laos reads symmetric int4 and int8 weights, per channel or in groups, beside "
                   "float, int8 and int4 inputs"});
  }
  // The text at `key`; "" when it is absent.
  std::string text(const CtJson& json, const std::string& where, const char* key) {
    const auto value = json.find(key);
    if (value == json.end() || value->is_null()) return "";
    if (value->is_string()) return value->get<std::string>();
    refuse(where + key, "must be text");
    return "";
  }
  int64_t integer(const CtJson& json, const char* key) const {
    const auto value = json.find(key);
    return value == json.end() || !value->is_number_integer() ? 0 : value->get<int64_t>();
  }
  bool is_true(const CtJson& json, const char* key, bool if_absent) const {
    const auto value = json.find(key);
    return value == json.end() || value->is_null() ? if_absent : *value == true;
  }

  std::vector<NamePattern> patterns(const CtJson& list, const std::string& key) {
    std::vector<NamePattern> result;
    num_patterns_ += list.size();
    if (!list.is_array() || num_patterns_ > kMaxNamePatterns) {
      refuse(key, "must be a list of names");
      return result;
    }
    for (const CtJson& item : list) {
      if (item.is_string())
        result.emplace_back(item.get<std::string>(), at(key));
      else
        refuse(key, "must be a list of names");
    }
    return result;
  }

  void read_group(const std::string& key, const CtJson& json, const std::string& format) {
    if (!json.is_object() || !json.contains("targets") || !json.contains("weights") ||
        !json["weights"].is_object())
      return refuse(key, "must be a mapping with `targets` and `weights`");
    Group group;
    group.targets = patterns(json["targets"], key + ".targets");
    const std::string own = text(json, key + ".", "format");
    const std::string& stored = own.empty() ? format : own;
    group.linear.is_packed = stored == "pack-quantized";
    if (!group.linear.is_packed && stored != "int-quantized" && stored != "naive-quantized")
      return refuse(key + ".format", "the format `" + stored + "` is not read");
    if (json.contains("output_activations") && !json["output_activations"].is_null())
      return refuse(key + ".output_activations", "quantized outputs are not computed");

    const CtJson& weights = json["weights"];
    const std::string strategy = text(weights, key + ".weights.", "strategy");
    const bool is_int = text(weights, key + ".weights.", "type") == "int" &&
                        is_true(weights, "symmetric", true) && !is_true(weights, "dynamic", false);
    if (!is_int || (strategy != "channel" && strategy != "group"))
      return refuse(key + ".weights", "weights of this kind are not computed");
    if (strategy == "group") {
      group.linear.group_size = integer(weights, "group_size");
      if (group.linear.group_size <= 0)
        return refuse(key + ".weights.group_size", "must be 1 or more");
    }
    if (const std::string order = text(weights, key + ".weights.", "actorder"); order == "group")
      return refuse(key + ".weights.actorder", "groups of reordered inputs are not computed");
    read_input(key, json, integer(weights, "num_bits"), std::move(group));
  }

  void read_input(const std::string& key, const CtJson& json, int64_t weight_bits, Group group) {
    auto activations = scheme::Activations::kFloat;
    int64_t act_bits = 16;
    const std::string where = key + ".input_activations";
    if (const auto input = json.find("input_activations");
        input != json.end() && !input->is_null()) {
      if (!input->is_object()) return refuse(where, "must be a mapping");
      const std::string strategy = text(*input, where + ".", "strategy");
      const bool is_dynamic = is_true(*input, "dynamic", false);
      group.linear.has_zero_point = !is_true(*input, "symmetric", true);
      act_bits = integer(*input, "num_bits");
      activations = is_dynamic ? scheme::Activations::kDynamic : scheme::Activations::kStatic;
      const bool fits = is_dynamic ? strategy == "token" && !group.linear.has_zero_point
                                   : strategy == "tensor" && group.linear.group_size == 0;
      if (text(*input, where + ".", "type") != "int" || !fits)
        return refuse(where, "inputs of this kind are not computed");
    }
    for (const scheme::Scheme& row : scheme::schemes())
      if (!row.transforms && row.weight_bits == weight_bits && row.act_bits == act_bits &&
          row.activations == activations && (group.linear.group_size == 0 || row.allows_groups))
        group.linear.scheme = &row;
    if (group.linear.scheme == nullptr || group.linear.scheme->is_float())
      return refuse(key, "int" + std::to_string(weight_bits) + " weights with inputs of " +
                             std::to_string(act_bits) + " bits are not computed");
    groups_.push_back(std::move(group));
  }

  std::string path_;
  size_t num_patterns_ = 0;
  std::vector<NamePattern> ignore_;
  std::vector<Group> groups_;
  Problems problems_;
};

int64_t num_words(int64_t in, int bits) { return (in * bits + kWordBits - 1) / kWordBits; }

void check_linear(TensorCheck& check, const WeightModule& module, const CompressedLinear& linear) {
  const int64_t out = module.shape[0], in = module.shape[1];
  const std::string& name = module.name;
  const int bits = linear.scheme->weight_bits;
  if (linear.group_size != 0 && in % linear.group_size != 0)
    return check.add("in_features " + std::to_string(in) + " is no multiple of the group size " +
                         std::to_string(linear.group_size),
                     name);
  if (linear.is_packed) {
    check.check(name + ".weight_packed", {DType::kI32}, {out, num_words(in, bits)});
    const TensorView* shape = check.check(name + ".weight_shape", {DType::kI64}, {2});
    int64_t stored[2] = {out, in};
    if (shape != nullptr) std::memcpy(stored, shape->data, sizeof stored);
    if (stored[0] != out || stored[1] != in)
      check.add("weight_shape is " + to_string(Shape{stored[0], stored[1]}) + ", must be " +
                    to_string(module.shape),
                name + ".weight_shape");
  } else {
    check.check(name + ".weight", {DType::kI8}, module.shape);
  }
  check.check(name + ".weight_scale", TensorCheck::floats(),
              {out, linear.group_size == 0 ? 1 : in / linear.group_size});
  if (linear.scheme->activations == scheme::Activations::kStatic) {
    check.check(name + ".input_scale", TensorCheck::floats(), {1});
    if (linear.has_zero_point) check.check(name + ".input_zero_point", {DType::kI8}, {1});
  }
  check.check_bias(module);
}

}  // namespace

Mat<int32_t> pack_words(const Mat<int8_t>& codes, int bits) {
  const int64_t in_a_word = kWordBits / bits;
  Mat<int32_t> words(codes.rows(), num_words(codes.cols(), bits));
  for (int64_t i = 0; i < words.rows(); ++i)
    for (int64_t w = 0; w < words.cols(); ++w) {
      uint32_t word = 0;
      const int64_t first = w * in_a_word, count = std::min(in_a_word, codes.cols() - first);
      for (int64_t k = 0; k < count; ++k)
        word |= static_cast<uint32_t>(codes(i, first + k) + (1 << (bits - 1))) << (k * bits);
      words(i, w) = static_cast<int32_t>(word);
    }
  return words;
}

Mat<int8_t> unpack_words(const std::byte* words, int64_t rows, int64_t cols, int bits) {
  const int64_t in_a_word = kWordBits / bits, row_words = num_words(cols, bits);
  Mat<int8_t> codes(rows, cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      uint32_t word;
      std::memcpy(&word, words + 4 * (i * row_words + j / in_a_word), sizeof word);
      const uint32_t code = (word >> (j % in_a_word * bits)) & ((1u << bits) - 1);
      codes(i, j) = static_cast<int8_t>(static_cast<int>(code) - (1 << (bits - 1)));
    }
  return codes;
}

CompressedTensorsCheckpoint CompressedTensorsCheckpoint::open(const fs::path& directory) {
  Config config = read_config_of_quantized(directory);
  const ConfigReader reader(directory);
  io::TensorFiles files = open_top_level_safetensors(directory);

  std::map<std::string, CompressedLinear> linears;
  TensorCheck check(config, files);
  for (const WeightModule& module : weight_modules(config)) {
    const bool is_linear = module.kind == WeightModule::Kind::kLinear;
    const bool is_head = module.kind == WeightModule::Kind::kHead;
    const CompressedLinear* linear = is_linear || is_head ? reader.find(module.name) : nullptr;
    if (linear == nullptr) {
      check.check_float(module);
      continue;
    }
    if (is_head)
      throw Error(ErrorCode::kUnsupported, {.what = "a quantized lm_head is not computed",
                                            .where = module.name,
                                            .fix = "put it into `ignore` and quantize again"});
    linears[module.name] = *linear;
    check_linear(check, module, *linear);
  }
  check.finish();
  return {std::move(config), std::move(files), std::move(linears)};
}

CompressedTensorsCheckpoint::CompressedTensorsCheckpoint(
    Config config, io::TensorFiles files, std::map<std::string, CompressedLinear> linears)
    : QuantizedCheckpoint(std::move(config), std::move(files)), linears_(std::move(linears)) {}

const std::string& CompressedTensorsCheckpoint::label(const std::string& module) const {
  static const std::map<std::string_view, std::string> labels = [] {
    std::map<std::string_view, std::string> all;
    for (const scheme::Scheme& row : scheme::schemes()) all[row.label] = std::string(row.label);
    return all;
  }();
  const auto found = linears_.find(module);
  return labels.at(found == linears_.end() ? scheme::kFloatLabel : found->second.scheme->label);
}

const TensorView& CompressedTensorsCheckpoint::weight(const std::string& module) const {
  return files_.at(owner(module) + ".weight");
}

MatView<const int8_t> CompressedTensorsCheckpoint::stored_codes(const std::string& module) const {
  if (linears_.at(module).is_packed) return {};
  const TensorView& view = weight(module);
  return {reinterpret_cast<const int8_t*>(view.data), view.shape[0], view.shape[1], view.shape[1]};
}

Mat<int8_t> CompressedTensorsCheckpoint::codes(const std::string& module) const {
  const CompressedLinear& linear = linears_.at(module);
  if (linear.is_packed) {
    int64_t shape[2];
    std::memcpy(shape, files_.at(module + ".weight_shape").data, sizeof shape);
    return unpack_words(files_.at(module + ".weight_packed").data, shape[0], shape[1],
                        linear.scheme->weight_bits);
  }
  const MatView<const int8_t> stored = stored_codes(module);
  Mat<int8_t> codes(stored.rows, stored.cols);
  std::copy_n(stored.data, codes.size(), codes.data());
  return codes;
}

std::vector<float> CompressedTensorsCheckpoint::weight_scale(const std::string& module) const {
  const TensorView& view = files_.at(module + ".weight_scale");
  std::vector<float> values(static_cast<size_t>(num_elements(view.shape)));
  to_f32(view, values.data());
  return values;
}

StaticInput CompressedTensorsCheckpoint::static_input(const std::string& module) const {
  StaticInput input;
  to_f32(files_.at(module + ".input_scale"), &input.scale);
  if (linears_.at(module).has_zero_point)
    input.offset =
        static_cast<float>(static_cast<int8_t>(*files_.at(module + ".input_zero_point").data));
  const Mat<int8_t> stored = codes(module);
  input.deq_scale = weight_scale(module);
  for (float& scale : input.deq_scale) scale *= input.scale;
  for (int64_t i = 0; i < stored.rows(); ++i) {
    int32_t sum = 0;
    for (int64_t j = 0; j < stored.cols(); ++j) sum += stored(i, j);
    input.quant_bias.push_back(-static_cast<int32_t>(input.offset) * sum);
  }
  return input;
}

}  // namespace laos::hf
