#include "model/mixture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <utility>

#include "core/threads.h"
#include "linalg/kernels/dot.h"
#include "model/decoder_layer.h"
#include "model/kernels/elementwise.h"

namespace laos::model {
namespace {

constexpr int64_t kTokenGrain = 4;  // tokens a task of elementwise work

template <class T>
void round_values(T* values, int64_t n, DType dtype) {
  if constexpr (std::is_same_v<T, float>)
    if (dtype != DType::kF32)
      for (int64_t i = 0; i < n; ++i) values[i] = round_to(dtype, values[i]);
}

// y[r] = x · rows[r], each by itself.
template <class T>
void dots(const T* x, const T* rows, int64_t num_rows, int64_t n, T* y) {
  if constexpr (std::is_same_v<T, float>)
    linalg::kernels::dot_f32(x, n, 1, rows, n, num_rows, n, y, num_rows);
  else
    for (int64_t r = 0; r < num_rows; ++r) y[r] = std::inner_product(x, x + n, rows + r * n, T(0));
}

// The experts of a token and their weights, in the order of experts. `logits` [num_experts] becomes
// their probabilities.
template <class T>
std::vector<std::pair<int64_t, T>> choose(const hf::Config& config, std::vector<T>& logits,
                                          DType dtype) {
  const T largest = *std::max_element(logits.begin(), logits.end());
  T sum = 0;
  for (T& value : logits) sum += value = std::exp(value - largest);
  for (T& value : logits) value /= sum;
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto chosen = order.begin() + config.num_experts_per_tok;
  // Of equals the first.
  std::partial_sort(order.begin(), chosen, order.end(), [&](int64_t a, int64_t b) {
    const T of_a = logits[static_cast<size_t>(a)], of_b = logits[static_cast<size_t>(b)];
    return of_a > of_b || (of_a == of_b && a < b);
  });
  T total = 1;
  if (config.norm_topk_prob) {
    total = 0;
    for (auto e = order.begin(); e != chosen; ++e) total += logits[static_cast<size_t>(*e)];
  }
  std::sort(order.begin(), chosen);
  std::vector<std::pair<int64_t, T>> result;
  for (auto e = order.begin(); e != chosen; ++e) {
    T weight = logits[static_cast<size_t>(*e)] / total;
    round_values(&weight, 1, dtype);
    result.emplace_back(*e, weight);
  }
  return result;
}

// y = down(silu(gate(x)) * up(x)) of an expert.
template <class T>
void expert_forward(LinearsForward<T>& linears, int64_t expert, MatView<const T> x, MatView<T> gate,
                    MatView<T> up, MatView<T> act, MatView<T> y, DType dtype) {
  const std::array gate_up = {gate, up};
  linears.forward(hf::of_expert(expert, LinearGroup::kGateUp), x, gate_up);
  parallel_for_ranges(x.rows, kTokenGrain, [&](int64_t begin, int64_t end) {
    const int64_t n = (end - begin) * act.cols;
    kernels::silu_mul(gate.row(begin), up.row(begin), act.row(begin), n);
    round_values(act.row(begin), n, dtype);
  });
  const std::array down = {y};
  linears.forward(hf::of_expert(expert, LinearGroup::kDown), act, down);
}

// Given d_made = ∂loss/∂y of that, which becomes ∂loss/∂x where it is wanted. gate and up become
// their gradients.
template <class T>
void expert_backward(LinearsBackward<T>& linears, int64_t expert, MatView<const T> x,
                     MatView<T> gate, MatView<T> up, MatView<const T> act, MatView<T> d_act,
                     MatView<T> d_made, bool wants_d_x) {
  const std::array<int64_t, 1> ends = {x.rows};
  const LinearGroup down = hf::of_expert(expert, LinearGroup::kDown),
                    gate_up = hf::of_expert(expert, LinearGroup::kGateUp);
  const std::array<MatView<const T>, 1> d_down = {d_made};
  linears.input_gradient(down, d_down, d_act);
  linears.weight_gradient(down, act, d_down, ends);
  parallel_for_ranges(x.rows, kTokenGrain, [&](int64_t begin, int64_t end) {
    kernels::silu_mul_backward(d_act.row(begin), gate.row(begin), up.row(begin), gate.row(begin),
                               up.row(begin), (end - begin) * gate.cols);
  });
  const std::array<MatView<const T>, 2> d_gate_up = {gate, up};
  if (wants_d_x) linears.input_gradient(gate_up, d_gate_up, d_made);
  linears.weight_gradient(gate_up, x, d_gate_up, ends);
}

// The beginning of a matrix as one of so many columns.
template <class T>
MatView<T> compact(Mat<T>& matrix, int64_t rows, int64_t cols) {
  LAOS_ASSERT(rows * cols <= matrix.size());
  return {matrix.data(), rows, cols, cols};
}

template <class F>
void each_token(int64_t count, const F& f) {
  parallel_for_ranges(count, kTokenGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

}  // namespace

template <class T>
MixtureSaved<T>::MixtureSaved(const hf::Config& config, int64_t max_tokens, bool with_backward) {
  if (config.num_experts == 0) return;
  const int64_t rows = max_tokens * config.num_experts_per_tok, hidden = config.hidden_size;
  x = Mat<T>(rows, hidden);  // [rows, hidden_size]
  for (Mat<T>* m : {&gate, &up, &act})
    *m = Mat<T>(rows, config.moe_intermediate_size);  // [rows, moe_intermediate_size]
  y = Mat<T>(max_tokens, hidden);                     // [tokens, hidden_size]
  if (with_backward)                                  // [tokens, the widest of an expert]
    d_act = Mat<T>(max_tokens,
                   std::max(config.moe_intermediate_size, config.shared_expert_intermediate_size));
  if (config.shared_expert_intermediate_size == 0) return;
  if (with_backward) shared_y = Mat<T>(max_tokens, hidden);  // [tokens, hidden_size]
  for (Mat<T>* m : {&shared_gate, &shared_up, &shared_act})
    *m = Mat<T>(max_tokens, config.shared_expert_intermediate_size);  // [tokens, its width]
}

template <class T>
int64_t MixtureSaved<T>::num_values(const hf::Config& config, int64_t max_tokens,
                                    bool with_backward) noexcept {
  if (config.num_experts == 0) return 0;
  const int64_t shared = config.shared_expert_intermediate_size;
  const int64_t backward =
      std::max(config.moe_intermediate_size, shared) + (shared > 0 ? config.hidden_size : 0);
  return (with_backward ? max_tokens * backward : 0) +
         max_tokens *
             (config.num_experts_per_tok * (config.hidden_size + 3 * config.moe_intermediate_size) +
              config.hidden_size + 3 * shared);
}

template <class T>
MatView<const T> MixtureSaved<T>::input_of(hf::LinearGroup group) const {
  const auto e = static_cast<size_t>(hf::expert_of(group));
  const bool is_of_gate_up = hf::reads_residual(group);
  if (e + 1 == offsets.size())
    return is_of_gate_up ? shared_x : shared_act.view().slice_rows(0, shared_x.rows);
  return (is_of_gate_up ? x : act).view().slice_rows(offsets[e], offsets[e + 1]);
}

template <class T>
void route(const hf::Config& config, const Routers<T>& routers, MatView<const T> x,
           MixtureSaved<T>& saved, DType dtype) {
  const auto num_experts = static_cast<size_t>(config.num_experts);
  std::vector<std::vector<std::pair<int64_t, T>>> chosen(static_cast<size_t>(x.rows));
  const int64_t k = config.num_experts_per_tok;
  const bool is_held = !saved.held_experts.empty();
  LAOS_ASSERT(!is_held || std::ssize(saved.held_experts) == k * x.rows);
  parallel_for_ranges(x.rows, kTokenGrain, [&](int64_t begin, int64_t end) {
    std::vector<T> logits(num_experts);
    for (int64_t i = begin; i < end; ++i) {
      if (is_held) {
        for (auto j = static_cast<size_t>(k * i); j < static_cast<size_t>(k * i + k); ++j)
          chosen[static_cast<size_t>(i)].emplace_back(saved.held_experts[j], saved.held_weights[j]);
        continue;
      }
      dots(x.row(i), routers.experts, config.num_experts, x.cols, logits.data());
      round_values(logits.data(), config.num_experts, dtype);
      chosen[static_cast<size_t>(i)] = choose(config, logits, dtype);
    }
  });
  saved.shared_x = x;
  saved.offsets.assign(num_experts + 1, 0);
  for (const auto& of_token : chosen)
    for (const auto& [expert, weight] : of_token) ++saved.offsets[static_cast<size_t>(expert) + 1];
  std::partial_sum(saved.offsets.begin(), saved.offsets.end(), saved.offsets.begin());
  std::vector<int64_t> next(saved.offsets.begin(), saved.offsets.end() - 1);
  saved.tokens.resize(static_cast<size_t>(saved.offsets.back()));
  saved.weights.resize(saved.tokens.size());
  for (size_t i = 0; i < chosen.size(); ++i)
    for (const auto& [expert, weight] : chosen[i]) {
      const auto row = static_cast<size_t>(next[static_cast<size_t>(expert)]++);
      saved.tokens[row] = static_cast<int64_t>(i);
      saved.weights[row] = weight;
    }
}

TokenRoutes routes_by_token(const hf::Config& config, const MixtureSaved<float>& saved) {
  const auto k = static_cast<size_t>(config.num_experts_per_tok);
  TokenRoutes routes;
  routes.experts.resize(saved.tokens.size());
  routes.weights.resize(saved.tokens.size());
  std::vector<size_t> filled(saved.tokens.size() / k);  // experts of each token so far
  for (size_t e = 0; e + 1 < saved.offsets.size(); ++e)
    for (auto row = static_cast<size_t>(saved.offsets[e]);
         row < static_cast<size_t>(saved.offsets[e + 1]); ++row) {
      const auto token = static_cast<size_t>(saved.tokens[row]);
      const size_t at = token * k + filled[token]++;
      routes.experts[at] = static_cast<int32_t>(e);
      routes.weights[at] = saved.weights[row];
    }
  return routes;
}

template <class T>
void mixture_forward(const hf::Config& config, const Routers<T>& routers,
                     LinearsForward<T>& linears, MatView<const T> x, MixtureSaved<T>& saved,
                     MatView<T> y, DType dtype) {
  route(config, routers, x, saved, dtype);
  each_token(std::ssize(saved.tokens), [&](int64_t row) {
    std::copy_n(x.row(saved.tokens[static_cast<size_t>(row)]), x.cols, saved.x.row(row));
  });
  each_token(y.rows, [&](int64_t i) { std::fill_n(y.row(i), y.cols, T(0)); });
  // What an expert makes of its tokens, which come once each, is added to theirs.
  const auto add = [&](int64_t token, T weight, const T* made) {
    T* sum = y.row(token);
    for (int64_t j = 0; j < y.cols; ++j) sum[j] += weight * made[j];
  };
  for (int64_t e = 0; e < config.num_experts; ++e) {
    const int64_t begin = saved.offsets[static_cast<size_t>(e)],
                  end = saved.offsets[static_cast<size_t>(e) + 1];
    if (begin == end) continue;
    const auto rows = [&](Mat<T>& m) { return m.view().slice_rows(begin, end); };
    const MatView<T> made = saved.y.view().slice_rows(0, end - begin);
    expert_forward<T>(linears, e, rows(saved.x), rows(saved.gate), rows(saved.up), rows(saved.act),
                      made, dtype);
    each_token(made.rows, [&](int64_t i) {
      const auto row = static_cast<size_t>(begin + i);
      add(saved.tokens[row], saved.weights[row], made.row(i));
    });
  }
  if (routers.shared_expert != nullptr) {
    const auto rows = [&](Mat<T>& m) { return m.view().slice_rows(0, x.rows); };
    expert_forward<T>(linears, config.num_experts, x, rows(saved.shared_gate),
                      rows(saved.shared_up), rows(saved.shared_act), rows(saved.y), dtype);
    saved.shared_weights.resize(static_cast<size_t>(x.rows));
    each_token(x.rows, [&](int64_t i) {
      T logit = 0;
      dots(x.row(i), routers.shared_expert, 1, x.cols, &logit);
      round_values(&logit, 1, dtype);
      T weight = 1 / (1 + std::exp(-logit));
      round_values(&weight, 1, dtype);
      saved.shared_weights[static_cast<size_t>(i)] = weight;
      add(i, weight, saved.y.row(i));
      if (saved.shared_y.size() != 0) std::copy_n(saved.y.row(i), x.cols, saved.shared_y.row(i));
    });
  }
  each_token(y.rows, [&](int64_t i) { round_values(y.row(i), y.cols, dtype); });
}

template <class T>
void mixture_backward(const hf::Config& config, const Routers<T>& routers,
                      LinearsBackward<T>& linears, MixtureSaved<T>& saved, MatView<const T> d_y,
                      MatView<T> d_x) {
  const bool wants_d_x = d_x.data != nullptr;
  const auto scale = [&](int64_t token, T weight, T* target) {
    for (int64_t j = 0; j < d_y.cols; ++j) target[j] = weight * d_y.row(token)[j];
  };
  const auto add = [&](const T* from, int64_t token) {
    for (int64_t j = 0; j < d_x.cols; ++j) d_x.row(token)[j] += from[j];
  };
  if (wants_d_x) each_token(d_x.rows, [&](int64_t i) { std::fill_n(d_x.row(i), d_x.cols, T(0)); });
  for (int64_t e = 0; e < config.num_experts; ++e) {
    const int64_t begin = saved.offsets[static_cast<size_t>(e)],
                  end = saved.offsets[static_cast<size_t>(e) + 1];
    if (begin == end) continue;
    const auto rows = [&](Mat<T>& m) { return m.view().slice_rows(begin, end); };
    const MatView<T> d_made = saved.y.view().slice_rows(0, end - begin);
    const auto row_of = [&](int64_t i) { return static_cast<size_t>(begin + i); };
    each_token(d_made.rows, [&](int64_t i) {
      scale(saved.tokens[row_of(i)], saved.weights[row_of(i)], d_made.row(i));
    });
    expert_backward<T>(linears, e, rows(saved.x), rows(saved.gate), rows(saved.up), rows(saved.act),
                       compact(saved.d_act, d_made.rows, saved.act.cols()), d_made, wants_d_x);
    if (wants_d_x)
      each_token(d_made.rows, [&](int64_t i) { add(d_made.row(i), saved.tokens[row_of(i)]); });
  }
  if (routers.shared_expert == nullptr) return;
  const int64_t n = d_y.rows;
  const auto rows = [&](Mat<T>& m) { return m.view().slice_rows(0, n); };
  const MatView<T> d_made = rows(saved.y);
  each_token(
      n, [&](int64_t i) { scale(i, saved.shared_weights[static_cast<size_t>(i)], d_made.row(i)); });
  expert_backward<T>(linears, config.num_experts, saved.shared_x, rows(saved.shared_gate),
                     rows(saved.shared_up), rows(saved.shared_act),
                     compact(saved.d_act, n, saved.shared_act.cols()), d_made, wants_d_x);
  if (!wants_d_x) return;
  each_token(n, [&](int64_t i) {
    add(d_made.row(i), i);
    const T weight = saved.shared_weights[static_cast<size_t>(i)], *made = saved.shared_y.row(i);
    const T d_logit =
        std::inner_product(made, made + d_y.cols, d_y.row(i), T(0)) * weight * (1 - weight);
    for (int64_t j = 0; j < d_x.cols; ++j) d_x.row(i)[j] += d_logit * routers.shared_expert[j];
  });
}

#define LAOS_INSTANTIATE(T)                                                                        \
  template struct MixtureSaved<T>;                                                                 \
  template void route<T>(const hf::Config&, const Routers<T>&, MatView<const T>, MixtureSaved<T>&, \
                         DType);                                                                   \
  template void mixture_forward<T>(const hf::Config&, const Routers<T>&, LinearsForward<T>&,       \
                                   MatView<const T>, MixtureSaved<T>&, MatView<T>, DType);         \
  template void mixture_backward<T>(const hf::Config&, const Routers<T>&, LinearsBackward<T>&,     \
                                    MixtureSaved<T>&, MatView<const T>, MatView<T>);
LAOS_INSTANTIATE(float)
LAOS_INSTANTIATE(double)
#undef LAOS_INSTANTIATE

}  // namespace laos::model
