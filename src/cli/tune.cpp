#include "cli/tune.h"

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/compute_dtype.h"
#include "cli/dataset_flags.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "core/threads.h"
#include "core/units.h"
#include "pipeline/tune.h"

namespace laos::cli {
namespace {

struct TuneFlags {
  std::string checkpoint, baseline, save_path, compute_dtype = "auto";
  DatasetFlags dataset{
      .dataset = {}, .chat_format = {}, .seq_len = 256, .nsamples = 128, .bos = {}};
  tune::FitOptions fit;
  bool dry_run = false, json = false, restart = false;
  int threads = 0;
  ProgressStyle progress;
};

pipeline::TuneOptions options_of(const TuneFlags& flags) {
  pipeline::TuneOptions options{.checkpoint = flags.checkpoint,
                                .baseline = flags.baseline,
                                .save_path = flags.save_path,
                                .dataset = {},
                                .calib_directories = data_directories("calib"),
                                .seq_len = flags.dataset.seq_len,
                                .nsamples = flags.dataset.nsamples,
                                .chat_format = flags.dataset.chat_format,
                                .bos = flags.dataset.bos(),
                                .restart = flags.restart,
                                .fit = flags.fit};
  if (!flags.dataset.dataset.empty()) options.dataset = flags.dataset.dataset;
  options.fit.compute = compute_type_of(flags.compute_dtype);
  return options;
}

void run_tune_command(const TuneFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  const pipeline::TunePlan plan = pipeline::plan_tune(options_of(flags));
  print_warnings(plan.warnings);
  nlohmann::ordered_json json = {
      {"directory", flags.checkpoint},    {"baseline", flags.baseline},
      {"dataset", plan.dataset.string()}, {"samples", plan.samples.size()},
      {"tokens", plan.num_tokens},        {"scales", plan.num_scales},
      {"tflop", plan.flops * 1e-12},      {"estimated_seconds", plan.seconds},
      {"memory_bytes", plan.memory_bytes}};
  std::fprintf(stderr, "tune      %lld scales on %zu samples, %lld tokens, of %s\n",
               static_cast<long long>(plan.num_scales), plan.samples.size(),
               static_cast<long long>(plan.num_tokens), plan.dataset.string().c_str());
  std::fprintf(stderr, "plan      %s, %s of memory\n", duration_text(plan.seconds).c_str(),
               bytes_text(plan.memory_bytes).c_str());
  if (!flags.dry_run) {
    const StopOnSignals stop_on_signals;
    TerminalProgress progress(flags.progress);
    const tune::FitResult result = pipeline::run_tune(plan, progress);
    progress.finish();
    const bool is_better = result.best_step > 0;
    json["kl_before"] = result.kl_before;
    json["kl"] = result.kl;
    json["best_step"] = result.best_step;
    json["save_path"] = is_better ? nlohmann::ordered_json(flags.save_path) : nullptr;
    std::fprintf(stderr, "kl        %.4f -> %.4f nats a token, on samples held back\n",
                 result.kl_before, result.kl);
    if (!flags.json && is_better) std::printf("written   %s\n", flags.save_path.c_str());
    if (!flags.json && !is_better)
      std::printf("nothing   no step was better than the scales as they are, so none is written\n");
  }
  if (flags.json)
    std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace

void add_tune_command(CLI::App& app) {
  const auto flags = std::make_shared<TuneFlags>();
  CLI::App* command = app.add_subcommand(
      "tune",
      "Learn the scales of a quantized checkpoint from its float model, all layers at once");
  command->add_option("DIR", flags->checkpoint, "quantized checkpoint directory")->required();
  command
      ->add_option("--baseline", flags->baseline, "float checkpoint directory that was quantized")
      ->required();
  command
      ->add_option(both_spellings("--save-path"), flags->save_path,
                   "directory to write; it appears when it is whole")
      ->required();
  add_dataset_options(*command, flags->dataset);
  tune::FitOptions& fit = flags->fit;
  command->add_option("--steps", fit.steps, "steps of learning")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--batch", fit.batch, "samples of a step")
      ->check(CLI::Range(int64_t{1}, int64_t{4096}))
      ->capture_default_str();
  command->add_option("--lr", fit.lr, "what a scale changes by in an early step, as a share of it")
      ->check(CLI::Range(1e-6, 0.1))
      ->capture_default_str();
  command->add_option("--seed", fit.seed, "of the draws; the same gives the same bytes")
      ->capture_default_str();
  add_compute_dtype(*command, flags->compute_dtype);
  command->add_option("--threads", flags->threads, "threads to use; bytes do not depend on it")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--restart", flags->restart, "throw away what an interrupted run left");
  command->add_flag("--dry-run", flags->dry_run, "check everything and say what it would cost");
  command->add_flag("--json", flags->json, "print a JSON object");
  add_progress_option(*command, flags->progress);
  command->callback([flags] { run_tune_command(*flags); });
}

}  // namespace laos::cli
