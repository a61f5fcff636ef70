#include "rotation/head_fit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/polar.h"
#include "rotation/token_range.h"

namespace laos::rotation {

using linalg::Trans;
using model::Linear;

namespace {

constexpr int64_t kRowGrain = 16;
constexpr int64_t kHeldBack = 8;  // one row of so many
constexpr int64_t kNoteSteps = 10;
constexpr float kMomentum = 0.9f;
// Root mean square angle by which the first step turns a head's axes; falls to zero with the steps.
constexpr double kAngle = 1.0 / 16;

// y = x with the part of each query head multiplied by its KV head's matrix.
void rotate_rows(const hf::Config& config, const std::vector<Mat<float>>& heads,
                 MatView<const float> x, MatView<float> y) {
  const int64_t hd = config.head_dim;
  const int64_t group = config.num_attention_heads / config.num_key_value_heads;
  for (int64_t h = 0; h < config.num_attention_heads; ++h)
    linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, x.slice_cols(h * hd, (h + 1) * hd),
                 std::as_const(heads[static_cast<size_t>(h / group)]).view(), 0.0f,
                 y.slice_cols(h * hd, (h + 1) * hd));
}

std::vector<Mat<float>> square(int64_t count, int64_t n) {
  std::vector<Mat<float>> matrices;
  for (int64_t h = 0; h < count; ++h) {
    matrices.emplace_back(n, n);
    matrices.back().fill_zero();
  }
  return matrices;
}

}  // namespace

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

std::vector<Mat<float>> fit_heads(const hf::Config& config, Mat<float> rows,
                                  const HeadFitOptions& options) {
  constexpr int kBits = 4;
  const int64_t hd = config.head_dim, num_heads = config.num_key_value_heads;
  const int64_t group = config.num_attention_heads / num_heads, q_size = rows.cols();
  // The rows held back go to the end; the others keep their order.
  std::vector<int64_t> order;
  for (int64_t i = 0; i < rows.rows(); ++i)
    if (i % kHeldBack != kHeldBack - 1) order.push_back(i);
  const int64_t num_fitted = std::ssize(order);
  for (int64_t i = kHeldBack - 1; i < rows.rows(); i += kHeldBack) order.push_back(i);
  const auto row_of = [&](int64_t i) { return rows.row(order[static_cast<size_t>(i)]); };
  const int64_t first_judged = num_fitted < rows.rows() ? num_fitted : 0;
  const int64_t num_judged = rows.rows() - first_judged;
  const auto gather = [&](int64_t first, int64_t stride, int64_t count) {
    Mat<float> batch(count, q_size);
    parallel_for_ranges(count, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(row_of(first + i * stride), q_size, batch.row(i));
    });
    return batch;
  };
  const Mat<float> judge = gather(first_judged, 1, num_judged);
  Mat<float> judged(num_judged, q_size), quantized(num_judged, q_size);
  double best_loss = rounding_error(judge.view(), kBits, quantized.view());
  std::vector<Mat<float>> best;

  std::vector<Mat<float>> heads = square(num_heads, hd), momentum = square(num_heads, hd),
                          product = square(num_heads, hd), turn = square(num_heads, hd);
  for (Mat<float>& head : heads)
    for (int64_t i = 0; i < hd; ++i) head(i, i) = 1;
  // Two batches in turn, of every other row.
  const int64_t batches = num_fitted >= 2 ? 2 : 1;
  for (int64_t step = 1; step <= options.steps; ++step) {
    const int64_t first = (step - 1) % batches;
    const Mat<float> batch = gather(first, batches, (num_fitted - first + batches - 1) / batches);
    Mat<float> z(batch.rows(), q_size);
    rotate_rows(config, heads, batch.view(), z.view());
    Mat<float> gradient = z.clone();
    parallel_for_ranges(z.rows(), kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) range_and_gradient(gradient.row(i), q_size);
    });
    const double angle =
        kAngle * (1 - static_cast<double>(step - 1) / static_cast<double>(options.steps));
    for (int64_t h = 0; h < num_heads; ++h) {
      const auto head = static_cast<size_t>(h);
      // As in fit_token_range: zᵀ g, its skew part, and a turn of a given size along it.
      for (int64_t q = h * group; q < (h + 1) * group; ++q)
        linalg::gemm(Trans::kYes, Trans::kNo, 1.0f,
                     std::as_const(z).view().slice_cols(q * hd, (q + 1) * hd),
                     std::as_const(gradient).view().slice_cols(q * hd, (q + 1) * hd),
                     q == h * group ? 0.0f : 1.0f, product[head].view());
      double norm = 0;
      for (int64_t i = 0; i < hd; ++i)
        for (int64_t j = 0; j < hd; ++j) {
          float& m = momentum[head](i, j);
          m = kMomentum * m + 0.5f * (product[head](i, j) - product[head](j, i));
          norm += static_cast<double>(m) * m;
        }
      if (!(norm > 0)) continue;
      const auto factor =
          static_cast<float>(angle * std::sqrt(static_cast<double>(hd)) / std::sqrt(norm));
      for (int64_t i = 0; i < turn[head].size(); ++i)
        turn[head].data()[i] = factor * momentum[head].data()[i];
      linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, std::as_const(heads[head]).view(),
                   std::as_const(turn[head]).view(), 0.0f, product[head].view());
      for (int64_t i = 0; i < heads[head].size(); ++i)
        heads[head].data()[i] -= product[head].data()[i];
      linalg::reorthogonalize(heads[head]);
    }
    if (step % kNoteSteps != 0 && step != options.steps) continue;
    rotate_rows(config, heads, judge.view(), judged.view());
    const double loss = rounding_error(std::as_const(judged).view(), kBits, quantized.view());
    if (!(loss < best_loss)) continue;
    best_loss = loss;
    best.clear();
    for (const Mat<float>& head : heads) best.push_back(head.clone());
  }
  return best;
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
  rotate_rows(config, heads, std::as_const(o).view(), rotated_o.view());
  v = std::move(rotated_v);
  o = std::move(rotated_o);
}

}  // namespace laos::rotation
