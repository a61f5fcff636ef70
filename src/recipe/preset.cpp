#include "recipe/preset.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "hf/layer_spec.h"
#include "hf/model_tensors.h"
#include "hf/name_pattern.h"
#include "recipe/rewrite.h"
#include "recipe/schema.h"
#include "scheme/schemes.h"

namespace laos::recipe {
namespace {

constexpr int64_t kAutoroundIters = 400;  // as published
const std::string kGptq = "gptq", kAutoround = "autoround", kRtn = "rtn";

bool is_static(const scheme::Scheme& row) {
  return row.activations == scheme::Activations::kStatic;
}

std::string name_of(const scheme::Scheme& row) {
  return "W" + std::to_string(row.weight_bits) + "A" + std::to_string(row.act_bits) +
         (is_static(row) ? "-static" : "");
}

std::vector<const scheme::Scheme*> preset_rows() {
  std::vector<const scheme::Scheme*> rows;
  for (const scheme::Scheme& row : scheme::schemes())
    if (!row.is_float() && !row.transforms && row.activations != scheme::Activations::kEither)
      rows.push_back(&row);
  return rows;
}

// 4-bit weights beside float inputs are served in groups; the largest of the usual sizes that
// divides the inputs of every linear.
int64_t default_group_size(const scheme::Scheme& row, const hf::Config& config) {
  if (row.weight_bits != 4 || row.activations != scheme::Activations::kFloat) return 0;
  int64_t divisor = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    for (const hf::Linear linear : hf::linears_in(config, layer))
      divisor = std::gcd(divisor, hf::in_features(config, linear));
  for (const int64_t size : {128, 64, 32})
    if (divisor % size == 0) return size;
  return 0;
}

// Patterns of recipes for the linears that `ignore` names.
std::vector<std::string> excluded_patterns(const std::vector<std::string>& ignore,
                                           const hf::Config& config, Problems& problems) {
  // By path inside a layer, in module order.
  std::vector<std::pair<std::string, std::set<int64_t>>> layers;
  const auto layers_of = [&](const std::string& path) -> std::set<int64_t>& {
    const auto found = std::ranges::find(layers, path, &decltype(layers)::value_type::first);
    return found != layers.end() ? found->second
                                 : layers.emplace_back(path, std::set<int64_t>()).second;
  };
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    for (const hf::Linear linear : hf::linears_in(config, layer))
      layers_of(hf::path_of(config, linear));
  for (const std::string& text : ignore) {
    const hf::NamePattern pattern(text, "--ignore");
    const auto is_meant = [&](const std::string& name) {
      return pattern.is_class() || pattern.matches(name);
    };
    bool is_used = is_meant(hf::lm_head_name(config));  // which stays float anyway
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
      for (const hf::Linear linear : hf::linears_in(config, layer))
        if (is_meant(hf::name_of(config, layer, linear))) {
          layers_of(hf::path_of(config, linear)).insert(layer);
          is_used = true;
        }
    if (!is_used)
      problems.add({.what = "`" + text + "` names no linear of this model",
                    .where = "--ignore",
                    .fix = "write whole names, as " +
                           hf::name_of(config, 0, hf::Linear::kDownProj) +
                           ", or expressions, as re:.*" +
                           std::string(hf::path_of(config, hf::Linear::kDownProj))});
  }
  // What is meant of all routed experts alike is one path with a star.
  for (const hf::Linear kind :
       {hf::Linear::kGateProj, hf::Linear::kUpProj, hf::Linear::kDownProj}) {
    std::vector<std::string> paths;
    for (int64_t e = 0; e < config.num_experts; ++e)
      paths.push_back(hf::path_of(config, hf::of_expert(e, kind)));
    if (paths.empty() || std::ranges::any_of(paths, [&](const std::string& path) {
          return layers_of(path) != layers_of(paths.front());
        }))
      continue;
    std::string star = paths.front();  // "mlp.experts.0.gate_proj"
    star.replace(star.find(".0."), 3, ".*.");
    layers.emplace_back(star, layers_of(paths.front()));
    std::erase_if(layers, [&](const auto& entry) { return contains(paths, entry.first); });
  }
  std::vector<std::string> patterns;
  for (const auto& [path, meant] : layers) {
    const std::vector<std::string> more = layer_patterns(hf::layers_name(config), meant, path);
    patterns.insert(patterns.end(), more.begin(), more.end());
  }
  return patterns;
}

std::string quoted_list(const std::vector<std::string>& texts) {
  std::string list;
  for (const std::string& text : texts) list += (list.empty() ? "\"" : ", \"") + text + "\"";
  return "[" + list + "]";
}

// One side of a qconfig.
std::string side(int bits, const std::string& scope, const std::string& method,
                 const std::string& more = "") {
  return "{dtype: int" + std::to_string(bits) + ", scope: " + scope +
         ", symmetric: true, method: " + method + more + "}";
}

std::string qconfig_of(const scheme::Scheme& row, int64_t group_size, const std::string& method) {
  const bool is_grouped = group_size > 0;
  std::string text =
      "{weight: " +
      side(row.weight_bits, is_grouped ? "per_group" : "per_channel",
           method == kRtn ? "minmax" : method,
           is_grouped ? ", ext: {group_size: " + std::to_string(group_size) + "}" : "");
  if (row.activations != scheme::Activations::kFloat)
    text += ", act: " + side(row.act_bits, is_static(row) ? "per_tensor" : "per_token", "minmax");
  return text + "}";
}

// What changes weights and keeps the function, in front of the quantizer: prior, process.
std::pair<std::string, std::string> rotation_of(const scheme::Scheme& row,
                                                const hf::Config& config) {
  if (row.act_bits != 4 || config.num_experts > 0)
    return {"", "    - {type: quarot, online: false, block_size: -1, max_tp_size: 1}\n"};
  // As the profile of every linear W4A4.
  return {
      "  prior:\n    - process:\n"
      "        - {type: adapt_rotation, stage: 1, objective: token_range}\n",
      "    - {type: adapt_rotation, stage: 2, max_tp_size: 1}\n"
      "    - {type: head_rotation}\n"
      "    - {type: iter_smooth, alpha: 0.6, statistic: token_l4, "
      "enable_subgraph_type: [ov, up-down]}\n"};
}

std::string quantizer_of(const scheme::Scheme& row, const hf::Config& config,
                         const std::string& method, std::optional<int64_t> iters,
                         const std::string& linears) {
  if (is_static(row)) return "    - {type: linear_quant, " + linears + "}\n";
  const std::string strategies = "\n      strategies:\n        - {" + linears + "}\n";
  if (method == kAutoround)
    return std::string("    - type: autoround_quant") +
           "\n      iters: " + std::to_string(iters.value_or(kAutoroundIters)) +
           "\n      lr_scale: 1" +  // the published 5 measured worse on language models
           (row.act_bits == 4 ? "\n      act_aware: true" : "") + strategies;
  if (method == kRtn) return "    - type: gptq_quant\n      solve: []" + strategies;
  std::string options = "\n      refine: 2";
  // Inputs of 8 bits lose too little for a refit, and what an expert reads is too little for one.
  if (row.act_bits == 4 && config.num_experts == 0) options += "\n      refit: 0.5";
  // With 4-bit inputs, whose refit is damped as well, more damping measured worse
  // (docs/accuracy.md).
  if (row.weight_bits == 4 && row.act_bits != 4) options += "\n      damp: auto";
  return "    - type: gptq_quant" + options + strategies;
}

}  // namespace

std::vector<std::string> preset_schemes() {
  std::vector<std::string> names;
  for (const scheme::Scheme* row : preset_rows()) names.push_back(name_of(*row));
  return names;
}

std::vector<std::string> preset_methods() { return {kGptq, kAutoround, kRtn}; }

std::string preset_yaml(const Preset& preset, const hf::Config& config) {
  Problems problems;
  const auto refuse = [&](const std::string& what, const char* where, const std::string& fix) {
    problems.add({.what = what, .where = where, .fix = fix});
  };
  const std::vector<const scheme::Scheme*> rows = preset_rows();
  const auto found = std::ranges::find_if(
      rows, [&](const scheme::Scheme* row) { return name_of(*row) == preset.scheme; });
  LAOS_ASSERT(found != rows.end());
  const scheme::Scheme& row = **found;
  const std::string method = preset.method.empty() ? kGptq : preset.method;
  LAOS_ASSERT(contains(preset_methods(), method));
  const int64_t group_size = preset.group_size.value_or(default_group_size(row, config));
  if (group_size > 0 && !row.allows_groups)
    refuse(preset.scheme + " has one scale an output row", "--group-size", "leave it out");
  if (is_static(row) && method == kAutoround)
    refuse("autoround does not make inputs of one range", "--method", "use gptq or rtn");
  if (preset.iters && method != kAutoround)
    refuse("only autoround takes steps", "--iters", "leave it out, or add --method autoround");
  const std::vector<std::string> excluded = excluded_patterns(preset.ignore, config, problems);
  problems.throw_if_any(ErrorCode::kUsage);

  // Rotation is for the inputs and for GPTQ; weights alone lose less by rounding and by training as
  // they are (docs/accuracy.md).
  const bool rotates = preset.rotates.value_or(method == kGptq || row.act_bits < 16);
  const auto [prior, process] =
      rotates ? rotation_of(row, config) : std::pair<std::string, std::string>();
  std::string linears = "qconfig: " + qconfig_of(row, group_size, method) +
                        ", include: " + quoted_list({std::string(hf::layers_name(config)) + ".*"});
  if (!excluded.empty()) linears += ", exclude: " + quoted_list(excluded);
  std::string id = preset.scheme;
  if (group_size > 0) id += "-g" + std::to_string(group_size);
  return "apiversion: modelslim_v1\nmetadata:\n  config_id: laos-" + id + "-" + method +
         "\nspec:\n" + prior + "  process:\n" + process +
         quantizer_of(row, config, method, preset.iters, linears) +
         "  save:\n    - {type: " + preset.saver_type + ", part_file_size: 4}\n";
}

}  // namespace laos::recipe
