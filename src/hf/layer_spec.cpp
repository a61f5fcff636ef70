#include "hf/layer_spec.h"

#include <algorithm>

#include "hf/family.h"

namespace laos::hf {
namespace {

const ModuleNames& names_of(const Config& config) noexcept { return config.family->names; }

// Every linear there can be: groups are stretches of it.
constexpr int64_t kNumNumbered = kNumLinears + 3 * kMaxExperts;
constexpr auto kNumbered = [] {
  std::array<Linear, kNumNumbered> linears = {};
  for (int64_t i = 0; i < kNumNumbered; ++i)
    linears[static_cast<size_t>(i)] = static_cast<Linear>(i);
  return linears;
}();

// The shared expert's number, behind those of the routed ones.
int64_t num_all_experts(const Config& config) noexcept {
  return config.num_experts + (config.shared_expert_intermediate_size > 0 ? 1 : 0);
}

int64_t width_of_mlp(const Config& config, Linear linear) noexcept {
  const int64_t expert = expert_of(linear);
  if (expert < 0) return config.intermediate_size;
  return expert < config.num_experts ? config.moe_intermediate_size
                                     : config.shared_expert_intermediate_size;
}

}  // namespace

std::span<const Linear> linears_of(LinearGroup group) noexcept {
  const std::span<const Linear> all(kNumbered);
  const auto from = [&](Linear first, size_t count) {
    const int64_t expert = expert_of(group);
    return all.subspan(static_cast<size_t>(expert < 0 ? first : of_expert(expert, first)), count);
  };
  switch (kind_of(group)) {
    case LinearGroup::kQkv:
      return from(Linear::kQProj, 3);
    case LinearGroup::kO:
      return from(Linear::kOProj, 1);
    case LinearGroup::kGateUp:
      return from(Linear::kGateProj, 2);
    case LinearGroup::kDown:
      return from(Linear::kDownProj, 1);
  }
  return {};
}

LinearGroup group_of(Linear linear) noexcept {
  const Linear kind = kind_of(linear);
  if (kind < Linear::kOProj) return LinearGroup::kQkv;
  if (kind == Linear::kOProj) return LinearGroup::kO;
  return of_expert(expert_of(linear),
                   kind == Linear::kDownProj ? LinearGroup::kDown : LinearGroup::kGateUp);
}

bool is_mixture(const Config& config, int64_t layer_idx) noexcept {
  return config.num_experts > 0 && (layer_idx + 1) % config.decoder_sparse_step == 0 &&
         std::ranges::find(config.mlp_only_layers, layer_idx) == config.mlp_only_layers.end();
}

std::vector<Linear> linears_in(const Config& config, int64_t layer_idx) {
  std::vector<Linear> linears;
  for (const LinearGroup group : groups_in(config, layer_idx))
    for (const Linear linear : linears_of(group)) linears.push_back(linear);
  return linears;
}

std::vector<LinearGroup> groups_in(const Config& config, int64_t layer_idx) {
  if (!is_mixture(config, layer_idx)) return {kAllLinearGroups.begin(), kAllLinearGroups.end()};
  std::vector<LinearGroup> groups = {LinearGroup::kQkv, LinearGroup::kO};
  for (int64_t e = 0; e < num_all_experts(config); ++e)
    for (const LinearGroup kind : {LinearGroup::kGateUp, LinearGroup::kDown})
      groups.push_back(of_expert(e, kind));
  return groups;
}

int64_t index_of(const Config& config, int64_t layer_idx, Linear linear) noexcept {
  constexpr int64_t kAttention = 4;  // linears of attention, which come first
  int64_t mixtures = 0;
  for (int64_t i = 0; i < layer_idx; ++i) mixtures += is_mixture(config, i) ? 1 : 0;
  const int64_t before =
      mixtures * (kAttention + 3 * num_all_experts(config)) + (layer_idx - mixtures) * kNumLinears;
  return before + static_cast<int64_t>(linear) - (expert_of(linear) < 0 ? 0 : 3);
}

bool is_routed(const Config& config, Linear linear) noexcept {
  return expert_of(linear) >= 0 && expert_of(linear) < config.num_experts;
}
bool is_routed(const Config& config, LinearGroup group) noexcept {
  return expert_of(group) >= 0 && expert_of(group) < config.num_experts;
}

double share_of_tokens(const Config& config, Linear linear) noexcept {
  return share_of_tokens(config, group_of(linear));
}
double share_of_tokens(const Config& config, LinearGroup group) noexcept {
  if (!is_routed(config, group)) return 1;
  return static_cast<double>(config.num_experts_per_tok) / static_cast<double>(config.num_experts);
}

bool names_routed_expert(std::string_view module) noexcept {
  constexpr std::string_view kExperts = ".experts.";
  const size_t at = module.rfind(kExperts);
  if (at == std::string_view::npos) return false;
  const std::string_view rest = module.substr(at + kExperts.size());  // "7.up_proj"
  const size_t digits = rest.find_first_not_of("0123456789");
  return digits != 0 && digits != std::string_view::npos && rest[digits] == '.';
}

std::string path_of(const Config& config, Linear linear) {
  const ModuleNames& names = names_of(config);
  const int64_t expert = expert_of(linear);
  if (expert < 0) return std::string(names.linears[linear]);
  const std::string last(short_name(linear));
  if (expert >= config.num_experts) return std::string(names.shared_expert) + "." + last;
  return std::string(names.experts) + "." + std::to_string(expert) + "." + last;
}
std::string_view path_of(const Config& config, Norm norm) noexcept {
  return names_of(config).norms[static_cast<size_t>(norm)];
}

std::string_view path_of(const Config& config, Router router) noexcept {
  return names_of(config).routers[static_cast<size_t>(router)];
}

std::string_view layers_name(const Config& config) noexcept { return names_of(config).layers; }
std::string layer_name(const Config& config, int64_t layer_idx) {
  return std::string(layers_name(config)) + "." + std::to_string(layer_idx);
}
std::string name_of(const Config& config, int64_t layer_idx, Linear linear) {
  return layer_name(config, layer_idx) + "." + path_of(config, linear);
}
std::string name_of(const Config& config, int64_t layer_idx, Norm norm) {
  return layer_name(config, layer_idx) + "." + std::string(path_of(config, norm));
}

std::string name_of(const Config& config, int64_t layer_idx, Router router) {
  return layer_name(config, layer_idx) + "." + std::string(path_of(config, router));
}

std::string_view short_name(Linear linear) noexcept {
  const std::string_view path = default_family().names.linears[kind_of(linear)];
  return path.substr(path.rfind('.') + 1);
}

int64_t out_features(const Config& config, Linear linear) noexcept {
  switch (kind_of(linear)) {
    case Linear::kQProj:
      return config.num_attention_heads * config.head_dim;
    case Linear::kKProj:
    case Linear::kVProj:
      return config.num_key_value_heads * config.head_dim;
    case Linear::kGateProj:
    case Linear::kUpProj:
      return width_of_mlp(config, linear);
    case Linear::kOProj:
    case Linear::kDownProj:
      break;
  }
  return config.hidden_size;
}

int64_t in_features(const Config& config, Linear linear) noexcept {
  switch (kind_of(group_of(linear))) {
    case LinearGroup::kO:
      return config.num_attention_heads * config.head_dim;
    case LinearGroup::kDown:
      return width_of_mlp(config, linear);
    case LinearGroup::kQkv:
    case LinearGroup::kGateUp:
      break;
  }
  return config.hidden_size;
}

int64_t num_weights(const Config& config, Linear linear) noexcept {
  return out_features(config, linear) * in_features(config, linear);
}

int64_t num_weights(const Config& config, int64_t layer_idx) {
  int64_t sum = 0;
  for (const Linear linear : linears_in(config, layer_idx)) sum += num_weights(config, linear);
  return sum;
}

int64_t dense_intermediate_size(const Config& config) noexcept {
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    if (!is_mixture(config, i)) return config.intermediate_size;
  return config.num_experts == 0 ? config.intermediate_size : 0;
}

bool has_bias(const Config& config, Linear linear) noexcept {
  switch (kind_of(group_of(linear))) {
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

int64_t rows_of(const Config& config, int64_t layer_idx, Router router) noexcept {
  if (!is_mixture(config, layer_idx)) return 0;
  if (router == Router::kExperts) return config.num_experts;
  return config.shared_expert_intermediate_size > 0 ? 1 : 0;
}

}  // namespace laos::hf
