#include "autoround/trainable_linears.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "autoround/kernels/update.h"
#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/kernels/bf16.h"
#include "quant/kernels/rows.h"

namespace laos::autoround {

using linalg::Trans;
using model::Linear;

namespace {

constexpr int64_t kRowGrain = 16;

// Output rows whose gradient exists at a time. In bf16 every thread makes some of its own and
// spends them while they are in its cache, tall enough that the product runs at full rate. In f32
// all threads make tiles of a taller block, as oneDNN wants tiles of kTileRows (see linalg::gemm).
constexpr int64_t kTileRows = 512, kBlockFloats = int64_t{16} << 20;
int64_t block_rows(int64_t in_features) noexcept {
  return std::max(kTileRows, kBlockFloats / in_features / kTileRows * kTileRows);
}

// The largest offset: a code moves by at most one step (4 bit) or two (8 bit).
float clip_of(const quant::WeightSpec& spec) noexcept { return spec.bits == 4 ? 0.5f : 1.0f; }

// Rows of bf16 operands: tokens filled up with rows of zeros, which add nothing to a gradient, so
// that batches of different lengths give oneDNN few shapes to compile code for.
constexpr int64_t kTokenBlock = 64;
int64_t padded_tokens(int64_t n) noexcept {
  return (n + kTokenBlock - 1) / kTokenBlock * kTokenBlock;
}

// Of pieces that end at rows `ends`, each filled up.
int64_t padded_tokens(std::span<const int64_t> ends) noexcept {
  int64_t rows = 0, first = 0;
  for (const int64_t last : ends) rows += padded_tokens(last - std::exchange(first, last));
  return rows;
}

// Each piece of x rounded to bfloat16, below it rows of zeros.
void narrow_pieces(MatView<const float> x, std::span<const int64_t> ends, MatView<uint16_t> y) {
  int64_t first = 0, row = 0;
  for (const int64_t last : ends) {
    const int64_t end = row + padded_tokens(last - first);
    linalg::to_bf16_padded(x.slice_rows(first, last), y.slice_rows(row, end));
    first = last;
    row = end;
  }
}

float sign(float x) noexcept { return static_cast<float>((x > 0) - (x < 0)); }

}  // namespace

int64_t gradient_block_bytes(int64_t out_features, int64_t in_features) noexcept {
  return int64_t{4} * std::min(out_features, block_rows(in_features)) * in_features;
}

TrainableLinears::TrainableLinears(const model::LayerWeights& weights, const LayerScheme& scheme,
                                   const TrainOptions& options, const ActBits& untrained,
                                   const model::OnlineTransforms& online)
    : options_(options) {
  for (int64_t i = 0; i < weights.linears.size(); ++i)
    if (const auto l = static_cast<Linear>(i); weights[l].size() != 0) linears_.push_back(l);
  for (const Linear l : linears_) {
    const MatView<const float> weight = weights[l].view();
    float_weights_[l] = weight;
    biases_[l] = weights.biases[l].data();
    clips_[l] = online.clip_of(hf::group_of(l));
    if (options.act_aware) act_bits_[l] = untrained[l];
    if (!scheme[l]) continue;
    const quant::ActSpec& act = scheme[l]->act;
    if (options.act_aware) act_bits_[l] = act.is_static || act.bits > 8 ? 0 : act.bits;
    Trained t;
    t.spec = scheme[l]->weight;
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
    // [rows, group_size]
    if (options.enable_round_tuning) t.offsets = Mat<int16_t>(rows, t.group_size);
    t.unit = clip_of(t.spec) / 32767;
    if (!is_bf16()) t.dequantized = Mat<float>(weight.rows, weight.cols);  // [out, in]
    trained_[l] = std::move(t);
  }
  if (is_bf16()) {
    for (const model::Linear l : linears_) {
      const MatView<const float> weight = float_weights_[l];
      narrow_[l] = Mat<uint16_t>(weight.rows, weight.cols);  // [out, in]
      if (!trained_[l]) linalg::to_bf16(weight, narrow_[l].view());
    }
  }
  reset();
}

void TrainableLinears::reset() {
  for (const model::Linear l : linears_) {
    std::optional<Trained>& t = trained_[l];
    if (!t) continue;
    t->alpha_min.assign(t->scale.size(), 1.0f);
    t->alpha_max.assign(t->scale.size(), 1.0f);
    t->offsets.fill_zero();
    parallel_for_ranges(t->weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      Buffer<float> scratch(t->group_size);
      for (int64_t i = begin; i < end; ++i) requantize_row(l, i, scratch.data());
    });
    aside_[l].drop(0, aside_[l].rows());
  }
}

