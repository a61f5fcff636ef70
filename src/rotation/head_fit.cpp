#include "rotation/head_fit.h"

#include <algorithm>
#include <utility>

#include "linalg/gemm.h"
#include "rotation/token_range.h"

namespace laos::rotation {

using linalg::Trans;
using model::Linear;

HeadRows::HeadRows(const hf::Config& config, int64_t num_tokens)
    : stride_(std::max<int64_t>(1, (num_tokens + kHeadFitRows - 1) / kHeadFitRows)),
      rows_((num_tokens + stride_ - 1) / stride_, config.num_attention_heads * config.head_dim) {}

void HeadRows::observe(const model::LayerSaved<float>& saved, int64_t num_tokens) {
  for (int64_t i = (stride_ - num_seen_ % stride_) % stride_; i < num_tokens; i += stride_) {
    LAOS_ASSERT(num_kept_ < rows_.rows());
    std::copy_n(saved.input_of(model::LinearGroup::kO).row(i), rows_.cols(),
                rows_.row(num_kept_++));
  }
  num_seen_ += num_tokens;
}

Mat<float> HeadRows::take() && {
  LAOS_ASSERT(num_kept_ == rows_.rows());
  return std::move(rows_);
}

std::vector<Mat<float>> fit_heads(const hf::Config& config, const Mat<float>& rows,
                                  const HeadFitOptions& options) {
  // A step sees every other row that is fitted to.
  const int64_t num_fitted = rows.rows() - rows.rows() / kRangeHeldBack;
  int64_t best_step = 0;
  return fit_range_blocks(
      rows,
      {.block_size = config.head_dim,
       .sharing = config.num_attention_heads / config.num_key_value_heads,
       .steps = options.steps,
       .quant_bits = 4,
       .batch_rows = (num_fitted + 1) / 2},
      [](int64_t, double) {}, best_step);
}

void rotate_heads(const hf::Config& config, const std::vector<Mat<float>>& heads,
                  model::LayerWeights& weights) {
  if (heads.empty()) return;
  const int64_t hd = config.head_dim;
  Mat<float>& v = weights[Linear::kVProj];
  Mat<float>& o = weights[Linear::kOProj];
  Mat<float> rotated_v(v.rows(), v.cols()), rotated_o(o.rows(), o.cols());
  for (int64_t h = 0; h < config.num_key_value_heads; ++h)
    linalg::gemm(Trans::kYes, Trans::kNo, 1.0f, std::as_const(heads[static_cast<size_t>(h)]).view(),
                 std::as_const(v).view().slice_rows(h * hd, (h + 1) * hd), 0.0f,
                 rotated_v.view().slice_rows(h * hd, (h + 1) * hd));
  multiply_blocks(std::as_const(o).view(), heads,
                  config.num_attention_heads / config.num_key_value_heads, rotated_o.view());
  if (Mat<float>& bias = weights.biases[Linear::kVProj]; bias.size() != 0) {
    Mat<float> rotated(1, bias.cols());
    for (int64_t h = 0; h < config.num_key_value_heads; ++h)
      linalg::gemm(Trans::kNo, Trans::kNo, 1.0f,
                   std::as_const(bias).view().slice_cols(h * hd, (h + 1) * hd),
                   std::as_const(heads[static_cast<size_t>(h)]).view(), 0.0f,
                   rotated.view().slice_cols(h * hd, (h + 1) * hd));
    bias = std::move(rotated);
  }
  v = std::move(rotated_v);
  o = std::move(rotated_o);
}

// A step: a batch of half the rows rotated, and its gradient.
double head_fit_flops(const hf::Config& config, const HeadFitOptions& options, int64_t num_tokens) {
  const double rows = std::min(static_cast<double>(num_tokens), static_cast<double>(kHeadFitRows));
  const auto q_size = static_cast<double>(config.num_attention_heads * config.head_dim);
  return static_cast<double>(options.steps) * 2 * rows * q_size *
         static_cast<double>(config.head_dim);
}

// Rows, those held back, and a batch of half of them with what it becomes.
int64_t head_fit_bytes(const hf::Config& config, int64_t num_tokens) {
  return int64_t{4} * 3 * std::min(num_tokens, kHeadFitRows) * config.num_attention_heads *
             config.head_dim +
         range_block_bytes(config.num_key_value_heads, config.head_dim);
}

}  // namespace laos::rotation
