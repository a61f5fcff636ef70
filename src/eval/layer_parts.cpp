#include "eval/layer_parts.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace laos::eval {

using model::Linear;
using model::LinearGroup;

model::LayerWeights small_weights(
    const hf::Config& config, int64_t layer_idx,
    const std::function<const TensorView&(const std::string&)>& find) {
  model::LayerWeights weights;
  for (const hf::Norm norm : hf::kAllNorms)
    if (hf::size_of(config, norm) != 0)
      weights[norm] = to_f32(find(hf::name_of(config, layer_idx, norm) + ".weight"));
  for (const hf::Router router : hf::kAllRouters)
    if (hf::rows_of(config, layer_idx, router) != 0)
      weights[router] = to_f32(find(hf::name_of(config, layer_idx, router) + ".weight"));
  for (const Linear l : model::linears_in(config, layer_idx))
    if (model::has_bias(config, l))
      weights.biases[l] = to_f32(find(model::name_of(config, layer_idx, l) + ".bias"));
  return weights;
}

namespace {

// The matrix of an online rotation, [n, n].
Mat<float> square(const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(values.size()))));
  Mat<float> matrix(n, n);
  std::copy(values.begin(), values.end(), matrix.data());
  return matrix;
}

}  // namespace

model::OnlineTransforms online_transforms(const hf::QuantizedCheckpoint& checkpoint,
                                          int64_t layer_idx, DType right_dtype, DType left_dtype) {
  const hf::Config& config = checkpoint.config();
  model::OnlineTransforms online;
  const auto set = [&](LinearGroup group, model::KroneckerTransform transform) {
    online[group] = std::make_shared<model::KroneckerTransform>(std::move(transform));
  };
  for (const Linear l : model::linears_in(config, layer_idx))
    if (std::optional<hf::InputPair> pair =
            checkpoint.input_pair(model::name_of(config, layer_idx, l))) {
      const int64_t cols = pair->right.rows();
      set(hf::group_of(l), {.left = std::move(pair->left),
                            .right = std::move(pair->right),
                            .cols = cols,
                            .clip = pair->clip,
                            .right_dtype = right_dtype,
                            .left_dtype = left_dtype});
    }
  const std::string o = model::name_of(config, layer_idx, Linear::kOProj),
                    down = model::name_of(config, layer_idx, Linear::kDownProj);
  if (const std::vector<float> heads = checkpoint.online_rotation(o, "heads_rotation");
      !heads.empty())
    set(LinearGroup::kO, {.left = square(heads), .right = {}, .cols = config.head_dim});
  if (const std::vector<float> m = checkpoint.online_rotation(down, "kronecker_rotation_m");
      !m.empty()) {
    Mat<float> right = square(checkpoint.online_rotation(down, "kronecker_rotation_n"));
    const int64_t cols = right.rows();
    set(LinearGroup::kDown, {.left = square(m), .right = std::move(right), .cols = cols});
  }
  return online;
}

}  // namespace laos::eval