void TrainableLinears::put_weights_aside(model::LayerWeights& weights,
                                         const std::filesystem::path& directory) {
  for (const Linear l : linears_) {
    if (!trained_[l]) continue;
    const Mat<float>& source = weights[l];
    aside_[l] = io::PagedMat<float>(source.rows(), source.cols(), directory);  // [out, in]
    aside_[l].for_pieces([&](int64_t begin, int64_t end) {
      std::copy(source.row(begin), source.data() + end * source.cols(), aside_[l].row(begin));
    });
    weights[l] = Mat<float>();
    float_weights_[l] = std::as_const(aside_[l]).view();
    trained_[l]->weight.data = aside_[l].data();
  }
}

void TrainableLinears::restore_weights(model::LayerWeights& weights) {
  narrow_ = {};
  gradients_ = {};
  for (std::optional<Trained>& t : trained_) {
    if (!t) continue;
    t->dequantized = {};
    t->offsets = {};
  }
  for (const Linear l : linears_) {
    io::PagedMat<float>& source = aside_[l];
    if (source.size() == 0) continue;
    Mat<float> weight(source.rows(), source.cols());  // [out, in]
    source.for_pieces([&](int64_t begin, int64_t end) {
      std::copy(source.row(begin), source.data() + end * source.cols(), weight.row(begin));
    });
    weights[l] = std::move(weight);
    float_weights_[l] = weights[l].view();
    trained_[l]->weight.data = weights[l].data();
    source = {};
  }
}

MatView<const float> TrainableLinears::applied(Linear linear) const noexcept {
  return trained_[linear] ? trained_[linear]->dequantized.view() : float_weights_[linear];
}

MatView<const uint16_t> TrainableLinears::applied_bf16(Linear linear) const noexcept {
  return narrow_[linear].view();
}

void TrainableLinears::requantize_row(model::Linear linear, int64_t row, float* scratch) noexcept {
  Trained& t = *trained_[linear];
  const auto i = static_cast<size_t>(row);
  const int64_t begin = row * t.group_size;
  float* target = is_bf16() ? scratch : t.dequantized.data() + begin;
  t.scale[i] = quant::scale_of(t.min[i] * t.alpha_min[i], t.max[i] * t.alpha_max[i], t.spec);
  if (t.offsets.size() != 0)
    kernels::fake_quantize(t.weight.row(row), t.offsets.row(row), t.unit, t.scale[i],
                           t.spec.q_max(), target, t.group_size);
  else
    quant::kernels::fake_quantize(t.weight.row(row), nullptr, t.scale[i], t.spec.q_max(), target,
                                  t.group_size);
  if (is_bf16()) linalg::kernels::to_bf16(scratch, narrow_[linear].data() + begin, t.group_size);
}

void TrainableLinears::dequantize_row(model::Linear linear, int64_t row, const int8_t* codes,
                                      float* scratch) noexcept {
  Trained& t = *trained_[linear];
  const int64_t begin = row * t.group_size;
  float* target = is_bf16() ? scratch : t.dequantized.data() + begin;
  quant::kernels::dequantize(codes, t.scale[static_cast<size_t>(row)], target, t.group_size);
  if (is_bf16()) linalg::kernels::to_bf16(scratch, narrow_[linear].data() + begin, t.group_size);
}

void TrainableLinears::update_row(model::Linear linear, int64_t row, float* d_weight) noexcept {
  Trained& t = *trained_[linear];
  const auto i = static_cast<size_t>(row);
  const float d_scale =
      kernels::update_offsets(t.weight.row(row), d_weight, t.scale[i], t.spec.q_max(), t.unit,
                              static_cast<int32_t>(std::lround(std::min(lr_ / t.unit, 65535.0f))),
                              t.offsets.size() != 0 ? t.offsets.row(row) : nullptr, t.group_size);
  if (options_.enable_minmax_tuning) {
    // |scale| = max(max α_max, -min α_min) / steps while it is above its floor: only the larger
    // side moves, a tie moves both. max >= 0 and -min >= 0, so the step's sign is that of d|scale|.
    const float above = t.max[i] * t.alpha_max[i], below = -t.min[i] * t.alpha_min[i];
    const bool above_floor =
        std::max(above, below) / static_cast<float>(t.spec.steps()) >= t.spec.min_scale;
    const float step = lr_ * sign(d_scale) * sign(t.scale[i]);
    if (above_floor && above >= below && above > 0)
      t.alpha_max[i] = std::clamp(t.alpha_max[i] - step, 0.0f, 1.0f);
    if (above_floor && below >= above && below > 0)
      t.alpha_min[i] = std::clamp(t.alpha_min[i] - step, 0.0f, 1.0f);
  }
  requantize_row(linear, row, d_weight);
}

