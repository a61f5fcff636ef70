#include "rotation/rotation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"

namespace laos::rotation {

using linalg::Trans;
using model::Linear;

namespace {

std::vector<Linear> linears_there(const model::LayerWeights& weights) {
  std::vector<Linear> linears;
  for (int64_t i = 0; i < weights.linears.size(); ++i)
    if (weights[static_cast<Linear>(i)].size() != 0) linears.push_back(static_cast<Linear>(i));
  return linears;
}

}  // namespace

void fold_into_rows(const Mat<float>& gain, MatView<float> rows) {
  LAOS_ASSERT(gain.size() == rows.cols);
  parallel_for_ranges(rows.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < rows.cols; ++j) rows.row(i)[j] *= gain.data()[j];
  });
}

void fold_norms(model::LayerWeights& weights) {
  for (const Linear l : linears_there(weights))
    if (hf::reads_residual(hf::group_of(l)))
      fold_into_rows(hf::is_attention(hf::group_of(l)) ? weights.input_layernorm
                                                       : weights.post_attention_layernorm,
                     weights[l].view());
  for (const hf::Router router : hf::kAllRouters)
    if (weights[router].size() != 0)
      fold_into_rows(weights.post_attention_layernorm, weights[router].view());
  std::fill_n(weights.input_layernorm.data(), weights.input_layernorm.size(), 1.0f);
  std::fill_n(weights.post_attention_layernorm.data(), weights.post_attention_layernorm.size(),
              1.0f);
}

void Rotation::apply_right(MatView<float> w) const {
  LAOS_ASSERT(w.cols == size());
  if (hadamard_) {
    hadamard_->apply_right(w);
    return;
  }
  constexpr int64_t kRows = 1024;
  Mat<float> copy(std::min(kRows, w.rows), w.cols);
  for (int64_t begin = 0; begin < w.rows; begin += kRows) {
    const MatView<float> rows = w.slice_rows(begin, std::min(w.rows, begin + kRows));
    for (int64_t i = 0; i < rows.rows; ++i) std::copy_n(rows.row(i), rows.cols, copy.row(i));
    const MatView<const float> source = copy.view().slice_rows(0, rows.rows);
    linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, source, dense_.view(), 0.0f, rows);
  }
}

void Rotation::apply_left_transposed(MatView<float> w) const {
  LAOS_ASSERT(w.rows == size());
  // Rᵀ w = (wᵀ R)ᵀ, some columns of w at a time.
  constexpr int64_t kCols = 1024;
  Mat<float> transposed(std::min(kCols, w.cols), w.rows);
  for (int64_t begin = 0; begin < w.cols; begin += kCols) {
    const int64_t count = std::min(kCols, w.cols - begin);
    const MatView<float> piece = transposed.view().slice_rows(0, count);
    constexpr int64_t kTile = 32;
    const auto transpose = [&](auto&& move) {
      parallel_for_ranges(w.rows, kTile, [&](int64_t first, int64_t last) {
        for (int64_t j0 = 0; j0 < count; j0 += kTile)
          for (int64_t i = first; i < last; ++i)
            for (int64_t j = j0; j < std::min(count, j0 + kTile); ++j)
              move(w.row(i)[begin + j], piece.row(j)[i]);
      });
    };
    transpose([](const float& of_w, float& of_piece) { of_piece = of_w; });
    apply_right(piece);
    transpose([](float& of_w, const float& of_piece) { of_w = of_piece; });
  }
}

Mat<float> Rotation::matrix() const { return hadamard_ ? hadamard_->dense() : dense_.clone(); }

std::optional<std::pair<int64_t, int64_t>> kronecker_factors(int64_t intermediate_size) noexcept {
  constexpr int64_t kMaxFactor = 256;
  const auto is_factor = [](int64_t n) {
    return n == 1 || n == 2 || (n >= 4 && n <= kMaxFactor && n % 4 == 0);
  };
  // intermediate_size = (a - c)(a + c), the smallest a first.
  for (int64_t a = 1; a <= kMaxFactor; ++a) {
    const int64_t rest = a * a - intermediate_size;
    if (rest < 0) continue;
    const auto c = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(rest))));
    if (c * c == rest && is_factor(a - c) && is_factor(a + c)) return std::pair(a - c, a + c);
  }
  return std::nullopt;
}

