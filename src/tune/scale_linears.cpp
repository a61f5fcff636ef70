#include "tune/scale_linears.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/threads.h"
#include "linalg/kernels/bf16.h"
#include "model/kernels/elementwise.h"
#include "quant/int_weight.h"
#include "quant/kernels/rows.h"
#include "scheme/schemes.h"

namespace laos::tune {

using linalg::Trans;
using model::Linear;

namespace {

constexpr int64_t kRowGrain = 16;

void widen(const int8_t* codes, float* values, int64_t n) {
  for (int64_t j = 0; j < n; ++j) values[j] = codes[j];
}

}  // namespace

bool has_factors(const std::string& label) {
  const scheme::Scheme* scheme = scheme::find(label);
  return scheme != nullptr && !scheme->is_float() &&
         scheme->activations != scheme::Activations::kStatic &&
         scheme->activations != scheme::Activations::kEither;
}

void ScaleLinears::load(int64_t layer_idx, const RowValues& log_factors,
                        const model::LayerWeights& small, const model::OnlineTransforms& online) {
  small_ = &small;
  gradients_ = {};
  const hf::Config& config = checkpoint_.config();
  for (const Linear l : model::linears_in(config, layer_idx)) {
    const std::string name = model::name_of(config, layer_idx, l);
    Entry& entry = entries_[l];
    entry.out = model::out_features(config, l);
    entry.in = model::in_features(config, l);
    entry.clip = online.clip_of(hf::group_of(l));
    load(name, entry);
    if (!has_factors(checkpoint_.label(name))) continue;
    const std::vector<float>& factors = log_factors[l];
    for (size_t i = 0; i < factors.size(); ++i) entry.row_scale[i] *= std::exp(factors[i]);
    gradients_[l].assign(static_cast<size_t>(entry.out), 0.0f);
  }
}

// The operand of a linear and the scales of its rows.
void ScaleLinears::load(const std::string& name, Entry& entry) {
  const scheme::Scheme& scheme = *scheme::find(checkpoint_.label(name));
  const int64_t out = entry.out, in = entry.in;
  entry.act_bits = scheme.activations == scheme::Activations::kDynamic && !scheme.is_float()
                       ? scheme.act_bits
                       : 0;
  entry.range.reset();
  entry.row_scale.assign(static_cast<size_t>(out), 1.0f);
  const MatView<float> wide = is_bf16() ? MatView<float>() : grown(entry.wide, out, in);
  const MatView<uint16_t> narrow = is_bf16() ? grown(entry.narrow, out, in) : MatView<uint16_t>();
  // value_of(i, row) writes row i in f32.
  const auto fill = [&](const auto& write_row) {
    parallel_for_ranges(out, kRowGrain, [&](int64_t begin, int64_t end) {
      thread_local Buffer<float> room;
      for (int64_t i = begin; i < end; ++i) {
        float* const row = is_bf16() ? grown(room, 1, in).data : wide.row(i);
        write_row(i, row);
        if (is_bf16()) linalg::kernels::to_bf16(row, narrow.row(i), in);
      }
    });
  };
  if (scheme.is_float()) {
    const Mat<float> real = to_f32(checkpoint_.weight(name));
    return fill([&](int64_t i, float* row) { std::copy_n(real.row(i), in, row); });
  }
  Mat<int8_t> unpacked;
  MatView<const int8_t> codes = checkpoint_.stored_codes(name);
  if (codes.data == nullptr) {
    unpacked = checkpoint_.codes(name);
    codes = std::as_const(unpacked).view();
  }
  std::vector<float> scale;
  if (scheme.activations == scheme::Activations::kStatic) {
    hf::StaticInput input = checkpoint_.static_input(name);
    entry.range = quant::StaticRange{.scale = input.scale, .offset = input.offset};
    scale = std::move(input.deq_scale);
  } else {
    scale = checkpoint_.weight_scale(name);
  }
  const int64_t groups = std::ssize(scale) / out;
  if (groups == 1) {
    entry.row_scale = std::move(scale);
    return fill([&](int64_t i, float* row) { widen(codes.row(i), row, in); });
  }
  fill([&](int64_t i, float* row) {
    for (int64_t g = 0; g < groups; ++g)
      quant::kernels::dequantize(codes.row(i) + g * in / groups,
                                 scale[static_cast<size_t>(i * groups + g)], row + g * in / groups,
                                 in / groups);
  });
}

Operand ScaleLinears::operand(const Entry& entry) const {
  if (is_bf16()) return {{}, {entry.narrow.data(), entry.out, entry.in, entry.in}};
  return {{entry.wide.data(), entry.out, entry.in, entry.in}, {}};
}

MatView<const float> ScaleLinears::round_input(const Entry& entry, MatView<const float> x) {
  if (entry.act_bits == 0 && !entry.range) return x;
  const MatView<float> codes = grown(input_, x.rows, x.cols);
  if (entry.act_bits != 0) {
    const quant::QuantizedTokens tokens =
        quant::quantize_tokens(x, {.bits = entry.act_bits}, entry.clip);
    std::copy_n(tokens.scale.data(), x.rows, grown(token_scale_, 1, x.rows).data);
    parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) widen(tokens.q.row(t), codes.row(t), x.cols);
    });
    return codes;
  }
  const std::vector<float> offsets(static_cast<size_t>(x.cols), entry.range->offset);
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    thread_local Buffer<int8_t> room;
    int8_t* const row = grown(room, 1, x.cols).data;
    for (int64_t t = begin; t < end; ++t) {
      quant::kernels::quantize(x.row(t), offsets.data(), entry.range->scale, 127, row, x.cols);
      for (int64_t j = 0; j < x.cols; ++j)
        codes.row(t)[j] = static_cast<float>(row[j]) - entry.range->offset;
    }
  });
  return codes;
}