MatView<const float> TrainableLinears::input_of(Linear linear, MatView<const float> x) {
  const int bits = act_bits_[linear];
  if (bits == 0) return x;
  const MatView<float> rounded = grown(rounded_, x.rows, x.cols);
  if (rounded_bits_ != bits)
    quant::fake_quantize_tokens(x, {.bits = bits}, rounded, clips_[linear]);
  rounded_bits_ = bits;
  return rounded;
}

MatView<const uint16_t> TrainableLinears::narrow_input_of(Linear linear, MatView<const float> x,
                                                          std::span<const int64_t> ends) {
  const int bits = act_bits_[linear];
  const MatView<uint16_t> narrow = grown(narrow_input_, padded_tokens(ends), x.cols);
  if (narrow_bits_ != bits) narrow_pieces(input_of(linear, x), ends, narrow);
  narrow_bits_ = bits;
  return narrow;
}

void TrainableLinears::forward(model::LinearGroup group, MatView<const float> x,
                               std::span<const MatView<float>> ys) {
  const std::span<const Linear> linears = model::linears_of(group);
  rounded_bits_ = 0;
  narrow_bits_ = -1;
  for (size_t i = 0; i < linears.size(); ++i) {
    if (is_bf16())
      linalg::gemm_bf16(Trans::kNo, Trans::kYes,
                        narrow_input_of(linears[i], x, {&x.rows, 1}).slice_rows(0, x.rows),
                        applied_bf16(linears[i]), false, ys[i]);
    else
      linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, input_of(linears[i], x), applied(linears[i]),
                   0.0f, ys[i]);
    model::add_bias(biases_[linears[i]], ys[i]);
  }
}

void TrainableLinears::input_gradient(model::LinearGroup group,
                                      std::span<const MatView<const float>> d_ys,
                                      MatView<float> d_x) {
  const std::span<const Linear> linears = model::linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i) {
    const MatView<const float> d_y = d_ys[i];
    if (!is_bf16()) {
      linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, d_y, applied(linears[i]), i == 0 ? 0.0f : 1.0f,
                   d_x);
      continue;
    }
    const MatView<uint16_t> narrow = grown(narrow_d_y_, d_y.rows, d_y.cols);
    linalg::to_bf16(d_y, narrow);
    linalg::gemm_bf16(Trans::kNo, Trans::kNo, narrow, applied_bf16(linears[i]), i != 0, d_x);
  }
}

void TrainableLinears::update_rows(model::Linear linear, int64_t begin, int64_t end,
                                   float* d_weight) noexcept {
  const Trained& t = *trained_[linear];
  const int64_t groups_per_row = float_weights_[linear].cols / t.group_size;
  for (int64_t g = begin * groups_per_row; g < end * groups_per_row; ++g)
    update_row(linear, g, d_weight + (g - begin * groups_per_row) * t.group_size);
  aside_[linear].drop(begin, end);
}

void TrainableLinears::weight_gradient(model::LinearGroup group, MatView<const float> x,
                                       std::span<const MatView<const float>> d_ys,
                                       std::span<const int64_t> ends) {
  const std::span<const Linear> linears = model::linears_of(group);
  rounded_bits_ = 0;
  narrow_bits_ = -1;
  for (size_t i = 0; i < linears.size(); ++i) {
    const Linear l = linears[i];
    const MatView<const float> d_y = d_ys[i];
    if (!trained_[l] || d_y.data == nullptr) continue;
    const bool adds = has_gradient_[l];
    if (keeps_gradients_) has_gradient_[l] = true;
    const auto gradient_of = [&](int64_t begin, int64_t end, Buffer<float>& scratch) {
      return keeps_gradients_ ? gradients_[l].view().slice_rows(begin, end)
                              : grown(scratch, end - begin, x.cols);
    };
    if (is_bf16()) {
      const MatView<uint16_t> narrow = grown(narrow_d_y_, padded_tokens(ends), d_y.cols);
      narrow_pieces(d_y, ends, narrow);
      const MatView<const uint16_t> narrow_d_y = narrow,
                                    input = narrow_input_of(linears[i], x, ends);
      parallel_for_ranges(d_y.cols, kGradientRows, [&](int64_t begin, int64_t end) {
        // Kept by the thread: fresh pages for every tile would cost as much as the update.
        thread_local Buffer<float> scratch;
        const MatView<float> d_weight = gradient_of(begin, end, scratch);
        int64_t first = 0, row = 0;  // of the piece, and in the padded operands
        for (const int64_t last : ends) {
          const int64_t next_row = row + padded_tokens(last - first);
          linalg::gemm_bf16_one_thread(
              Trans::kYes, Trans::kNo, narrow_d_y.slice_rows(row, next_row).slice_cols(begin, end),
              input.slice_rows(row, next_row), adds || first > 0, d_weight);
          first = last;
          row = next_row;
        }
        if (!keeps_gradients_) update_rows(l, begin, end, d_weight.data);
      });
      continue;
    }
    const MatView<const float> input = input_of(linears[i], x);
    const int64_t rows = block_rows(x.cols);
    for (int64_t begin = 0; begin < d_y.cols; begin += rows) {
      const int64_t end = std::min(begin + rows, d_y.cols);
      const MatView<float> d_weight = gradient_of(begin, end, gradient_block_);
      int64_t first = 0;
      for (const int64_t last : ends) {
        linalg::gemm(Trans::kYes, Trans::kNo, 1.0f,
                     d_y.slice_rows(first, last).slice_cols(begin, end),
                     input.slice_rows(first, last), adds || first > 0 ? 1.0f : 0.0f, d_weight);
        first = last;
      }
      if (keeps_gradients_) continue;
      parallel_for_ranges(end - begin, kRowGrain, [&](int64_t from, int64_t to) {
        update_rows(l, begin + from, begin + to, d_weight.row(from));
      });
    }
  }
}

