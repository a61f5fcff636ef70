#include "hf/model_tensors.h"

#include <algorithm>
#include <set>

#include "hf/family.h"

namespace laos::hf {

std::vector<WeightModule> weight_modules(const Config& config) {
  using Kind = WeightModule::Kind;
  std::vector<WeightModule> modules;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const auto add_linears = [&](bool of_attention) {
      for (const Linear l : linears_in(config, i))
        if (is_attention(group_of(l)) == of_attention)
          modules.push_back({name_of(config, i, l),
                             Kind::kLinear,
                             {out_features(config, l), in_features(config, l)},
                             has_bias(config, l),
                             i});
    };
    const auto add_norm = [&](Norm norm) {
      if (const int64_t size = size_of(config, norm); size != 0)
        modules.push_back({name_of(config, i, norm), Kind::kNorm, {size}, false, i});
    };
    add_linears(true);
    add_norm(Norm::kQNorm);
    add_norm(Norm::kKNorm);
    add_linears(false);
    for (const Router router : kAllRouters)
      if (const int64_t rows = rows_of(config, i, router); rows != 0)
        modules.push_back(
            {name_of(config, i, router), Kind::kRouter, {rows, config.hidden_size}, false, i});
    add_norm(Norm::kInputLayernorm);
    add_norm(Norm::kPostAttentionLayernorm);
  }
  const int64_t hidden = config.hidden_size;
  modules.push_back({embed_tokens_name(config), Kind::kEmbedding, {config.vocab_size, hidden}});
  modules.push_back({final_norm_name(config), Kind::kNorm, {hidden}});
  modules.push_back({lm_head_name(config), Kind::kHead, {config.vocab_size, hidden}});
  return modules;
}

std::string embed_tokens_name(const Config& config) {
  return std::string(config.family->names.embed_tokens);
}
std::string final_norm_name(const Config& config) { return std::string(config.family->names.norm); }
std::string lm_head_name(const Config& config) { return std::string(config.family->names.lm_head); }

std::vector<std::vector<std::string>> fused_groups(const Config& config, int64_t layer_idx) {
  std::vector<std::vector<std::string>> groups;
  std::vector<std::string> of_experts;
  for (const LinearGroup group : groups_in(config, layer_idx)) {
    std::vector<std::string> members;
    for (const Linear l : linears_of(group))
      (is_routed(config, l) ? of_experts : members).push_back(path_of(config, l));
    if (members.size() > 1) groups.push_back(std::move(members));
  }
  if (!of_experts.empty()) groups.push_back(std::move(of_experts));
  return groups;
}

std::vector<std::vector<std::string>> fused_groups(const Config& config) {
  std::vector<std::vector<std::string>> groups;
  std::set<bool> seen;  // layers are of two kinds
  for (int64_t i = 0; i < std::max<int64_t>(config.num_hidden_layers, 1); ++i) {
    if (!seen.insert(is_mixture(config, i)).second) continue;
    for (std::vector<std::string>& group : fused_groups(config, i))
      if (std::ranges::find(groups, group) == groups.end()) groups.push_back(std::move(group));
  }
  return groups;
}

std::vector<size_t> differing(const std::vector<std::string>& labels) {
  constexpr size_t kFew = 3;  // as many as are fused in a dense layer
  std::vector<size_t> places;
  std::set<std::string_view> seen;
  for (size_t i = 0; i < labels.size(); ++i)
    if (seen.insert(labels[i]).second || labels.size() <= kFew) places.push_back(i);
  if (seen.size() < 2) places.clear();
  return places;
}

}  // namespace laos::hf
