#include "save/job.h"

#include <algorithm>
#include <limits>
#include <map>

#include "hf/ascendv1.h"
#include "hf/model_tensors.h"
#include "save/format.h"

namespace laos::save {
namespace {

std::string label_text(const OutputLinear& linear) {
  if (!linear.scheme) return scheme::kFloatLabel;
  if (const auto label = quant::label_of(*linear.scheme)) return *label;
  std::string pair = "W";
  pair += std::to_string(linear.scheme->weight.bits);
  pair += "A";
  pair += std::to_string(linear.scheme->act.bits);
  return pair;
}

// The matrices that the module of this name carries.
void append_online(const hf::Config& config, const OnlineLayout& online, const std::string& module,
                   std::vector<OutputTensor>& tensors) {
  const auto add = [&](const char* suffix, int64_t size) {
    tensors.push_back({{module + "." + suffix, DType::kF32, {size, size}}, ""});
  };
  if (module.ends_with("." + std::string(hf::path_of(config, hf::Linear::kOProj))))
    add("heads_rotation", config.num_attention_heads);
  for (const int64_t layer_idx : online.down_layers) {
    if (module != hf::name_of(config, layer_idx, hf::Linear::kDownProj)) continue;
    add("kronecker_rotation_m", online.m);
    add("kronecker_rotation_n", online.n);
  }
}

// Scales and offsets of the cache, where the module is one whose outputs are cached.
void append_cache(const hf::Config& config, const hf::WeightModule& module,
                  std::vector<OutputTensor>& tensors) {
  for (const hf::Linear l : hf::kCachedLinears) {
    if (module.kind != hf::WeightModule::Kind::kLinear ||
        module.name != hf::name_of(config, module.layer_idx, l))
      continue;
    for (const char* suffix : {hf::kCacheScaleSuffix, hf::kCacheOffsetSuffix})
      tensors.push_back(
          {{module.name + "." + suffix, DType::kF32, {module.shape[0]}}, hf::kCacheLabel});
  }
}

}  // namespace

std::vector<const CheckpointJob*> all_jobs(const CheckpointJob& job) {
  std::vector<const CheckpointJob*> jobs = {&job};
  for (const CheckpointJob& other : job.others) jobs.push_back(&other);
  return jobs;
}

std::vector<OutputLinear> output_linears(const hf::Config& config, const SchemeLookup& scheme_of) {
  std::vector<OutputLinear> linears;
  for (const hf::WeightModule& module : hf::weight_modules(config))
    if (module.kind == hf::WeightModule::Kind::kLinear)
      linears.push_back({.name = module.name,
                         .out_features = module.shape[0],
                         .in_features = module.shape[1],
                         .scheme = scheme_of(module.name),
                         .has_bias = module.has_bias});
  return linears;
}

std::vector<OutputTensor> output_tensors(const hf::Config& config, DType float_dtype,
                                         const SchemeLookup& scheme_of, const OnlineLayout* online,
                                         const Format& format, bool cached_in_int8) {
  std::vector<OutputTensor> tensors;
  std::vector<Problem> problems;
  for (const hf::WeightModule& module : hf::weight_modules(config)) {
    const size_t first = tensors.size();
    OutputLinear linear;
    linear.name = module.name;
    if (module.kind == hf::WeightModule::Kind::kLinear) {
      linear.out_features = module.shape[0];
      linear.in_features = module.shape[1];
      linear.scheme = scheme_of(module.name);
      linear.has_bias = module.has_bias;
    }
    if (linear.scheme) {
      if (!format.holds_experts() && hf::names_routed_expert(module.name))
        problems.push_back({"experts are not written as " + std::string(format.title()) + " yet",
                            module.name, "write AscendV1, or leave experts float"});
      const std::string label = label_text(linear);
      format.plan_linear(linear, label, scheme::find(label), float_dtype, tensors, problems);
    } else {
      tensors.push_back({{module.weight_name(), float_dtype, module.shape}, scheme::kFloatLabel});
      if (module.has_bias)
        tensors.push_back(
            {{module.bias_name(), float_dtype, {module.shape[0]}}, scheme::kFloatLabel});
    }
    if (online != nullptr) append_online(config, *online, module.name, tensors);
    if (cached_in_int8) append_cache(config, module, tensors);
    for (size_t i = first; i < tensors.size(); ++i) {
      tensors[i].layer_idx = module.layer_idx;
      tensors[i].kind = module.kind;
    }
  }
  if (online != nullptr && !format.holds_online_rotations())
    problems.push_back({"an online rotation has no place in " + std::string(format.title()),
                        "online rotations", "quantize with online: false"});
  if (cached_in_int8 && !format.holds_cache_scales())
    problems.push_back({"scales of an int8 cache have no place in " + std::string(format.title()) +
                            ", whose engines take none",
                        "kv_cache", "write AscendV1, or quantize without kv_cache"});
  Problems grouped;
  for (const hf::ProblemGroup& group : hf::group_over_layers(problems)) {
    Problem problem = group.first;
    if (group.count > 1)
      problem.what += " (" + std::to_string(group.count) + " linears, the first:)";
    grouped.add(std::move(problem));
  }
  grouped.throw_if_any(ErrorCode::kUnsupported);
  return tensors;
}

std::vector<FusedConflict> find_fused_conflicts(const hf::Config& config,
                                                const std::vector<OutputLinear>& linears) {
  std::map<std::string, std::string> label_of;
  for (const OutputLinear& linear : linears) label_of[linear.name] = label_text(linear);

  std::vector<FusedConflict> conflicts;
  const std::vector<std::vector<std::string>> groups = hf::fused_groups(config);
  for (const OutputLinear& linear : linears)
    for (const std::vector<std::string>& group : groups) {
      if (!linear.name.ends_with("." + group.front())) continue;
      FusedConflict conflict{
          linear.name.substr(0, linear.name.size() - group.front().size() - 1), {}, {}};
      std::vector<std::string> labels;
      for (const std::string& member : group) {
        const auto found = label_of.find(conflict.layer + "." + member);
        labels.push_back(found == label_of.end() ? "none" : found->second);
      }
      for (const size_t i : hf::differing(labels)) {
        conflict.members.push_back(group[i]);
        conflict.labels.push_back(labels[i]);
      }
      if (!conflict.members.empty()) conflicts.push_back(std::move(conflict));
    }
  return conflicts;
}

int64_t max_shard_bytes(const SaverOptions& options) {
  constexpr int kGiBShift = 30;
  const int64_t most = std::numeric_limits<int64_t>::max() >> kGiBShift;
  return std::clamp<int64_t>(options.part_file_size, 0, most) << kGiBShift;
}

}  // namespace laos::save
