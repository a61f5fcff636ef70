#include "autoround/trainable_linears.h"

#include <algorithm>
#include <cmath>

#include "autoround/kernels/update.h"
#include "core/threads.h"
#include "linalg/gemm.h"
#include "quant/kernels/rows.h"

namespace laos::autoround {

using linalg::Trans;
using model::Linear;

namespace {

constexpr int64_t kRowGrain = 16;

// Output rows whose gradient exists at a time: tall enough that the product runs at full rate.
constexpr int64_t kGradientRows = 128;

// Offsets that move a code by at most one step (4 bit) or two (8 bit) (spec 8.4).
float clip_of(const quant::WeightSpec& spec) noexcept { return spec.bits == 4 ? 0.5f : 1.0f; }

float sign(float x) noexcept { return static_cast<float>((x > 0) - (x < 0)); }

}  // namespace

TrainableLinears::TrainableLinears(const model::LayerWeights& weights, const LayerScheme& scheme,
                                   const TrainOptions& options, const ActBits& untrained)
    : options_(options) {
  for (const Linear l : model::kAllLinears) {
    const auto index = static_cast<size_t>(l);
    const MatView<const float> weight = weights[l].view();
    float_weights_[index] = weight;
    if (options.act_aware) act_bits_[index] = untrained[index];
    if (!scheme[index]) continue;
    const quant::ActSpec& act = scheme[index]->act;
    if (options.act_aware) act_bits_[index] = act.is_static || act.bits > 8 ? 0 : act.bits;
    Trained t;
    t.spec = scheme[index]->weight;
    t.group_size = t.spec.group_size == 0 ? weight.cols : t.spec.group_size;
    LAOS_ASSERT(weight.stride == weight.cols && weight.cols % t.group_size == 0);
    const int64_t rows = weight.rows * weight.cols / t.group_size;
    t.weight = {weight.data, rows, t.group_size, t.group_size};
    t.min.resize(static_cast<size_t>(rows));
    t.max.resize(static_cast<size_t>(rows));
    parallel_for_ranges(rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const quant::kernels::Range range = quant::kernels::range(t.weight.row(i), t.group_size);
        t.min[static_cast<size_t>(i)] = range.min;
        t.max[static_cast<size_t>(i)] = range.max;
      }
    });
    t.scale.resize(static_cast<size_t>(rows));
    if (options.enable_round_tuning) t.offsets = Mat<float>(rows, t.group_size);
    t.dequantized = Mat<float>(weight.rows, weight.cols);
    trained_[index] = std::move(t);
  }
  reset();
}

void TrainableLinears::reset() {
  for (std::optional<Trained>& t : trained_) {
    if (!t) continue;
    t->alpha_min.assign(t->scale.size(), 1.0f);
    t->alpha_max.assign(t->scale.size(), 1.0f);
    t->offsets.fill_zero();
    parallel_for_ranges(t->weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) requantize_row(*t, i);
    });
  }
}

MatView<const float> TrainableLinears::applied(Linear linear) const noexcept {
  const auto index = static_cast<size_t>(linear);
  return trained_[index] ? trained_[index]->dequantized.view() : float_weights_[index];
}

void TrainableLinears::requantize_row(Trained& t, int64_t row) noexcept {
  const auto i = static_cast<size_t>(row);
  t.scale[i] = quant::scale_of(t.min[i] * t.alpha_min[i], t.max[i] * t.alpha_max[i], t.spec);
  quant::kernels::fake_quantize(
      t.weight.row(row), t.offsets.size() != 0 ? t.offsets.row(row) : nullptr, t.scale[i],
      t.spec.q_max(), t.dequantized.data() + row * t.group_size, t.group_size);
}

void TrainableLinears::update_row(Trained& t, int64_t row, const float* d_weight) const noexcept {
  const auto i = static_cast<size_t>(row);
  const float d_scale = kernels::update_offsets(
      t.weight.row(row), d_weight, t.scale[i], t.spec.q_max(), lr_, clip_of(t.spec),
      t.offsets.size() != 0 ? t.offsets.row(row) : nullptr, t.group_size);
  if (options_.enable_minmax_tuning) {
    // scale = max(max α_max, -min α_min) / q_max while it is above its floor: only the larger side
    // moves, a tie moves both. max >= 0 and -min >= 0, so the step's sign is that of d_scale.
    const float above = t.max[i] * t.alpha_max[i], below = -t.min[i] * t.alpha_min[i];
    const bool above_floor =
        std::max(above, below) / static_cast<float>(t.spec.q_max()) >= t.spec.min_scale;
    const float step = lr_ * sign(d_scale);
    if (above_floor && above >= below && above > 0)
      t.alpha_max[i] = std::clamp(t.alpha_max[i] - step, 0.0f, 1.0f);
    if (above_floor && below >= above && below > 0)
      t.alpha_min[i] = std::clamp(t.alpha_min[i] - step, 0.0f, 1.0f);
  }
  requantize_row(t, row);
}

