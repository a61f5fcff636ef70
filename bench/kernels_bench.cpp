// Kernels against what bounds them: the elementwise ones against this machine's memory bandwidth,
// the polar factor against Newton-Schulz steps through the same products, attention against the
// matrix-multiply rate. Counters named `share` or `times` are the figures that docs/performance.md
// sets bars for, measured in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "core/threads.h"
#include "linalg/gemm.h"
#include "linalg/hadamard.h"
#include "linalg/kernels/hadamard.h"
#include "linalg/polar.h"
#include "model/decoder_layer.h"
#include "model/kernels/elementwise.h"
#include "quant/gptq.h"
#include "quant/int_weight.h"

namespace laos {
namespace {

using linalg::Trans;

Mat<float> normal(int64_t rows, int64_t cols, uint32_t seed) {
  Mat<float> matrix(rows, cols);
  parallel_for(rows, [&](int64_t i) {
    std::mt19937 generator(seed * 7919u + static_cast<uint32_t>(i));
    std::normal_distribution<float> distribution;
    for (int64_t j = 0; j < cols; ++j) matrix(i, j) = distribution(generator);
  });
  return matrix;
}

template <class F>
double best_seconds(int repeats, const F& f) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

// Bytes a second of reading and writing a large matrix in place, on all threads, by the widest
// vectors: sums and differences of the halves of its rows.
double bandwidth() {
  static const double rate = [] {
    Mat<float> x(4096, 8192);
    x.fill_zero();
    const double seconds = best_seconds(8, [&] {
      parallel_for(x.rows(),
                   [&](int64_t i) { linalg::kernels::butterfly(x.row(i), x.cols() / 2); });
    });
    return 8.0 * static_cast<double>(x.size()) / seconds;
  }();
  return rate;
}

// Reports what a kernel that moves `bytes` reaches of the bandwidth, at its best as that is.
void report_share(benchmark::State& state, double bytes, const std::vector<double>& seconds) {
  const double rate = bytes / *std::min_element(seconds.begin(), seconds.end());
  state.counters["GB_per_s"] = rate * 1e-9;
  state.counters["bandwidth_GB_per_s"] = bandwidth() * 1e-9;
  state.counters["share"] = rate / bandwidth();
}

template <class F>
void measure_share(benchmark::State& state, double bytes, const F& f) {
  std::vector<double> seconds;
  for ([[maybe_unused]] const auto _ : state) seconds.push_back(best_seconds(1, f));
  report_share(state, bytes, seconds);
}

// Bar: half of the bandwidth.
void BM_Hadamard(benchmark::State& state) {
  const int64_t rows = 4096, size = state.range(0);
  Mat<float> x = normal(rows, size, 2);
  const linalg::RandomHadamard hadamard(size);
  measure_share(state, 8.0 * static_cast<double>(x.size()),
                [&] { hadamard.apply_right(x.view()); });
}
BENCHMARK(BM_Hadamard)->Arg(4096)->Arg(5120)->Unit(benchmark::kMillisecond)->UseRealTime();

// Widths of Qwen2.5-1.5B and 7B. `times`: against the same with the kernel as a matrix that oneDNN
// multiplies each row with.
void BM_HadamardOfOddWidths(benchmark::State& state) {
  const int64_t rows = 1024, size = state.range(0), order = linalg::hadamard_order(size),
                run = size / order;
  Mat<float> x = normal(rows, size, 2);
  const linalg::RandomHadamard hadamard(size);
  Mat<float> kernel(order, order);
  const std::vector<int8_t> entries = linalg::hadamard_kernel(order);
  std::copy(entries.begin(), entries.end(), kernel.data());
  const std::vector<float> signs(static_cast<size_t>(size),
                                 1.0f / std::sqrt(static_cast<float>(size)));
  const double by_gemm = best_seconds(5, [&] {
    parallel_for_ranges(rows, 16, [&](int64_t begin, int64_t end) {
      Mat<float> y(order, run);
      for (int64_t i = begin; i < end; ++i) {
        float* row = x.row(i);
        linalg::kernels::butterflies(row, signs.data(), size, run, false, row);
        linalg::gemm_one_thread(Trans::kNo, Trans::kNo, 1.0f, std::as_const(kernel).view(),
                                MatView<const float>{row, order, run, run}, 0.0f, y.view());
        std::copy_n(y.data(), size, row);
      }
    });
  });
  std::vector<double> seconds;
  for ([[maybe_unused]] const auto _ : state)
    seconds.push_back(best_seconds(1, [&] { hadamard.apply_right(x.view()); }));
  const double best = *std::min_element(seconds.begin(), seconds.end());
  state.counters["times"] = by_gemm / best;
  state.counters["GB_per_s"] = 8e-9 * static_cast<double>(x.size()) / best;
}
BENCHMARK(BM_HadamardOfOddWidths)
    ->Arg(8960)
    ->Arg(18944)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// u diag(s) v with singular values from 1 to 1e-8.
Mat<float> ill_conditioned(int64_t n) {
  const Mat<float> u = linalg::polar_factor(normal(n, n, 3).view(), 1e-7).factor;
  Mat<float> v = linalg::polar_factor(normal(n, n, 4).view(), 1e-7).factor;
  for (int64_t i = 0; i < n; ++i) {
    const double s = std::pow(1e-8, static_cast<double>(i) / static_cast<double>(n - 1));
    for (int64_t j = 0; j < n; ++j) v(i, j) *= static_cast<float>(s);
  }
  Mat<float> c(n, n);
  linalg::gemm(Trans::kNo, Trans::kNo, 1.0f, u.view(), std::as_const(v).view(), 0.0f, c.view());
  return c;
}

// Bar: `times` at least 10: faster than 100 cubic Newton-Schulz steps x (1.5 - 0.5 xᵀx), each two
// products; orthogonal to 1e-5. `times_of_half` is against steps that make half of the symmetric
// xᵀx, as polar_factor does itself.
void BM_PolarFactor(benchmark::State& state) {
  const int64_t n = state.range(0);
  const Mat<float> c = ill_conditioned(n);
  Mat<float> gram(n, n), next(n, n);
  const auto cubic_steps = [&](const auto& make_gram) {
    return 100 * best_seconds(5, [&] {
             make_gram();
             linalg::gemm(Trans::kNo, Trans::kNo, -0.5f, c.view(), std::as_const(gram).view(), 1.5f,
                          next.view());
           });
  };
  const double cubic = cubic_steps(
      [&] { linalg::gemm(Trans::kYes, Trans::kNo, 1.0f, c.view(), c.view(), 0.0f, gram.view()); });
  const double half = cubic_steps([&] { linalg::gram(c.view(), gram.view()); });
  std::vector<double> seconds;
  linalg::PolarResult result;
  for ([[maybe_unused]] const auto _ : state)
    seconds.push_back(best_seconds(1, [&] { result = linalg::polar_factor(c.view()); }));
  const double best = *std::min_element(seconds.begin(), seconds.end());
  state.counters["steps"] = static_cast<double>(result.iterations);
  state.counters["orthogonality"] = result.orthogonality;
  state.counters["times"] = cubic / best;
  state.counters["times_of_half"] = half / best;
}
BENCHMARK(BM_PolarFactor)->Arg(512)->Arg(2048)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_QuantizeTokens(benchmark::State& state) {
  const Mat<float> x = normal(4096, 4096, 5);
  measure_share(state, 5.0 * static_cast<double>(x.size()), [&] {
    benchmark::DoNotOptimize(quant::quantize_tokens(x.view(), {.bits = 4}).q.data());
  });
}
BENCHMARK(BM_QuantizeTokens)->Unit(benchmark::kMillisecond)->UseRealTime();

// One pass of a kernel over rows of 4096, on all threads; `bytes` a value.
template <class F>
void over_rows(benchmark::State& state, double bytes, const F& f) {
  constexpr int64_t kRows = 4096, kCols = 4096;
  measure_share(state, bytes * kRows * kCols, [&] {
    parallel_for_ranges(kRows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  });
}

void BM_RmsNorm(benchmark::State& state) {
  const Mat<float> x = normal(4096, 4096, 6), y(4096, 4096), gain = normal(1, 4096, 7);
  over_rows(state, 8, [&](int64_t i) {
    benchmark::DoNotOptimize(
        model::kernels::rms_norm(x.row(i), gain.data(), 1e-6f, y.row(i), 4096));
  });
}
BENCHMARK(BM_RmsNorm)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_SiluMul(benchmark::State& state) {
  const Mat<float> gate = normal(4096, 4096, 8), up = normal(4096, 4096, 9), y(4096, 4096);
  over_rows(state, 12,
            [&](int64_t i) { model::kernels::silu_mul(gate.row(i), up.row(i), y.row(i), 4096); });
}
BENCHMARK(BM_SiluMul)->Unit(benchmark::kMillisecond)->UseRealTime();

// Operations a second of a product of n cubed in f32.
double gemm_rate(int64_t n) {
  const Mat<float> a = normal(n, n, 14), b = normal(n, n, 15);
  Mat<float> c(n, n);
  const double seconds = best_seconds(
      3, [&] { linalg::gemm(Trans::kNo, Trans::kYes, 1.0f, a.view(), b.view(), 0.0f, c.view()); });
  const auto size = static_cast<double>(n);
  return 2 * size * size * size / seconds;
}

// A layer's attention, forward and backward, over one sample of range(0) tokens and 8 of 128-wide
// heads that share 2 keys: GFLOP/s of the causal products, and of a product of 1024 cubed.
void BM_Attention(benchmark::State& state) {
  hf::Config config;
  config.hidden_size = 128;
  config.intermediate_size = 128;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 2;
  config.head_dim = 128;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 1e6;
  const int64_t n = state.range(0);
  model::LayerWeights weights;
  for (const model::Linear l : model::kAllLinears)
    weights[l] = normal(model::out_features(config, l), model::in_features(config, l), 12);
  for (Mat<float>* gain : {&weights.input_layernorm, &weights.post_attention_layernorm,
                           &weights.q_norm, &weights.k_norm}) {
    *gain = Mat<float>(1, 128);
    std::fill_n(gain->data(), 128, 1.0f);
  }
  model::FloatLinears<float> linears(model::views_of(weights));
  const model::Rope<float> rope(config, n);
  model::Ragged batch;
  batch.append(n);
  const Mat<float> x = normal(n, 128, 13);
  Mat<float> y(n, 128);
  model::LayerSaved<float> saved(config, n, true);
  std::vector<double> seconds;
  for ([[maybe_unused]] const auto _ : state)
    seconds.push_back(best_seconds(1, [&] {
      model::layer_forward<float>(config, model::norms_of(weights), linears, rope, batch, x.view(),
                                  saved, y.view());
      model::layer_backward<float>(config, model::norms_of(weights), linears, rope, batch, x.view(),
                                   saved, y.view(), {});
    }));
  std::sort(seconds.begin(), seconds.end());
  const double flops = 12.0 * 8 * 128 * 0.5 * static_cast<double>(n) * static_cast<double>(n + 1),
               rate = flops / seconds[seconds.size() / 2];
  state.counters["GFLOP_per_s"] = rate * 1e-9;
  state.counters["share"] = rate / gemm_rate(1024);
}
BENCHMARK(BM_Attention)->Arg(512)->Arg(2048)->Unit(benchmark::kMillisecond)->UseRealTime();

// Codes of an [outputs, inputs] weight in closed form, scales searched: GFLOP/s of factoring (a
// third of inputs cubed) and of feeding errors back (outputs times inputs squared), `share` of
// those of a product of 4096 cubed. Refinement: its argument, in rounds of four times the latter.
void BM_Gptq(benchmark::State& state) {
  const int64_t out = state.range(0), in = state.range(1), refine = state.range(2);
  const Mat<float> weight = normal(out, in, 16);
  Mat<float> hessian(in, in);
  {
    const Mat<float> x = normal(1024, in, 17);  // damping makes up for the rest
    hessian.fill_zero();
    linalg::gram(x.view(), hessian.view(), 1.0f);
  }
  const double peak = gemm_rate(4096);
  double best = 1e30;
  for ([[maybe_unused]] const auto _ : state)
    best = std::min(best, best_seconds(1, [&] {
                      benchmark::DoNotOptimize(quant::quantize_gptq(
                          weight.view(), hessian.view(), {.bits = 4}, {.refine = refine}));
                    }));
  const auto n = static_cast<double>(in), rows = static_cast<double>(out);
  const double rate = (n * n * n / 3 + rows * n * n * (1 + 4 * static_cast<double>(refine))) / best;
  state.counters["GFLOP_per_s"] = rate * 1e-9;
  state.counters["share"] = rate / peak;
}
BENCHMARK(BM_Gptq)
    ->Args({4096, 4096, 0})
    ->Args({4096, 4096, 2})
    ->Args({4096, 12288, 0})
    ->Args({5120, 25600, 0})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace laos

BENCHMARK_MAIN();