namespace {

model::OnlineTransforms make_online(const hf::Config& config, int64_t max_tp_size) {
  model::OnlineTransforms online;
  auto heads = std::make_shared<model::KroneckerTransform>();
  heads->left = linalg::RandomHadamard(config.num_attention_heads, max_tp_size).dense();
  heads->cols = config.head_dim;
  online[model::LinearGroup::kO] = std::move(heads);

  const auto factors = kronecker_factors(config.intermediate_size);
  if (!factors)
    throw Error(ErrorCode::kUnsupported,
                {.what = "intermediate_size " + std::to_string(config.intermediate_size) +
                         " has no two Hadamard factors of at most 256",
                 .where = "config.json",
                 .fix = "use online: false"});
  auto down = std::make_shared<model::KroneckerTransform>();
  down->left = linalg::RandomHadamard(factors->first, max_tp_size).dense();
  down->right = linalg::RandomHadamard(factors->second).dense();
  down->cols = factors->second;
  online[model::LinearGroup::kDown] = std::move(down);
  return online;
}

}  // namespace

ModelRotation make_rotation(const hf::Config& config, const RotateOptions& options,
                            std::optional<Mat<float>> fitted) {
  LAOS_ASSERT(!fitted ||
              (fitted->rows() == config.hidden_size && fitted->cols() == config.hidden_size));
  ModelRotation rotation{
      fitted ? Rotation(std::move(*fitted))
             : Rotation(linalg::RandomHadamard(config.hidden_size, options.block_size)),
      Rotation(linalg::RandomHadamard(config.head_dim, options.block_size))};
  if (options.online) {
    rotation.online = make_online(config, options.max_tp_size);
    rotation.down_online_layers = options.down_online_layers;
  }
  return rotation;
}

model::OnlineTransforms ModelRotation::online_of(int64_t layer_idx) const {
  model::OnlineTransforms of_layer = online;
  if (std::find(down_online_layers.begin(), down_online_layers.end(), layer_idx) ==
      down_online_layers.end())
    of_layer[model::LinearGroup::kDown] = nullptr;
  return of_layer;
}

void rotate_online(const model::OnlineTransforms& online, model::LayerWeights& weights) {
  for (const model::LinearGroup group : model::kAllLinearGroups)
    if (const model::KroneckerTransform* transform = online.of(group))
      for (const Linear l : model::linears_of(group))
        transform->apply(std::as_const(weights[l]).view(), weights[l].view());
}

void rotate_layer(const hf::Config& config, const ModelRotation& rotation,
                  model::LayerWeights& weights) {
  for (const Linear l : linears_there(weights)) {
    if (hf::reads_residual(hf::group_of(l))) {
      rotation.residual.apply_right(weights[l].view());
      continue;
    }
    rotation.residual.apply_left_transposed(weights[l].view());
    if (weights.biases[l].size() != 0) rotation.residual.apply_right(weights.biases[l].view());
  }
  for (const hf::Router router : hf::kAllRouters)
    if (weights[router].size() != 0) rotation.residual.apply_right(weights[router].view());
  const int64_t hd = config.head_dim;
  Mat<float>& v_bias = weights.biases[Linear::kVProj];
  for (int64_t h = 0; h < config.num_key_value_heads; ++h) {
    rotation.head.apply_left_transposed(
        weights[Linear::kVProj].view().slice_rows(h * hd, (h + 1) * hd));
    if (v_bias.size() != 0)
      rotation.head.apply_right(v_bias.view().slice_cols(h * hd, (h + 1) * hd));
  }
  for (int64_t h = 0; h < config.num_attention_heads; ++h)
    rotation.head.apply_right(weights[Linear::kOProj].view().slice_cols(h * hd, (h + 1) * hd));
}

}  // namespace laos::rotation
