#include "cli/check.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "cli/data_path.h"
#include "cli/flags.h"
#include "cli/model_text.h"
#include "core/threads.h"
#include "hf/data_file.h"
#include "pipeline/record.h"

namespace laos::cli {
namespace {

namespace fs = std::filesystem;

struct CheckFlags {
  std::string directory, baseline, text;
  bool write = false, json = false;
  ProgressStyle progress;
  VerdictFlags verdict;
  int threads = 0;
};

// The text that was asked for, or the one that comes with laos.
fs::path text_of(const CheckFlags& flags) {
  if (!flags.text.empty()) return flags.text;
  for (const fs::path& directory : data_directories("calib"))
    if (fs::exists(directory / "health.jsonl")) return directory / "health.jsonl";
  throw Error(ErrorCode::kData, {.what = "no text to check on: calib/health.jsonl is not installed",
                                 .where = data_candidates("calib"),
                                 .fix = "give a file of texts with --text, or set LAOS_DATA_DIR to the "
                                        "directory that holds calib"});
}

// Whether the run that wrote the directory says that it was calibrated on this file.
bool was_calibrated_on(const fs::path& directory, const fs::path& text) {
  if (!fs::exists(directory / report::kRunFile)) return false;
  std::error_code ignored;  // the file of another machine or time is another file
  return fs::equivalent(hf::data_source_of(report::read_run(directory).recipe.dataset).file,
                        hf::data_source_of(text).file, ignored);
}

void run_check(const CheckFlags& flags, int& exit_code) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  const fs::path file = text_of(flags);
  pipeline::HealthText text = pipeline::load_health_text(file, flags.baseline);
  text.calibrated = was_calibrated_on(flags.directory, file);
  print_warnings(text.warnings);
  TerminalProgress progress(flags.progress);
  const report::Health health = run_health_check(flags.directory, flags.baseline, text, progress);
  if (flags.json) {
    std::fputs(report::to_json(health).c_str(), stdout);
  } else {
    print_verdict(health);
    print_health(health);
  }
  std::fflush(stdout);  // whatever comes of writing
  exit_code = exit_code_of(health, flags.verdict);
  if (!flags.write) return;
  report::write_check(flags.directory, health);
  std::fprintf(flags.json ? stderr : stdout, "written   %s\n",
               (fs::path(flags.directory) / report::kCheckFile).string().c_str());
}

}  // namespace

report::Health run_health_check(const fs::path& directory, const fs::path& baseline,
                                const pipeline::HealthText& text, TerminalProgress& progress,
                                const Mat<float>& rotation) {
  try {
    report::Health health = pipeline::check_checkpoint(directory, baseline, text, progress,
                                                       rotation.size() == 0 ? nullptr : &rotation);
    progress.finish();
    return health;
  } catch (...) {
    progress.finish();
    throw;
  }
}

void print_health(const report::Health& health, std::FILE* out) {
  const eval::Health& h = health.figures;
  const eval::Judgement judgement = eval::judge(h);
  std::fprintf(out, "checked   %lld tokens of %s%s\n", static_cast<long long>(h.num_tokens),
               health.source.c_str(), health.calibrated ? " (calibrated on)" : "");
  for (const eval::Continuation& c : h.continuations)
    std::fprintf(out, "prompt    %s\n  float     %s\n  quantized %s\n", one_line(c.prompt).c_str(),
                 one_line(c.baseline).c_str(), one_line(c.model).c_str());
  std::fprintf(out, "worst     ");
  for (size_t i = 0; i < judgement.worst.size() && i < 3; ++i) {
    const int64_t layer = judgement.worst[i];
    const double error = h.layers[static_cast<size_t>(layer)].error;
    std::fprintf(out, "%slayer %lld: ", i == 0 ? "" : ", ", static_cast<long long>(layer));
    if (std::isnan(error))
      std::fprintf(out, "not finite");
    else
      std::fprintf(out, "error %.1f %%", 100 * error);
  }
  std::fprintf(out, "\n");
  for (const std::string& reason : judgement.reasons)
    std::fprintf(out, "because   %s\n", reason.c_str());
}

void print_verdict(const report::Health& health, std::FILE* out) {
  const eval::Health& h = health.figures;
  const eval::Judgement judgement = eval::judge(h);
  if (std::isnan(h.kl_mean))
    std::fprintf(out, "health: %s (%s)\n", report::verdict_text(health).c_str(),
                 judgement.reasons.front().c_str());
  else
    std::fprintf(out, "health: %s (KL %.4f, top-1 agreement %.3f%s%s)\n",
                 report::verdict_text(health).c_str(), h.kl_mean, h.top1_agreement,
                 judgement.reasons.empty() ? "" : "; ",
                 judgement.reasons.empty() ? "" : judgement.reasons.front().c_str());
}

void add_verdict_flags(CLI::App& command, VerdictFlags& flags) {
  CLI::Option* strict = command.add_flag("--strict", flags.strict,
                                         "exit with 1 unless the health check's verdict is good");
  command
      .add_flag("--lenient", flags.lenient,
                "exit with 0 even where the health check's verdict is broken")
      ->excludes(strict);
}

int exit_code_of(const report::Health& health, const VerdictFlags& flags) {
  const eval::Judgement judgement = eval::judge(health.figures);
  switch (judgement.verdict) {
    case eval::Verdict::kGood:
      return 0;
    case eval::Verdict::kDegraded:
      std::fprintf(stderr, "laos: warning: the checkpoint is degraded: %s\n",
                   judgement.reasons.front().c_str());
      return flags.strict ? 1 : 0;
    case eval::Verdict::kBroken:
      break;
  }
  return flags.lenient ? 0 : 1;
}

void add_check_command(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<CheckFlags>();
  CLI::App* command = app.add_subcommand(
      "check",
      "Check that a quantized checkpoint is sound, layer by layer beside the float one; exits with "
      "1 when it is broken");
  command->add_option("DIR", flags->directory, "quantized checkpoint directory")->required();
  command
      ->add_option("--baseline", flags->baseline, "the float checkpoint that it was quantized from")
      ->required();
  command->add_option(
      "--text", flags->text,
      "text to check on (see laos quant --dataset) instead of laos's own; a few hundred "
      "tokens are used");
  command->add_flag("--write", flags->write,
                    "also write the check into DIR, as check.json and check.html; what the run "
                    "itself left stays as it is");
  add_verdict_flags(*command, flags->verdict);
  command->add_flag("--json", flags->json, "print a JSON object");
  add_progress_option(*command, flags->progress);
  command
      ->add_option("--threads", flags->threads, "threads to use; the result does not depend on it")
      ->check(CLI::Range(1, 4096));
  command->callback([flags, &exit_code] { run_check(*flags, exit_code); });
}

void add_report_command(CLI::App& app) {
  auto directory = std::make_shared<std::string>();
  auto beside = std::make_shared<std::vector<std::string>>();
  CLI::App* command =
      app.add_subcommand("report", "Make report.html again from the run.json of a directory");
  command->add_option("DIR", *directory, "directory that laos quant wrote")->required();
  command->add_option("--beside", *beside,
                      "directories of other runs, to show what each cost and how far it diverges");
  command->callback([directory, beside] {
    std::vector<report::RunRecord> others;
    for (const std::string& other : *beside) others.push_back(report::read_run(other));
    report::write_run(*directory, report::read_run(*directory), others);
    std::printf("report    %s\n", (fs::path(*directory) / report::kPageFile).string().c_str());
  });
}

}  // namespace laos::cli