void ScaleLinears::forward(model::LinearGroup group, MatView<const float> x,
                           std::span<const MatView<float>> ys) {
  const std::span<const Linear> linears = model::linears_of(group);
  Operand input;
  const Entry* rounded = nullptr;  // whose input that is
  for (size_t i = 0; i < linears.size(); ++i) {
    Entry& entry = entries_[linears[i]];
    const bool is_same = rounded != nullptr && rounded->act_bits == entry.act_bits &&
                         !rounded->range && !entry.range;
    if (!is_same) input = operand_of(round_input(entry, x), compute_, narrow_input_);
    rounded = &entry;
    multiply(input, Trans::kYes, operand(entry), false, ys[i]);
    entry.num_tokens = keeps_ ? x.rows : 0;
    const MatView<float> kept = keeps_ ? grown(entry.output, x.rows, entry.out) : MatView<float>();
    const float* const bias = small_->biases[linears[i]].data();
    parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        float* const y = ys[i].row(t);
        const float token_scale = entry.act_bits != 0 ? token_scale_[t] : 1.0f;
        for (int64_t j = 0; j < entry.out; ++j)
          y[j] *= token_scale * entry.row_scale[static_cast<size_t>(j)];
        if (keeps_) std::copy_n(y, entry.out, kept.row(t));
        if (bias != nullptr) model::kernels::add(bias, y, entry.out);
      }
    });
  }
}

void ScaleLinears::input_gradient(model::LinearGroup group,
                                  std::span<const MatView<const float>> d_ys, MatView<float> d_x) {
  const std::span<const Linear> linears = model::linears_of(group);
  for (size_t i = 0; i < linears.size(); ++i) {
    const Entry& entry = entries_[linears[i]];
    const MatView<float> d_y = grown(d_y_, d_ys[i].rows, entry.out);
    parallel_for_ranges(d_y.rows, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t j = 0; j < entry.out; ++j)
          d_y.row(t)[j] = d_ys[i].row(t)[j] * entry.row_scale[static_cast<size_t>(j)];
    });
    multiply(operand_of(d_y, compute_, narrow_input_), Trans::kNo, operand(entry), i != 0, d_x);
  }
}

void ScaleLinears::weight_gradient(model::LinearGroup group, MatView<const float> /*x*/,
                                   std::span<const MatView<const float>> d_ys,
                                   std::span<const int64_t> /*ends*/) {
  const std::span<const Linear> linears = model::linears_of(group);
  constexpr int64_t kCols = 64;
  for (size_t i = 0; i < linears.size(); ++i) {
    std::vector<float>& gradient = gradients_[linears[i]];
    const Entry& entry = entries_[linears[i]];
    const MatView<const float> d_y = d_ys[i];
    if (gradient.empty() || d_y.data == nullptr) continue;
    LAOS_ASSERT(entry.num_tokens == d_y.rows && entry.out == d_y.cols);
    parallel_for_ranges(d_y.cols, kCols, [&](int64_t begin, int64_t end) {
      double sums[kCols] = {};
      for (int64_t t = 0; t < d_y.rows; ++t)
        for (int64_t j = begin; j < end; ++j)
          sums[j - begin] += static_cast<double>(d_y.row(t)[j]) * entry.output[t * entry.out + j];
      for (int64_t j = begin; j < end; ++j)
        gradient[static_cast<size_t>(j)] += static_cast<float>(sums[j - begin]);
    });
  }
}

int64_t ScaleLinears::size_bytes(const hf::Config& config, int64_t num_tokens,
                                 linalg::ComputeType compute) {
  int64_t most = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    int64_t weights = 0, outputs = 0, widest = 0;
    for (const Linear l : model::linears_in(config, layer)) {
      weights += model::num_weights(config, l);
      outputs += model::out_features(config, l);
      widest = std::max({widest, model::in_features(config, l), model::out_features(config, l)});
    }
    const bool is_bf16 = compute == linalg::ComputeType::kBf16;
    most = std::max(most, (is_bf16 ? 2 : 4) * weights + num_tokens * (4 * outputs + 14 * widest) +
                              (is_bf16 ? linalg::kBf16Bytes : 0));
  }
  return most;
}

}  // namespace laos::tune
