#include "hf/tensor_check.h"

#include <algorithm>
#include <utility>

#include "hf/ascendv1.h"

namespace laos::hf {

void TensorCheck::add(std::string what, const std::string& where) {
  problems_.push_back({std::move(what), where, "quantize again"});
}

const TensorView* TensorCheck::check(const std::string& name, const std::vector<DType>& dtypes,
                                     const Shape& shape) {
  known_.insert(name);
  const TensorView* tensor = files_.find(name);
  if (tensor == nullptr) {
    add("missing; config.json implies it", name);
    return nullptr;
  }
  const bool is_known = std::find(dtypes.begin(), dtypes.end(), tensor->dtype) != dtypes.end();
  if (!is_known)
    add("is " + std::string(to_string(tensor->dtype)) + ", must be " +
            std::string(to_string(dtypes.front())),
        name);
  if (tensor->shape != shape)
    add("shape is " + to_string(tensor->shape) + ", must be " + to_string(shape), name);
  return is_known && tensor->shape == shape ? tensor : nullptr;
}

void TensorCheck::check_float(const WeightModule& module) {
  const bool is_tied_head = module.kind == WeightModule::Kind::kHead &&
                            config_.tie_word_embeddings && !files_.contains(module.weight_name());
  if (!is_tied_head) check(module.weight_name(), floats(), module.shape);
  check_bias(module);
}

void TensorCheck::check_bias(const WeightModule& module) {
  if (module.has_bias) check(module.bias_name(), floats(), {module.shape[0]});
}

void TensorCheck::finish() {
  for (const auto& [name, tensor] : files_.tensors())
    if (!known_.contains(name) && !name.ends_with("rotary_emb.inv_freq"))
      add("nothing that config.json says takes this tensor", name);
  Problems grouped;
  for (const ProblemGroup& group : group_over_layers(problems_)) {
    Problem problem = group.first;
    if (group.count > 1)
      problem.what += " (" + std::to_string(group.count) + " tensors, the first:)";
    grouped.add(std::move(problem));
  }
  grouped.throw_if_any(ErrorCode::kFormat);
}

}  // namespace laos::hf
