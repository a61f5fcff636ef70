#include "cli/bench.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "cli/compute_dtype.h"
#include "cli/data_path.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "cli/timing.h"
#include "core/threads.h"
#include "hf/synthetic.h"
#include "io/file.h"
#include "pipeline/bench.h"
#include "recipe/preset.h"
#include "recipe/recipe.h"
#include "save/format.h"

namespace laos::cli {
namespace {

struct BenchFlags {
  pipeline::BenchOptions options;
  std::string job;  // "": one layer alone
  int64_t num_layers = 2;
  std::string directory;
  ProgressStyle progress;
  std::string compute_dtype = "auto";
  int threads = 0;
  bool json = false;
};

constexpr const char* kRoundingJob = "rtn";

// The recipe of a job: that of the profile for any model of the architecture, or every linear W4A4
// rounded to nearest. What the profile says of a model's first and last layers is left out, as the
// few layers here stand for those between.
void choose_recipe(const std::string& job, const std::string& shape,
                   pipeline::QuantOptions& options) {
  const hf::Config config = hf::qwen3_config(shape);
  if (job == kRoundingJob) {
    recipe::Preset preset;
    preset.scheme = "W4A4";
    preset.method = "rtn";
    preset.rotates = false;
    preset.saver_type = save::format_named("ascendv1").saver_type();
    options.recipe_text = recipe::preset_yaml(preset, config);
    options.recipe_path = "--job " + job;
    return;
  }
  const recipe::ModelFacts any{config.architecture, 0, config.hidden_size};
  options.recipe_path =
      recipe::choose_recipe(recipe_directories(""), {"", "w4a4", job, {}, any}).path;
  std::istringstream text(io::read_text(options.recipe_path, int64_t{1} << 20));
  for (std::string line; std::getline(text, line);)
    if (line.find("model.layers.{") == std::string::npos && !line.ends_with("exclude:"))
      options.recipe_text += line + "\n";
}

void run_job(const BenchFlags& flags) {
  pipeline::BenchJob job{.shape = flags.options.shape, .num_layers = flags.num_layers};
  if (flags.options.num_samples > 0) job.num_samples = flags.options.num_samples;
  if (flags.options.num_tokens > 0) job.num_tokens = flags.options.num_tokens;
  pipeline::QuantOptions options;
  options.compute = compute_type_of(flags.compute_dtype);
  options.model_type = job.shape;
  choose_recipe(flags.job, job.shape, options);
  const std::filesystem::path directory =
      (flags.directory.empty() ? std::filesystem::temp_directory_path()
                               : std::filesystem::path(flags.directory)) /
      ("laos-bench-" + std::to_string(getpid()));
  TerminalProgress progress(flags.progress);
  const StopOnSignals stop_on_signals;
  const report::RunRecord record = pipeline::bench_job(job, options, directory, progress);
  progress.finish();
  if (flags.json) return (void)std::fputs(report::to_json(record).c_str(), stdout);
  std::printf("job       %s, %lld layers of Qwen3 %s, %lld x %lld tokens, %s, %d threads\n",
              flags.job.c_str(), static_cast<long long>(job.num_layers), job.shape.c_str(),
              static_cast<long long>(job.num_samples), static_cast<long long>(job.num_tokens),
              linalg::to_string(options.compute), num_threads());
  print_timing(record, stdout);
  std::printf("peak RSS  %.0f MB\n", static_cast<double>(record.peak_rss_bytes) * 1e-6);
}

void run_bench(const BenchFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  if (!flags.job.empty()) return run_job(flags);
  pipeline::BenchOptions options = flags.options;
  options.compute = compute_type_of(flags.compute_dtype);
  const char* dtype = linalg::to_string(options.compute);
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
      "bench",
      "Train and evaluate one layer of random weights, or run a whole job, against the machine's "
      "GEMM rate");
  command->add_option("--shape", flags->options.shape, "layer shape")
      ->check(CLI::IsMember(pipeline::bench_shapes()))
      ->capture_default_str();
  CLI::Option* job =
      command
          ->add_option("--job", flags->job,
                       "instead of one layer: a whole laos quant of a model of random weights, and "
                       "where its time goes")
          ->check(CLI::IsMember({"fast", "balanced", "full", kRoundingJob}));
  command->add_option("--layers", flags->num_layers, "of --job: decoder layers of the model")
      ->check(CLI::Range(1, 1000))
      ->needs(job)
      ->capture_default_str();
  command
      ->add_option("--tmp", flags->directory,
                   "of --job: directory for the model and what is made of it (default: the "
                   "system's for temporary files)")
      ->check(CLI::ExistingDirectory)
      ->needs(job);
  command
      ->add_option("--samples", flags->options.num_samples,
                   "of an iteration (default: 8); of --job: of the calibration data (default: 48)")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--tokens", flags->options.num_tokens,
                   "of each sample (default: 256; one layer of 0.6b 512, of tiny 32)")
      ->check(CLI::Range(1, 40960));
  command->add_option("--iters", flags->options.iters, "timed iterations; the median is printed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  add_compute_dtype(*command, flags->compute_dtype);
  command->add_option("--threads", flags->threads, "threads to use (default: all)")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--json", flags->json, "print JSON");
  add_progress_option(*command, flags->progress);
  command->callback([flags] { run_bench(*flags); });
}

}  // namespace laos::cli
