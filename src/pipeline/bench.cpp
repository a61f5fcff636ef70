#include "pipeline/bench.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <system_error>
#include <utility>

#include "autoround/train_layer.h"
#include "core/memory.h"
#include "core/threads.h"
#include "core/words.h"
#include "hf/synthetic.h"
#include "io/file.h"
#include "model/decoder_layer.h"
#include "model/hidden_states.h"
#include "pipeline/record.h"
#include "pipeline/stopwatch.h"
#include "quant/int_weight.h"

namespace laos::pipeline {

namespace fs = std::filesystem;

using linalg::Trans;
using model::Linear;

namespace {

// Of the shapes without experts, tokens of a sample where none is asked for.
int64_t default_tokens(const std::string& shape) {
  if (shape == "tiny") return 32;
  return shape == "0.6b" ? 512 : 256;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The best of two or more, after a first call that warms caches and compiles kernels: what takes
// microseconds is repeated, since a few calls may all wait for a processor.
template <class F>
double best_seconds(const F& f) {
  constexpr double kEnough = 0.02;
  f();
  double best = 1e30, all = 0;
  for (int i = 0; i < 2 || all < kEnough; ++i) {
    const Stopwatch watch;
    f();
    best = std::min(best, watch.seconds());
    all += watch.seconds();
  }
  return best;
}

// Uniform in (-bound, bound), each row from a stream of its own, so that threads do not matter.
Mat<float> random_matrix(int64_t rows, int64_t cols, uint32_t seed, float bound) {
  Mat<float> matrix(rows, cols);
  parallel_for(rows, [&](int64_t i) {
    std::minstd_rand generator(seed * 2654435761u + static_cast<uint32_t>(i) * 40503u + 1u);
    for (int64_t j = 0; j < cols; ++j)
      matrix(i, j) = bound * (static_cast<float>(generator()) / 1073741824.0f - 1.0f);
  });
  return matrix;
}

Mat<float> ones(int64_t cols) {
  Mat<float> matrix(1, cols);
  std::fill_n(matrix.data(), cols, 1.0f);
  return matrix;
}

bool reads_layer_input(Linear l) {
  return l == Linear::kQProj || l == Linear::kKProj || l == Linear::kVProj;
}

// Seconds of the best way we know to have oneDNN do c = op(a) op(b): one call that it cuts into
// threads itself, or linalg's tiles.
double product_seconds(linalg::ComputeType compute, Trans trans_a, Trans trans_b, int64_t m,
                       int64_t n, int64_t k) {
  const auto shape = [](Trans trans, int64_t rows, int64_t cols) {
    return trans == Trans::kNo ? std::pair{rows, cols} : std::pair{cols, rows};
  };
  const auto [a_rows, a_cols] = shape(trans_a, m, k);
  const auto [b_rows, b_cols] = shape(trans_b, k, n);
  const Mat<float> a = random_matrix(a_rows, a_cols, 1, 1), b = random_matrix(b_rows, b_cols, 2, 1);
  Mat<float> c(m, n);
  if (compute == linalg::ComputeType::kF32)
    return std::min(
        best_seconds(
            [&] { linalg::gemm(trans_a, trans_b, 1.0f, a.view(), b.view(), 0.0f, c.view()); }),
        best_seconds([&] {
          linalg::gemm_one_thread(trans_a, trans_b, 1.0f, a.view(), b.view(), 0.0f, c.view());
        }));
  Mat<uint16_t> a16(a_rows, a_cols), b16(b_rows, b_cols);
  linalg::to_bf16(a.view(), a16.view());
  linalg::to_bf16(b.view(), b16.view());
  const Mat<uint16_t>&ra = a16, &rb = b16;
  return std::min(
      best_seconds(
          [&] { linalg::gemm_bf16(trans_a, trans_b, ra.view(), rb.view(), false, c.view()); }),
      best_seconds([&] {
        linalg::gemm_bf16_one_thread(trans_a, trans_b, ra.view(), rb.view(), false, c.view());
      }));
}

// The layer as an engine computes it: int4 weights, int4 activations per token.
class IntLinears : public model::LinearsForward<float> {
 public:
  IntLinears(const model::LayerWeights& weights, const quant::LinearScheme& scheme)
      : act_(scheme.act) {
    for (const Linear l : model::kAllLinears) {
      quant::IntWeight& weight = weights_[l];
      weight = quant::quantize_rtn(weights[l].view(), scheme.weight);
      linears_[l].emplace(std::as_const(weight.q).view(), weight.scale);
    }
  }
  void forward(model::LinearGroup group, MatView<const float> x,
               std::span<const MatView<float>> ys) override {
    const quant::QuantizedTokens tokens = quant::quantize_tokens(x, act_);
    const std::span<const Linear> linears = model::linears_of(group);
    for (size_t i = 0; i < linears.size(); ++i) linears_[linears[i]]->forward(tokens, ys[i]);
  }

 private:
  quant::ActSpec act_;
  model::PerLinear<quant::IntWeight> weights_;
  model::PerLinear<std::optional<quant::IntLinear>> linears_;
};

}  // namespace

std::vector<std::string> bench_shapes() {
  std::vector<std::string> names;
  for (const std::string& shape : hf::qwen3_shapes())
    if (hf::qwen3_config(shape).num_experts == 0) names.push_back(shape);
  return names;
}

namespace {

void require_shape(const std::string& shape) {
  const std::vector<std::string> known = bench_shapes();
  if (std::ranges::find(known, shape) == known.end())
    throw Error(ErrorCode::kUsage, {.what = "there is no shape `" + shape + "`",
                                    .where = "--shape",
                                    .fix = "use one of " + listed(known)});
}

}  // namespace

BenchResult bench_layer(const BenchOptions& options) {
  require_shape(options.shape);
  BenchResult result;
  result.num_samples = options.num_samples == 0 ? 8 : options.num_samples;
  result.num_tokens = options.num_tokens == 0 ? default_tokens(options.shape) : options.num_tokens;
  if (result.num_samples < 1 || result.num_samples > 8 || result.num_tokens < 1 ||
      result.num_tokens > 40960 || options.iters < 1)
    throw Error(ErrorCode::kUsage, {.what = "sizes of the benchmark out of range",
                                    .where = "--samples, --tokens, --iters",
                                    .fix = "use 1 to 8 samples of 1 to 40960 tokens"});
  const hf::Config config = hf::qwen3_config(options.shape, /*num_layers=*/1);

  const int64_t n = result.num_samples * result.num_tokens;
  const auto tokens = static_cast<double>(n);
  double product_flops = 0, product_time = 0;
  for (const Linear l : model::kAllLinears) {
    const int64_t out = model::out_features(config, l), in = model::in_features(config, l);
    if (l == Linear::kVProj || l == Linear::kUpProj) continue;  // shaped as k_proj and gate_proj
    const double copies = l == Linear::kKProj || l == Linear::kGateProj ? 2 : 1;
    const double flops = copies * 2 * tokens * static_cast<double>(out) * static_cast<double>(in);
    const auto measure = [&](Trans a, Trans b, int64_t rows, int64_t cols, int64_t depth) {
      product_flops += flops;
      product_time += copies * product_seconds(options.compute, a, b, rows, cols, depth);
    };
    measure(Trans::kNo, Trans::kYes, n, out, in);                            // y = x Wᵀ
    measure(Trans::kYes, Trans::kNo, out, in, n);                            // ∂W = ∂yᵀ x
    if (!reads_layer_input(l)) measure(Trans::kNo, Trans::kNo, n, in, out);  // ∂x = ∂y W
  }
  result.gemm_gflops = product_flops / product_time * 1e-9;
  const double pairs = 0.5 * tokens * static_cast<double>(result.num_tokens + 1);
  // Two products forward and four backward over the causal pairs.
  result.train_flops =
      product_flops +
      12 * static_cast<double>(config.num_attention_heads * config.head_dim) * pairs;

  model::LayerWeights weights;
  for (const Linear l : model::kAllLinears) {
    const int64_t in = model::in_features(config, l);
    weights[l] = random_matrix(model::out_features(config, l), in, static_cast<uint32_t>(l) + 10,
                               1.0f / std::sqrt(static_cast<float>(in)));
  }
  weights.input_layernorm = ones(config.hidden_size);
  weights.post_attention_layernorm = ones(config.hidden_size);
  weights.q_norm = ones(config.head_dim);
  weights.k_norm = ones(config.head_dim);
  model::HiddenStates inputs;
  for (int64_t s = 0; s < result.num_samples; ++s) inputs.samples.append(result.num_tokens);
  inputs.rows = random_matrix(n, config.hidden_size, 3, 1);
  model::HiddenStates targets{inputs.samples, Mat<float>(n, config.hidden_size)};
  const model::Rope<float> rope(config, result.num_tokens);
  const quant::LinearScheme w4a4{.weight = {.bits = 4}, .act = {.bits = 4}};

  {
    model::LayerSaved<float> saved(config, n, false);
    const auto seconds_of = [&](model::LinearsForward<float>& linears) {
      return best_seconds([&] {
        model::layer_forward<float>(config, model::norms_of(weights), linears, rope, inputs.samples,
                                    std::as_const(inputs.rows).view(), saved, targets.rows.view());
      });
    };
    {
      IntLinears linears(weights, w4a4);
      result.eval_seconds = seconds_of(linears);
    }
    // Nothing in the scheme: the trainer's own forward with float weights, in `compute`.
    autoround::TrainOptions plain;
    plain.compute = options.compute;
    autoround::TrainableLinears linears(weights, {}, plain);
    saved.compute = options.compute;
    result.float_seconds = seconds_of(linears);  // leaves the targets
  }

  autoround::LayerScheme scheme;
  scheme.fill(w4a4);
  std::vector<double> times;
  Stopwatch watch;
  (void)autoround::train_layer({.config = config,
                                .weights = weights,
                                .scheme = scheme,
                                .rope = rope,
                                .inputs = inputs,
                                .targets = targets,
                                .seed = 1},
                               {.iters = options.iters + 1, .compute = options.compute},
                               [&](int64_t iteration, double) {
                                 if (iteration > 1) times.push_back(watch.seconds());
                                 watch = Stopwatch();
                               });
  result.train_seconds = median(times);
  result.train_efficiency = result.train_flops / (1e9 * result.gemm_gflops) / result.train_seconds;
  result.train_tokens_per_s = tokens / result.train_seconds;
  result.eval_tokens_per_s = tokens / result.eval_seconds;
  result.peak_rss_bytes = peak_rss_bytes();
  return result;
}

report::RunRecord bench_job(const BenchJob& job, QuantOptions options, const fs::path& directory,
                            Progress& progress) {
  require_shape(job.shape);
  if (fs::exists(directory))
    throw Error(ErrorCode::kUsage, {.what = "is there already",
                                    .where = directory.string(),
                                    .fix = "name a directory that is not there"});
  struct Removed {
    const fs::path& path;
    ~Removed() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } const removed{directory};
  constexpr int64_t kVocabulary = 4096;
  const hf::Config config = hf::qwen3_config(job.shape, job.num_layers, kVocabulary);
  hf::write_synthetic({.config = config}, directory / "model");
  std::string samples;
  std::minstd_rand generator(1);
  for (int64_t s = 0; s < job.num_samples; ++s) {
    nlohmann::json ids = nlohmann::json::array();
    for (int64_t t = 0; t < job.num_tokens; ++t)
      ids.push_back(static_cast<int64_t>(generator()) % config.vocab_size);
    samples += nlohmann::json{{"input_ids", ids}}.dump() + "\n";
  }
  io::write_text_atomically(directory / "samples.jsonl", samples);

  options.model_path = directory / "model";
  options.save_path = directory / "quantized";
  options.dataset = (directory / "samples.jsonl").string();
  const Plan plan = make_plan(options);
  // A recipe that calibrates on nothing holds nothing back.
  const HealthText text = plan.samples->empty()
                              ? load_health_text(*options.dataset, options.model_path, "",
                                                 health_size(plan, costs_of(plan)))
                              : health_text(plan);
  const Stopwatch watch;
  const RunResult result = run(plan, progress);
  const double seconds = watch.seconds();
  report::RunRecord record = record_of(plan, result, LAOS_VERSION, seconds);
  record.health = check_checkpoint(options.save_path, options.model_path, text, progress,
                                   result.rotation.size() != 0 ? &result.rotation : nullptr);
  record.timings.total = watch.seconds();
  record.timings.health = record.timings.total - seconds;
  record.peak_rss_bytes = peak_rss_bytes();
  return record;
}

}  // namespace laos::pipeline