MatView<const float> TrainableLinears::input_of(Linear linear, MatView<const float> x) {
  const int bits = act_bits_[static_cast<size_t>(linear)];
  if (bits == 0) return x;
  if (rounded_.size() < x.rows * x.cols) rounded_ = Buffer<float>(x.rows * x.cols);
  const MatView<float> rounded{rounded_.data(), x.rows, x.cols, x.cols};
  if (rounded_bits_ != bits) quant::fake_quantize_tokens(x, {.bits = bits}, rounded);
  rounded_bits_ = bits;
  return rounded;
}

void TrainableLinears::forward(model::LinearGroup group, MatView<const float> x,
                               std::span<const MatView<float>> ys) {
  const std::span<const Linear> linears = model::linears_of(group);
  rounded_bits_ = 0;
  for (size_t i = 0; i < linears.size(); ++i)
    linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, input_of(linears[i], x), applied(linears[i]), 0.0f,
                 ys[i]);
}

void TrainableLinears::backward(model::LinearGroup group, MatView<const float> x,
                                std::span<const MatView<const float>> d_ys, MatView<float> d_x) {
  const std::span<const Linear> linears = model::linears_of(group);
  rounded_bits_ = 0;
  for (size_t i = 0; i < linears.size(); ++i) {
    if (d_x.data != nullptr)
      linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, d_ys[i], applied(linears[i]), i == 0 ? 0.0f : 1.0f,
                   d_x);
    std::optional<Trained>& t = trained_[static_cast<size_t>(linears[i])];
    if (!t) continue;
    const int64_t groups_per_row = t->dequantized.cols() / t->group_size;
    const MatView<const float> input = input_of(linears[i], x);
    parallel_for_ranges(t->dequantized.rows(), kGradientRows, [&](int64_t begin, int64_t end) {
      Mat<float> d_weight(end - begin, t->dequantized.cols());
      linalg::gemm_one_thread(Trans::kYes, Trans::kNo, 1.0f, d_ys[i].slice_cols(begin, end), input,
                              0.0f, d_weight.view());
      for (int64_t g = begin * groups_per_row; g < end * groups_per_row; ++g)
        update_row(*t, g, d_weight.data() + (g - begin * groups_per_row) * t->group_size);
    });
  }
}

void TrainableLinears::save(Snapshot& snapshot) const {
  for (size_t l = 0; l < trained_.size(); ++l) {
    if (!trained_[l]) continue;
    const Trained& t = *trained_[l];
    quant::IntWeight& saved = snapshot[l];
    if (saved.q.size() == 0) saved.q = Mat<int8_t>(t.dequantized.rows(), t.dequantized.cols());
    saved.spec = t.spec;
    saved.scale = t.scale;
    // Ŵ = scale * q, so quantizing Ŵ gives q back exactly: the quotient is within rounding of an
    // integer.
    parallel_for_ranges(t.weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        quant::kernels::quantize(t.dequantized.data() + i * t.group_size, nullptr,
                                 t.scale[static_cast<size_t>(i)], t.spec.q_max(),
                                 saved.q.data() + i * t.group_size, t.group_size);
    });
  }
}

void TrainableLinears::apply(const Snapshot& snapshot) {
  for (size_t l = 0; l < trained_.size(); ++l) {
    if (!trained_[l]) continue;
    Trained& t = *trained_[l];
    t.scale = snapshot[l].scale;
    parallel_for_ranges(t.weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        quant::kernels::dequantize(snapshot[l].q.data() + i * t.group_size,
                                   t.scale[static_cast<size_t>(i)],
                                   t.dequantized.data() + i * t.group_size, t.group_size);
    });
  }
}

}  // namespace laos::autoround
