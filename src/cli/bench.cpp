#include "cli/bench.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/compute_dtype.h"
#include "core/threads.h"
#include "pipeline/bench.h"

namespace laos::cli {
namespace {

struct BenchFlags {
  pipeline::BenchOptions options;
  std::string compute_dtype = "auto";
  int threads = 0;
  bool json = false;
};

void run_bench(const BenchFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  pipeline::BenchOptions options = flags.options;
  options.compute = compute_type_of(flags.compute_dtype);
  const char* dtype = options.compute == linalg::ComputeType::kBf16 ? "bf16" : "f32";
  const pipeline::BenchResult r = pipeline::bench_layer(options);
  if (flags.json) {
    const nlohmann::ordered_json json = {
        {"shape", options.shape},
        {"samples", r.num_samples},
        {"tokens", r.num_tokens},
        {"compute_dtype", dtype},
        {"threads", num_threads()},
        {"gemm_gflops", r.gemm_gflops},
        {"train",
         {{"flops", r.train_flops},
          {"seconds", r.train_seconds},
          {"efficiency", r.train_efficiency},
          {"tokens_per_s", r.train_tokens_per_s}}},
        {"eval",
         {{"seconds", r.eval_seconds},
          {"tokens_per_s", r.eval_tokens_per_s},
          {"speedup_over_float", r.float_seconds / r.eval_seconds}}},
        {"peak_rss_bytes", r.peak_rss_bytes}};
    std::printf("%s\n", json.dump(2).c_str());
    return;
  }
  std::printf("layer      Qwen3 %s, %lld x %lld tokens, %s, %d threads\n", options.shape.c_str(),
              static_cast<long long>(r.num_samples), static_cast<long long>(r.num_tokens), dtype,
              num_threads());
  std::printf("GEMM       %.0f GFLOP/s\n", r.gemm_gflops);
  std::printf("train      %.3g s an iteration, %.0f tokens/s, ", r.train_seconds,
              r.train_tokens_per_s);
  // Products of microseconds have no rate to hold training against.
  if (r.train_efficiency <= 1)
    std::printf("%.0f %% of the GEMM rate\n", 100 * r.train_efficiency);
  else
    std::printf("faster than such products alone: too small or too disturbed to compare\n");
  std::printf("eval       %.3g s in integers, %.0f tokens/s, %.2f x the %s forward\n",
              r.eval_seconds, r.eval_tokens_per_s, r.float_seconds / r.eval_seconds, dtype);
  std::printf("peak RSS   %.0f MB\n", static_cast<double>(r.peak_rss_bytes) * 1e-6);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand(
      "bench", "Train and evaluate one layer of random weights against the machine's GEMM rate");
  command->add_option("--shape", flags->options.shape, "layer shape")
      ->check(CLI::IsMember(pipeline::bench_shapes()))
      ->capture_default_str();
  command->add_option("--samples", flags->options.num_samples, "of an iteration (default: 8)")
      ->check(CLI::Range(1, 8));
  command
      ->add_option("--tokens", flags->options.num_tokens,
                   "of each sample (default: 256; 512 for 0.6b, 32 for tiny)")
      ->check(CLI::Range(1, 40960));
  command->add_option("--iters", flags->options.iters, "timed iterations; the median is printed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  add_compute_dtype(*command, flags->compute_dtype);
  command->add_option("--threads", flags->threads, "threads to use (default: all)")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", flags->json, "print JSON");
  command->callback([flags] { run_bench(*flags); });
}

}  // namespace laos::cli
