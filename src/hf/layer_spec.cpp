#include "hf/layer_spec.h"

#include "hf/family.h"

namespace laos::hf {
namespace {

const ModuleNames& names_of(const Config& config) noexcept { return config.family->names; }

}  // namespace

std::span<const Linear> linears_of(LinearGroup group) noexcept {
  static constexpr std::array kQkv = {Linear::kQProj, Linear::kKProj, Linear::kVProj};
  static constexpr std::array kO = {Linear::kOProj};
  static constexpr std::array kGateUp = {Linear::kGateProj, Linear::kUpProj};
  static constexpr std::array kDown = {Linear::kDownProj};
  switch (group) {
    case LinearGroup::kQkv:
      return kQkv;
    case LinearGroup::kO:
      return kO;
    case LinearGroup::kGateUp:
      return kGateUp;
    case LinearGroup::kDown:
      return kDown;
  }
  return {};
}

LinearGroup group_of(Linear linear) noexcept {
  for (const LinearGroup group : kAllLinearGroups)
    for (const Linear member : linears_of(group))
      if (member == linear) return group;
  return LinearGroup::kDown;
}

std::string_view path_of(const Config& config, Linear linear) noexcept {
  return names_of(config).linears[linear];
}
std::string_view path_of(const Config& config, Norm norm) noexcept {
  return names_of(config).norms[static_cast<size_t>(norm)];
}

std::string layer_name(const Config& config, int64_t layer_idx) {
  return std::string(names_of(config).layers) + "." + std::to_string(layer_idx);
}
std::string name_of(const Config& config, int64_t layer_idx, Linear linear) {
  return layer_name(config, layer_idx) + "." + std::string(path_of(config, linear));
}
std::string name_of(const Config& config, int64_t layer_idx, Norm norm) {
  return layer_name(config, layer_idx) + "." + std::string(path_of(config, norm));
}

std::string_view short_name(Linear linear) noexcept {
  const std::string_view path = default_family().names.linears[linear];
  return path.substr(path.rfind('.') + 1);
}

int64_t out_features(const Config& config, Linear linear) noexcept {
  switch (linear) {
    case Linear::kQProj:
      return config.num_attention_heads * config.head_dim;
    case Linear::kKProj:
    case Linear::kVProj:
      return config.num_key_value_heads * config.head_dim;
    case Linear::kGateProj:
    case Linear::kUpProj:
      return config.intermediate_size;
    case Linear::kOProj:
    case Linear::kDownProj:
      break;
  }
  return config.hidden_size;
}

int64_t in_features(const Config& config, Linear linear) noexcept {
  switch (group_of(linear)) {
    case LinearGroup::kO:
      return config.num_attention_heads * config.head_dim;
    case LinearGroup::kDown:
      return config.intermediate_size;
    case LinearGroup::kQkv:
    case LinearGroup::kGateUp:
      break;
  }
  return config.hidden_size;
}

int64_t num_weights(const Config& config, Linear linear) noexcept {
  return out_features(config, linear) * in_features(config, linear);
}

bool has_bias(const Config& config, Linear linear) noexcept {
  switch (group_of(linear)) {
    case LinearGroup::kQkv:
      return config.qkv_bias;
    case LinearGroup::kO:
      return config.o_bias;
    case LinearGroup::kGateUp:
    case LinearGroup::kDown:
      break;
  }
  return config.mlp_bias;
}

int64_t size_of(const Config& config, Norm norm) noexcept {
  const bool is_of_heads = norm == Norm::kQNorm || norm == Norm::kKNorm;
  if (is_of_heads) return config.family->qk_norm ? config.head_dim : 0;
  return config.hidden_size;
}

}  // namespace laos::hf
