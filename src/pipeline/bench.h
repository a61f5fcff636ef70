// How near the work comes to this machine's matrix-multiply rate: of one decoder layer, and of a
// whole job.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "linalg/gemm.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "report/run_record.h"

namespace laos::pipeline {

struct BenchOptions {
  std::string shape = "8b";  // one of bench_shapes()
  int64_t num_samples = 0;   // of an iteration, at most 8; 0: 8
  int64_t num_tokens = 0;    // of each sample; 0: 256, for 0.6b 512
  int64_t iters = 3;         // timed ones, at least 1
  linalg::ComputeType compute = linalg::ComputeType::kF32;
};

// Names of the layer shapes: those of Qwen3 and a tiny one that takes milliseconds.
std::vector<std::string> bench_shapes();

// Rates in 1e9 operations a second, times in seconds, medians.
struct BenchResult {
  int64_t num_samples = 0;
  int64_t num_tokens = 0;         // of each sample
  double gemm_gflops = 0;         // oneDNN, on the products of training in the same dtype
  double train_flops = 0;         // that an iteration needs
  double train_seconds = 0;       // an iteration
  double train_efficiency = 0;    // train_flops / gemm_gflops / train_seconds
  double train_tokens_per_s = 0;  // forward and backward
  double eval_seconds = 0;        // the W4A4 layer in integers, forward over the same batch
  double eval_tokens_per_s = 0;
  double float_seconds = 0;  // the same batch through the unquantized layer in `compute`
  int64_t peak_rss_bytes = 0;
};

// Trains and runs a layer of random weights made in memory, every linear W4A4. Needed operations:
// three products a linear, without the gradient of the input of q/k/v, and causal attention
// counted once (its scores are computed again in backward, which is not counted). Throws
// Error(kUsage) for an unknown shape or sizes out of range, Error(kResource).
BenchResult bench_layer(const BenchOptions& options);

struct BenchJob {
  std::string shape = "8b";  // one of bench_shapes()
  int64_t num_layers = 2;
  int64_t num_samples = 48, num_tokens = 256;  // of calibration; tokens of a sample
};

// Quantizes a model of random weights, made in `directory`, which is created and removed again, by
// the recipe and the other choices of `options`, and checks it as laos quant does. Its vocabulary
// is small, so that layers are nearly all of the work, as in a model of many. Throws Error as
// make_plan and run, kUsage where `directory` exists.
report::RunRecord bench_job(const BenchJob& job, QuantOptions options,
                            const std::filesystem::path& directory, Progress& progress);

}  // namespace laos::pipeline
