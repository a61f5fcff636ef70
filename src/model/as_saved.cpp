#include "model/as_saved.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "core/error.h"
#include "hf/family.h"
#include "hf/layer_spec.h"
#include "hf/model_tensors.h"

namespace laos::model {
namespace {

std::string without_wrappers(std::string_view name) {
  static constexpr std::array<std::string_view, 3> kWrappers = {"base_model.model.", "module.",
                                                                "_orig_mod."};
  for (bool found = true; found;) {
    found = false;
    for (const std::string_view wrapper : kWrappers)
      if (name.starts_with(wrapper)) {
        name.remove_prefix(wrapper.size());
        found = true;
      }
  }
  return std::string(name);
}

}  // namespace

void use_own_names(io::TensorFiles& files, const hf::Config& config) {
  // What a bare model leaves out: "model." of "model.embed_tokens".
  const std::string embedding = hf::embed_tokens_name(config), head = hf::lm_head_name(config);
  const size_t prefix_size = embedding.rfind('.') + 1;
  std::map<std::string, std::string> renamed, from;
  bool is_bare = false;
  for (const auto& [name, unused] : files.tensors())
    is_bare = is_bare || without_wrappers(name) == embedding.substr(prefix_size) + ".weight";
  for (const auto& [name, unused] : files.tensors()) {
    std::string own = without_wrappers(name);
    if (is_bare && !own.starts_with(head + ".")) own = embedding.substr(0, prefix_size) + own;
    const auto [other, is_new] = from.emplace(own, name);
    if (!is_new)
      throw Error(ErrorCode::kFormat,
                  {.what = "two tensors are " + own + ": " + other->second + " and " + name,
                   .where = files.file_of(name),
                   .fix = "save the model itself, without what is wrapped around it"});
    if (own != name) renamed.emplace(name, own);
  }
  if (!renamed.empty()) files.rename(renamed);
}

void split_experts(io::TensorFiles& files, const hf::Config& config) {
  // Linears that are fused share the end of their names: a_x and b_x are a_b_x.
  const auto fused_name = [](hf::LinearGroup kind) {
    std::string fused;
    for (const hf::Linear linear : hf::linears_of(kind)) {
      const std::string name(hf::short_name(linear));
      fused = fused.empty() ? name : fused.substr(0, fused.rfind('_') + 1) + name;
    }
    return fused;
  };
  const auto split = [&](int64_t layer_idx, hf::LinearGroup kind) {
    const std::string name = hf::layer_name(config, layer_idx) + "." +
                             std::string(config.family->names.experts) + "." + fused_name(kind);
    const TensorView* tensor = files.find(name);
    if (tensor == nullptr) return;
    std::vector<std::string> names;
    const hf::LinearGroup first = hf::of_expert(0, kind);
    for (int64_t e = 0; e < config.num_experts; ++e)
      for (const hf::Linear linear : hf::linears_of(hf::of_expert(e, kind)))
        names.push_back(hf::name_of(config, layer_idx, linear) + ".weight");
    const hf::Linear one = hf::linears_of(first).front();
    const int64_t out = hf::out_features(config, one), in = hf::in_features(config, one),
                  each = std::ssize(hf::linears_of(first));
    const Shape implied = {config.num_experts, each * out, in};
    if (tensor->shape != implied)
      throw Error(ErrorCode::kShape, {.what = "the shape is " + to_string(tensor->shape) +
                                              ", config.json implies " + to_string(implied),
                                      .where = files.file_of(name) + ": " + name,
                                      .fix = "check that config.json belongs to these weights"});
    files.split(name, names, {out, in});
  };
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (!hf::is_mixture(config, i)) continue;
    split(i, hf::LinearGroup::kGateUp);
    split(i, hf::LinearGroup::kDown);
  }
}

bool has_own_head(const io::TensorFiles& files, const hf::Config& config) {
  const TensorView* head = files.find(hf::lm_head_name(config) + ".weight");
  const TensorView* tied = files.find(hf::embed_tokens_name(config) + ".weight");
  if (head == nullptr || tied == nullptr) return false;
  if (head->dtype != tied->dtype || head->shape != tied->shape) return true;
  constexpr int64_t kPiece = int64_t{1} << 26;  // bytes compared before their pages are given back
  for (int64_t begin = 0; begin < head->size_bytes(); begin += kPiece) {
    const int64_t bytes = std::min(kPiece, head->size_bytes() - begin);
    if (std::memcmp(head->data + begin, tied->data + begin, static_cast<size_t>(bytes)) != 0)
      return true;
    files.drop_pages();
  }
  return false;
}

}  // namespace laos::model