void TrainableLinears::keep_gradients() {
  keeps_gradients_ = true;
  for (const model::Linear l : linears_)
    // [out, in]
    if (trained_[l]) gradients_[l] = Mat<float>(float_weights_[l].rows, float_weights_[l].cols);
}

void TrainableLinears::step() {
  for (const model::Linear l : linears_) {
    if (!has_gradient_[l]) continue;
    parallel_for_ranges(gradients_[l].rows(), kGradientRows, [&](int64_t begin, int64_t end) {
      update_rows(l, begin, end, gradients_[l].row(begin));
    });
    has_gradient_[l] = false;
  }
}

void TrainableLinears::save(Snapshot& snapshot) const {
  for (const model::Linear l : linears_) {
    if (!trained_[l]) continue;
    const Trained& t = *trained_[l];
    io::PagedMat<int8_t>& q = snapshot.q[l];
    if (q.size() == 0)
      // [out, in]
      q = io::PagedMat<int8_t>(float_weights_[l].rows, float_weights_[l].cols, snapshot.directory);
    snapshot.specs[l] = t.spec;
    snapshot.scale[l] = t.scale;
    // Ŵ = scale * q, so quantizing Ŵ gives q back exactly: the quotient is within rounding of an
    // integer, in bf16 within 2^-9 of it in proportion, a quarter at q = -128.
    parallel_for_ranges(t.weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      thread_local Buffer<float> scratch;
      const MatView<float> wide = grown(scratch, 1, t.group_size);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = i * t.group_size;
        const float* row = wide.data;
        if (is_bf16())
          for (int64_t j = 0; j < t.group_size; ++j)
            wide.data[j] = bf16_to_float(narrow_[l].data()[at + j]);
        else
          row = t.dequantized.data() + at;
        quant::kernels::quantize(row, nullptr, t.scale[static_cast<size_t>(i)], t.spec.q_max(),
                                 q.data() + at, t.group_size);
      }
    });
    q.drop(0, q.rows());
  }
}

LayerCodes TrainableLinears::Snapshot::codes() const {
  LayerCodes codes;
  for (int64_t i = 0; i < q.size(); ++i) {
    const auto l = static_cast<Linear>(i);
    if (q[l].size() == 0) continue;
    codes[l].spec = specs[l];
    codes[l].scale = scale[l];
    codes[l].q = Mat<int8_t>(q[l].rows(), q[l].cols());  // [out, in]
    q[l].for_pieces([&](int64_t begin, int64_t end) {
      std::copy(q[l].row(begin), q[l].data() + end * q[l].cols(), codes[l].q.row(begin));
    });
  }
  return codes;
}

void TrainableLinears::apply(const Snapshot& snapshot) {
  for (const model::Linear l : linears_) {
    if (!trained_[l]) continue;
    Trained& t = *trained_[l];
    t.scale = snapshot.scale[l];
    parallel_for_ranges(t.weight.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      Buffer<float> scratch(t.group_size);
      for (int64_t i = begin; i < end; ++i)
        dequantize_row(l, i, snapshot.q[l].data() + i * t.group_size, scratch.data());
    });
    snapshot.q[l].drop(0, snapshot.q[l].rows());
  }
}

}  // namespace laos::autoround
