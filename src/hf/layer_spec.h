// What a decoder layer consists of: its linears and norms, with the names, shapes and biases that a
// model family gives them. Whoever needs a module's name or size asks here; the names themselves
// stand in family.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"

namespace laos::hf {

// The linears of a decoder layer. The named ones, in module order, are all that a dense layer has;
// the three of each expert of a mixture follow them, see `of_expert`.
enum class Linear : int32_t { kQProj, kKProj, kVProj, kOProj, kGateProj, kUpProj, kDownProj };
inline constexpr std::array kAllLinears = {Linear::kQProj,   Linear::kKProj,    Linear::kVProj,
                                           Linear::kOProj,   Linear::kGateProj, Linear::kUpProj,
                                           Linear::kDownProj};
inline constexpr int64_t kNumLinears = std::ssize(kAllLinears);

// Linears that read the same input, in the order of `linears_of`. Engines run such a group as one
// fused linear. The two of each expert follow the named ones.
enum class LinearGroup : int32_t { kQkv, kO, kGateUp, kDown };
inline constexpr std::array kAllLinearGroups = {LinearGroup::kQkv, LinearGroup::kO,
                                                LinearGroup::kGateUp, LinearGroup::kDown};

// Experts of a layer, the shared one included.
inline constexpr int64_t kMaxExperts = 4096;

// The gate_proj, up_proj or down_proj of expert 0, 1, ..., or the group of them.
constexpr Linear of_expert(int64_t expert, Linear kind) noexcept {
  return static_cast<Linear>(static_cast<int64_t>(kind) + 3 * (expert + 1));
}
constexpr LinearGroup of_expert(int64_t expert, LinearGroup kind) noexcept {
  return static_cast<LinearGroup>(static_cast<int64_t>(kind) + 2 * (expert + 1));
}
// Which expert a linear or a group is of; -1: it is one of those with names.
constexpr int64_t expert_of(Linear linear) noexcept {
  return static_cast<int64_t>(linear) < kNumLinears
             ? -1
             : (static_cast<int64_t>(linear) - kNumLinears) / 3;
}
constexpr int64_t expert_of(LinearGroup group) noexcept {
  return group <= LinearGroup::kDown
             ? -1
             : (static_cast<int64_t>(group) - std::ssize(kAllLinearGroups)) / 2;
}
// What it would be in a dense layer.
constexpr Linear kind_of(Linear linear) noexcept {
  return static_cast<Linear>(static_cast<int64_t>(linear) - 3 * (expert_of(linear) + 1));
}
constexpr LinearGroup kind_of(LinearGroup group) noexcept {
  return static_cast<LinearGroup>(static_cast<int64_t>(group) - 2 * (expert_of(group) + 1));
}

// A value for each named linear.
template <class T>
class PerKind {
 public:
  constexpr T& operator[](Linear l) noexcept { return values_[static_cast<size_t>(l)]; }
  constexpr const T& operator[](Linear l) const noexcept { return values_[static_cast<size_t>(l)]; }

 private:
  std::array<T, static_cast<size_t>(kNumLinears)> values_ = {};
};

// A value for each linear of a layer; T() until it is given another. References stay good while
// others are given values.
template <class T>
class PerLinear {
 public:
  T& operator[](Linear l) {
    while (values_.size() <= static_cast<size_t>(l)) values_.emplace_back();
    return values_[static_cast<size_t>(l)];
  }
  const T& operator[](Linear l) const {
    static const T kNone = {};
    return static_cast<size_t>(l) < values_.size() ? values_[static_cast<size_t>(l)] : kNone;
  }
  // Over the named ones and as many others as were given values.
  int64_t size() const noexcept { return std::ssize(values_); }
  auto begin() { return values_.begin(); }
  auto end() { return values_.end(); }
  auto begin() const { return values_.begin(); }
  auto end() const { return values_.end(); }
  void fill(const T& value) {
    for (T& one : values_) one = value;
  }

