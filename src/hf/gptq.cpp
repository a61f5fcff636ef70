#include "hf/gptq.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "hf/ascendv1.h"
#include "hf/compressed_tensors.h"
#include "hf/model_tensors.h"
#include "hf/quantization_config.h"
#include "hf/tensor_check.h"

namespace laos::hf {
namespace {

using GptqJson = nlohmann::ordered_json;

// What the section says of all linears.
struct GptqConfig {
  const scheme::Scheme* scheme = nullptr;
  int64_t group_size = 0;
  bool is_first_version = true;
};

const scheme::Scheme* weight_only_scheme(int64_t bits) {
  for (const scheme::Scheme& row : scheme::schemes())
    if (!row.is_float() && row.activations == scheme::Activations::kFloat &&
        row.weight_bits == bits)
      return &row;
  return nullptr;
}

GptqConfig read_gptq_config(const std::filesystem::path& directory) {
  const GptqJson json = read_quantization_config(directory);
  const std::string path = (directory / "config.json").string();
  Problems problems;
  const auto refuse = [&](const std::string& key, std::string what) {
    problems.add({std::move(what), path + ", " + kQuantizationConfig + "." + key,
                  "laos reads symmetric weights of 4 and 8 bits, one kind for all linears, with "
                  "inputs in their order"});
  };
  const auto at = [&](const char* key) {
    const auto found = json.find(key);
    return found == json.end() ? GptqJson() : *found;
  };
  GptqConfig config;
  if (at("bits").is_number_integer()) config.scheme = weight_only_scheme(at("bits").get<int64_t>());
  if (config.scheme == nullptr) refuse("bits", "weights of this width are not computed");
  if (at("group_size").is_number_integer()) config.group_size = at("group_size").get<int64_t>();
  if (config.group_size == -1)
    config.group_size = 0;
  else if (config.group_size <= 0)
    refuse("group_size", "must be 1 or more, or -1");
  if (const GptqJson sym = at("sym"); !sym.is_null() && sym != true)
    refuse("sym", "weights with zero points are not computed");
  if (at("desc_act") == true && config.group_size != 0)
    refuse("desc_act", "groups of reordered inputs are not computed");
  if (const GptqJson type = at("data_type"); !type.is_null() && type != "int")
    refuse("data_type", "weights of this kind are not computed");
  if (const GptqJson bits = at("act_bits"); bits.is_number_integer() && bits < 16)
    refuse("act_bits", "quantized inputs are not computed");
  if (at(kGptqHeadKey) == true) refuse(kGptqHeadKey, "a quantized lm_head is not computed");
  const bool is_auto_round = at("quant_method") == kAutoRound;
  const char* format_key = is_auto_round ? "packing_format" : "checkpoint_format";
  GptqJson format = at(format_key);
  if (format.is_null() && !is_auto_round) format = at("format");
  config.is_first_version =
      is_auto_round ? format == "auto_round:auto_gptq" : format.is_null() || format == "gptq";
  if (!config.is_first_version && format != (is_auto_round ? "auto_round:gptqmodel" : "gptq_v2"))
    refuse(format_key, "this way to store codes is not read");
  if (const GptqJson words = at("pack_dtype"); !words.is_null() && words != "int32")
    refuse("pack_dtype", "codes in other words than int32 are not read");
  // Rules for single linears: those that only leave some float say what the tensors say too.
  if (const GptqJson rules = at("dynamic"); rules.is_object())
    for (const auto& [pattern, rule] : rules.items())
      if (!pattern.starts_with("-:")) refuse("dynamic", "linears of several kinds are not read");
  if (const GptqJson rules = at("extra_config"); rules.is_object())
    for (const auto& [name, rule] : rules.items())
      if (!rule.is_object() || rule.value("bits", GptqJson()) != 16)
        refuse("extra_config", "linears of several kinds are not read");
  problems.throw_if_any(ErrorCode::kUnsupported);
  return config;
}

bool are_all(const TensorView& words, int32_t word) {
  for (int64_t i = 0; i < num_elements(words.shape); ++i)
    if (std::memcmp(words.data + 4 * i, &word, sizeof word) != 0) return false;
  return true;
}

// The group of each input.
bool are_in_order(const TensorView& groups, int64_t group_size) {
  for (int64_t i = 0; i < groups.shape[0]; ++i) {
    int32_t group;
    std::memcpy(&group, groups.data + 4 * i, sizeof group);
    if (group != i / group_size) return false;
  }
  return true;
}

void check_gptq_linear(TensorCheck& check, const io::TensorFiles& files, const WeightModule& module,
                       const GptqConfig& config) {
  const int64_t out = module.shape[0], in = module.shape[1];
  const std::string& name = module.name;
  const int64_t in_a_word = 32 / config.scheme->weight_bits;
  const int64_t group_size = config.group_size == 0 ? in : config.group_size;
  if (in % in_a_word != 0 || out % in_a_word != 0 || in % group_size != 0)
    return check.add(to_string(module.shape) + " does not go into words and groups of " +
                         std::to_string(group_size),
                     name);
  check.check(name + ".qweight", {DType::kI32}, {in / in_a_word, out});
  check.check(name + ".scales", TensorCheck::floats(), {in / group_size, out});
  const TensorView* zeros =
      check.check(name + ".qzeros", {DType::kI32}, {in / group_size, out / in_a_word});
  if (zeros != nullptr &&
      !are_all(*zeros, gptq_zeros(config.scheme->weight_bits, config.is_first_version)))
    check.add("zero points that are not in the middle of the codes", zeros->name);
  if (files.contains(name + ".g_idx")) {
    const TensorView* groups = check.check(name + ".g_idx", {DType::kI32}, {in});
    if (groups != nullptr && !are_in_order(*groups, group_size))
      check.add("groups of reordered inputs are not computed", groups->name);
  }
  check.check_bias(module);
}

}  // namespace

int32_t gptq_zeros(int bits, bool is_first_version) noexcept {
  const uint32_t zero = (1u << (bits - 1)) - (is_first_version ? 1 : 0);
  uint32_t word = 0;
  for (int shift = 0; shift < 32; shift += bits) word |= zero << shift;
  return static_cast<int32_t>(word);
}

GptqCheckpoint GptqCheckpoint::open(const std::filesystem::path& directory) {
  Config config = read_config_of_quantized(directory);
  const GptqConfig how = read_gptq_config(directory);
  io::TensorFiles files = open_top_level_safetensors(directory);
  std::set<std::string> linears;
  TensorCheck check(config, files);
  for (const WeightModule& module : weight_modules(config)) {
    if (module.kind != WeightModule::Kind::kLinear || !files.contains(module.name + ".qweight")) {
      check.check_float(module);
      continue;
    }
    linears.insert(module.name);
    check_gptq_linear(check, files, module, how);
  }
  check.finish();
  return {std::move(config), std::move(files), how.scheme, how.group_size, std::move(linears)};
}

GptqCheckpoint::GptqCheckpoint(Config config, io::TensorFiles files, const scheme::Scheme* scheme,
                               int64_t group_size, std::set<std::string> linears)
    : QuantizedCheckpoint(std::move(config), std::move(files)),
      scheme_(scheme),
      group_size_(group_size),
      linears_(std::move(linears)) {}

const std::string& GptqCheckpoint::label(const std::string& module) const {
  static const std::string kFloat = scheme::kFloatLabel;
  static const std::map<int, std::string> kLabels = {
      {4, std::string(weight_only_scheme(4)->label)},
      {8, std::string(weight_only_scheme(8)->label)}};
  return linears_.contains(module) ? kLabels.at(scheme_->weight_bits) : kFloat;
}

const TensorView& GptqCheckpoint::weight(const std::string& module) const {
  return files_.at(owner(module) + ".weight");
}

Mat<int8_t> GptqCheckpoint::codes(const std::string& module) const {
  const TensorView& stored = files_.at(module + ".qweight");  // [words of a row, out]
  Mat<int32_t> words(stored.shape[1], stored.shape[0]);
  for (int64_t w = 0; w < words.cols(); ++w)
    for (int64_t i = 0; i < words.rows(); ++i)
      std::memcpy(&words(i, w), stored.data + 4 * (w * words.rows() + i), sizeof(int32_t));
  const int bits = scheme_->weight_bits;
  return unpack_words(reinterpret_cast<const std::byte*>(words.data()), words.rows(),
                      words.cols() * 32 / bits, bits);
}

std::vector<float> GptqCheckpoint::weight_scale(const std::string& module) const {
  const Mat<float> stored = to_f32(files_.at(module + ".scales"));  // [groups, out]
  std::vector<float> scale;
  for (int64_t i = 0; i < stored.cols(); ++i)
    for (int64_t g = 0; g < stored.rows(); ++g) scale.push_back(stored(g, i));
  return scale;
}

StaticInput GptqCheckpoint::static_input(const std::string& /*module*/) const {
  LAOS_ASSERT(false);  // no label of the format has one
  return {};
}

}  // namespace laos::hf
