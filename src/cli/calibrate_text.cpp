#include "cli/calibrate_text.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/dataset_flags.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "cli/stop.h"
#include "core/error.h"
#include "core/threads.h"
#include "io/file.h"
#include "pipeline/self_text.h"

namespace laos::cli {
namespace {

namespace fs = std::filesystem;

struct CalibrateTextFlags {
  std::string model_path, output;
  ProgressStyle progress;
  pipeline::SelfTextOptions options;
  int threads = 0;
};

// Hours of writing must not end in a file that cannot be made, or replace another.
void check_output(const fs::path& output) {
  std::error_code error;
  const auto refuse = [&](const char* what) {
    throw Error(
        ErrorCode::kUsage,
        {.what = what, .where = "--output " + output.string(), .fix = "choose another file"});
  };
  if (fs::exists(fs::symlink_status(output, error))) refuse("the file is there already");
  const fs::path directory = output.has_parent_path() ? output.parent_path() : ".";
  if (!fs::is_directory(directory, error)) refuse("there is no such directory");
  io::PendingFile(output, 0);  // goes away again
}

void run_calibrate_text(const CalibrateTextFlags& flags) {
  if (flags.threads > 0) set_num_threads(flags.threads);
  if (flags.options.is_base && !flags.options.chat_format.empty())
    throw Error(ErrorCode::kUsage, {.what = "--base writes no conversations",
                                    .where = "--chat-format",
                                    .fix = "leave one of them out"});
  const bool to_stdout = flags.output == "-";
  if (!to_stdout) check_output(flags.output);
  const StopOnSignals stop_on_signals;
  TerminalProgress progress(flags.progress);
  const pipeline::SelfText written =
      pipeline::write_self_text(flags.model_path, flags.options, progress);
  progress.finish();
  print_warnings(written.warnings);
  std::string text;
  for (const std::string& line : written.lines) text += line + "\n";
  if (to_stdout)
    std::fwrite(text.data(), 1, text.size(), stdout);
  else
    io::write_text_atomically(flags.output, text);
  std::fprintf(stderr, "written   %zu samples, %lld tokens, %s\n", written.lines.size(),
               static_cast<long long>(written.num_tokens),
               written.chat_format.empty()
                   ? "running text"
                   : ("conversations in the chat format " + written.chat_format).c_str());
}

}  // namespace

void add_calibrate_text_command(CLI::App& app) {
  auto flags = std::make_shared<CalibrateTextFlags>();
  CLI::App* command = app.add_subcommand(
      "calibrate-text", "Calibration data that the float model writes itself, for quant --dataset");
  command
      ->add_option("MODEL," + both_spellings("--model-path"), flags->model_path,
                   "float checkpoint directory")
      ->required();
  command->add_option("-o,--output", flags->output, "file of JSON lines to write; -: stdout")
      ->required();
  pipeline::SelfTextOptions& options = flags->options;
  command->add_option("--nsamples", options.nsamples, "samples to write")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--seqlen", options.seq_len, "tokens of a sample at most, its opening included")
      ->check(CLI::Range(int64_t{8}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--temperature", options.temperature,
                   "of the draws: below 1 likelier text, above 1 more varied text")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str();
  command->add_option("--seed", options.seed, "of the draws; the same gives the same text")
      ->capture_default_str();
  command
      ->add_option("--batch", options.batch,
                   "samples that are written at a time; the text does not depend on it")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  add_chat_format(*command, options.chat_format);
  command->add_flag("--base", options.is_base,
                    "running text, though the checkpoint has a chat format");
  command->add_option("--threads", flags->threads, "threads to use; the text does not depend on it")
      ->check(CLI::Range(1, 4096));
  add_progress_option(*command, flags->progress);
  command->callback([flags] { run_calibrate_text(*flags); });
}

}  // namespace laos::cli