 private:
  std::deque<T> values_ = std::deque<T>(static_cast<size_t>(kNumLinears));
};

std::span<const Linear> linears_of(LinearGroup group) noexcept;
LinearGroup group_of(Linear linear) noexcept;
// Whether a group's linears are of the attention block; the others are of the MLP.
constexpr bool is_attention(LinearGroup group) noexcept {
  return group == LinearGroup::kQkv || group == LinearGroup::kO;
}
// Whether a group reads the residual stream, behind a norm. The others write into it.
constexpr bool reads_residual(LinearGroup group) noexcept {
  return kind_of(group) == LinearGroup::kQkv || kind_of(group) == LinearGroup::kGateUp;
}

// Whether a layer has experts in place of one MLP, and what a layer consists of, in module order:
// routed experts first, then the one that is shared by all tokens.
bool is_mixture(const Config& config, int64_t layer_idx) noexcept;
std::vector<Linear> linears_in(const Config& config, int64_t layer_idx);
std::vector<LinearGroup> groups_in(const Config& config, int64_t layer_idx);
// Where a linear stands among those of all layers.
int64_t index_of(const Config& config, int64_t layer_idx, Linear linear) noexcept;

// Whether a linear, or a group, is of an expert that some of the tokens go to.
bool is_routed(const Config& config, Linear linear) noexcept;
bool is_routed(const Config& config, LinearGroup group) noexcept;
// What share of the tokens a linear, or a group, sees where experts get as many as each other.
double share_of_tokens(const Config& config, Linear linear) noexcept;
double share_of_tokens(const Config& config, LinearGroup group) noexcept;

// Whether a module's name says that it belongs to an expert that some of the tokens go to, as
// "model.layers.3.mlp.experts.7.up_proj" does in every family that has experts.
bool names_routed_expert(std::string_view module) noexcept;

// What a mixture chooses and weighs experts by, which stays float: a row of hidden_size values for
// each routed expert, and one for the shared expert.
enum class Router { kExperts, kSharedExpert };
inline constexpr std::array kAllRouters = {Router::kExperts, Router::kSharedExpert};

// The norms of a layer, in module order: of the queries' and of the keys' heads (not every family
// has those two), and those in front of attention and of the MLP.
enum class Norm { kQNorm, kKNorm, kInputLayernorm, kPostAttentionLayernorm };
inline constexpr std::array kAllNorms = {Norm::kQNorm, Norm::kKNorm, Norm::kInputLayernorm,
                                         Norm::kPostAttentionLayernorm};

// Paths inside a decoder layer: "self_attn.q_proj", ..., "mlp.down_proj"; "input_layernorm", ...;
// "mlp.experts.7.down_proj", "mlp.gate".
std::string path_of(const Config& config, Linear linear);
std::string_view path_of(const Config& config, Norm norm) noexcept;
std::string_view path_of(const Config& config, Router router) noexcept;
// Full module names: "model.layers", which holds all of them, "model.layers.3",
// "model.layers.3.mlp.up_proj".
std::string_view layers_name(const Config& config) noexcept;
std::string layer_name(const Config& config, int64_t layer_idx);
std::string name_of(const Config& config, int64_t layer_idx, Linear linear);
std::string name_of(const Config& config, int64_t layer_idx, Norm norm);
std::string name_of(const Config& config, int64_t layer_idx, Router router);
// The last part of a path, for recipes and reports: "q_proj". The same in every family known today.
std::string_view short_name(Linear linear) noexcept;

int64_t out_features(const Config& config, Linear linear) noexcept;
int64_t in_features(const Config& config, Linear linear) noexcept;
int64_t num_weights(const Config& config, Linear linear) noexcept;  // without the bias
int64_t num_weights(const Config& config, int64_t layer_idx);       // of all linears
// intermediate_size; 0 where every layer is a mixture.
int64_t dense_intermediate_size(const Config& config) noexcept;
bool has_bias(const Config& config, Linear linear) noexcept;
// Gains of a norm: hidden_size or head_dim; 0 where the family has no such norm.
int64_t size_of(const Config& config, Norm norm) noexcept;
// Rows of a router; 0 where the layer has none.
int64_t rows_of(const Config& config, int64_t layer_idx, Router router) noexcept;

}  // namespace laos::hf
