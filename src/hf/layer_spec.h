// What a decoder layer consists of: its linears and norms, with the names, shapes and biases that a
// model family gives them. Whoever needs a module's name or size asks here; the names themselves
// stand in family.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"

namespace laos::hf {

// The linears of a dense decoder layer, in module order.
enum class Linear { kQProj, kKProj, kVProj, kOProj, kGateProj, kUpProj, kDownProj };
inline constexpr std::array kAllLinears = {Linear::kQProj,   Linear::kKProj,    Linear::kVProj,
                                           Linear::kOProj,   Linear::kGateProj, Linear::kUpProj,
                                           Linear::kDownProj};
inline constexpr int64_t kNumLinears = std::ssize(kAllLinears);

// A value for each linear of a layer.
template <class T>
class PerLinear {
 public:
  constexpr T& operator[](Linear l) noexcept { return values_[static_cast<size_t>(l)]; }
  constexpr const T& operator[](Linear l) const noexcept { return values_[static_cast<size_t>(l)]; }
  constexpr auto begin() noexcept { return values_.begin(); }
  constexpr auto end() noexcept { return values_.end(); }
  constexpr auto begin() const noexcept { return values_.begin(); }
  constexpr auto end() const noexcept { return values_.end(); }
  constexpr void fill(const T& value) { values_.fill(value); }
  bool operator==(const PerLinear&) const = default;

 private:
  std::array<T, static_cast<size_t>(kNumLinears)> values_ = {};
};

// Linears that read the same input, in the order of `linears_of`. Engines run such a group as one
// fused linear.
enum class LinearGroup { kQkv, kO, kGateUp, kDown };
inline constexpr std::array kAllLinearGroups = {LinearGroup::kQkv, LinearGroup::kO,
                                                LinearGroup::kGateUp, LinearGroup::kDown};
std::span<const Linear> linears_of(LinearGroup group) noexcept;
LinearGroup group_of(Linear linear) noexcept;
// Whether a group's linears are of the attention block; the others are of the MLP.
constexpr bool is_attention(LinearGroup group) noexcept {
  return group == LinearGroup::kQkv || group == LinearGroup::kO;
}
// Whether a group reads the residual stream, behind a norm. The others write into it.
constexpr bool reads_residual(LinearGroup group) noexcept {
  return group == LinearGroup::kQkv || group == LinearGroup::kGateUp;
}

// The norms of a layer, in module order: of the queries' and of the keys' heads (not every family
// has those two), and those in front of attention and of the MLP.
enum class Norm { kQNorm, kKNorm, kInputLayernorm, kPostAttentionLayernorm };
inline constexpr std::array kAllNorms = {Norm::kQNorm, Norm::kKNorm, Norm::kInputLayernorm,
                                         Norm::kPostAttentionLayernorm};

// Paths inside a decoder layer: "self_attn.q_proj", ..., "mlp.down_proj"; "input_layernorm", ...
std::string_view path_of(const Config& config, Linear linear) noexcept;
std::string_view path_of(const Config& config, Norm norm) noexcept;
// Full module names: "model.layers.3", "model.layers.3.mlp.up_proj".
std::string layer_name(const Config& config, int64_t layer_idx);
std::string name_of(const Config& config, int64_t layer_idx, Linear linear);
std::string name_of(const Config& config, int64_t layer_idx, Norm norm);
// The last part of a path, for recipes and reports: "q_proj". The same in every family known today.
std::string_view short_name(Linear linear) noexcept;

int64_t out_features(const Config& config, Linear linear) noexcept;
int64_t in_features(const Config& config, Linear linear) noexcept;
int64_t num_weights(const Config& config, Linear linear) noexcept;  // without the bias
bool has_bias(const Config& config, Linear linear) noexcept;
// Gains of a norm: hidden_size or head_dim; 0 where the family has no such norm.
int64_t size_of(const Config& config, Norm norm) noexcept;

}  // namespace laos::hf
