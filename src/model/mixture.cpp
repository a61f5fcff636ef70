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

// Fills offsets, tokens and weights of `saved`.
template <class T>
void route(const hf::Config& config, const Routers<T>& routers, MatView<const T> x,
           MixtureSaved<T>& saved, DType dtype) {
  const auto num_experts = static_cast<size_t>(config.num_experts);
  std::vector<std::vector<std::pair<int64_t, T>>> chosen(static_cast<size_t>(x.rows));
  parallel_for_ranges(x.rows, kTokenGrain, [&](int64_t begin, int64_t end) {
    std::vector<T> logits(num_experts);
    for (int64_t i = begin; i < end; ++i) {
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

}  // namespace

template <class T>
MixtureSaved<T>::MixtureSaved(const hf::Config& config, int64_t max_tokens) {
  if (config.num_experts == 0) return;
  const int64_t rows = max_tokens * config.num_experts_per_tok, hidden = config.hidden_size;
  x = Mat<T>(rows, hidden);  // [rows, hidden_size]
  for (Mat<T>* m : {&gate, &up, &act})
    *m = Mat<T>(rows, config.moe_intermediate_size);  // [rows, moe_intermediate_size]
  y = Mat<T>(max_tokens, hidden);                     // [tokens, hidden_size]
  if (config.shared_expert_intermediate_size == 0) return;
  for (Mat<T>* m : {&shared_gate, &shared_up, &shared_act})
    *m = Mat<T>(max_tokens, config.shared_expert_intermediate_size);  // [tokens, its width]
}

template <class T>
int64_t MixtureSaved<T>::num_values(const hf::Config& config, int64_t max_tokens) noexcept {
  if (config.num_experts == 0) return 0;
  const int64_t shared = config.shared_expert_intermediate_size;
  return max_tokens *
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
void mixture_forward(const hf::Config& config, const Routers<T>& routers,
                     LinearsForward<T>& linears, MatView<const T> x, MixtureSaved<T>& saved,
                     MatView<T> y, DType dtype) {
  route(config, routers, x, saved, dtype);
  const auto each_token = [](int64_t count, auto&& f) {
    parallel_for_ranges(count, kTokenGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  };
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
    each_token(x.rows, [&](int64_t i) {
      T logit = 0;
      dots(x.row(i), routers.shared_expert, 1, x.cols, &logit);
      round_values(&logit, 1, dtype);
      T weight = 1 / (1 + std::exp(-logit));
      round_values(&weight, 1, dtype);
      add(i, weight, saved.y.row(i));
    });
  }
  each_token(y.rows, [&](int64_t i) { round_values(y.row(i), y.cols, dtype); });
}

#define LAOS_INSTANTIATE(T)                                                                  \
  template struct MixtureSaved<T>;                                                           \
  template void mixture_forward<T>(const hf::Config&, const Routers<T>&, LinearsForward<T>&, \
                                   MatView<const T>, MixtureSaved<T>&, MatView<T>, DType);
LAOS_INSTANTIATE(float)
LAOS_INSTANTIATE(double)
#undef LAOS_INSTANTIATE

}  // namespace laos::model
