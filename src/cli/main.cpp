// laos: the command line. Only this folder prints, and only this file picks exit codes.
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "cli/analyze.h"
#include "cli/bench.h"
#include "cli/calibrate_text.h"
#include "cli/check.h"
#include "cli/completion.h"
#include "cli/convert.h"
#include "cli/definitions.h"
#include "cli/eval.h"
#include "cli/exit_codes.h"
#include "cli/flags.h"
#include "cli/generate.h"
#include "cli/inspect.h"
#include "cli/job.h"
#include "cli/loglikelihood.h"
#include "cli/manual.h"
#include "cli/prefixes.h"
#include "cli/quant.h"
#include "cli/recipes.h"
#include "cli/selftest.h"
#include "cli/status.h"
#include "cli/stop.h"
#include "cli/threads.h"
#include "cli/tokenize.h"
#include "cli/tune.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/words.h"
#include "io/own_file.h"

namespace {

using laos::cli::kDone, laos::cli::kFailed, laos::cli::kSignal, laos::cli::kUsage;

int report(const laos::Error& error) {
  if (error.code() == laos::ErrorCode::kStopped)
    return laos::cli::end_in_error("laos: " + std::string(error.what()) + "\n",
                                   kSignal + laos::cli::stop_signal());
  return laos::cli::end_in_error("laos: error: " + std::string(error.what()) + "\n",
                                 error.code() == laos::ErrorCode::kUsage ? kUsage : kFailed);
}

// A mapped file that shrinks, or whose disk fails, ends in this signal wherever it is read.
void report_lost_file(int) {
  constexpr char kText[] =
      "\nlaos: error: a file was cut short while it was read, or its disk failed\n"
      "  fix: look at the model's files; the same command goes on from the last finished layer\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kText, sizeof kText - 1);
  ::_exit(kFailed);
}

// Large matrices come from the system (core/tensor.cpp). What else is freed goes back as well,
// which glibc would keep in blocks of up to 32 MB, except for the blocks that oneDNN takes for a
// product in f32: they have 2 to 4 MB, and the pages of a new one cost a tenth of such a product.
void give_memory_back() {
#ifdef __GLIBC__
  constexpr int kBytes = 4 << 20;
  ::mallopt(M_MMAP_THRESHOLD, kBytes);
  ::mallopt(M_TRIM_THRESHOLD, kBytes);
#endif
}

// What is printed must not land in a file that is opened later and gets the number of a stream that
// the caller closed.
void open_closed_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0) (void)::open("/dev/null", O_RDWR);
}

// A full disk behind stdout is no success.
void require_printed() {
  std::cout.flush();
  const bool printed = std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good();
  if (!printed)
    throw laos::Error(laos::ErrorCode::kIo, {.what = "what was printed could not be written",
                                             .where = "standard output",
                                             .fix = "free disk space where it goes to"});
}

// Several processes that a launcher started do one command, or refuse it; from here on one of them
// talks.
void join_ranks(const std::string& command) {
  const bool is_alone = laos::cli::job().size() == 1;
  if (is_alone || command == "quant" || command == "eval" || command == "analyze") return;
  throw laos::Error(laos::ErrorCode::kUsage,
                    {.what = "several ranks were started, and only quant, eval and analyze share "
                             "their work",
                     .where = "command line",
                     .fix = "run laos " + command + " without mpirun"});
}

// "--model-path is required" of an option that may also stand without its flag: MODEL too.
std::string with_positional_name(const CLI::App& app, const std::string& message) {
  for (const CLI::App* command : app.get_subcommands())
    for (const CLI::Option* option : command->get_options())
      if (option->get_positional() && !option->get_lnames().empty() &&
          message.starts_with(option->get_name()))
        return option->get_name(/*positional=*/true) + " or " + message;
  return message;
}

// Of a list with commas between; "" where all of it are choices.
std::string first_not_among(const std::vector<std::string>& choices, const std::string& list) {
  std::istringstream values(list);
  for (std::string value; std::getline(values, value, ',');)
    if (std::find(choices.begin(), choices.end(), value) == choices.end()) return value;
  return "";
}

// What is wrong with a command line, in the words of --help: CLI11 names what it did not expect; a
// user wants to know what was meant.
laos::Problem problem_of(const CLI::App& app, const std::vector<std::string>& words,
                         const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::vector<std::string> names;
  for (const CLI::App* sub : laos::cli::commands_of(app)) {
    names.push_back(sub->get_name());
    if (sub->get_name() == words.front()) command = sub;
  }
  laos::Problem problem = {.what = with_positional_name(app, error.what()),
                           .where = "command line",
                           .fix = "see laos --help"};
  if (command == &app) {
    if (words.front()[0] == '-') {
      problem.what = "there is no flag " + words.front() + " without a command";
      return problem;
    }
    problem.what = "there is no command " + words.front();
    const std::string near = laos::nearest_name(words.front(), names);
    if (!near.empty()) problem.fix = "did you mean `laos " + near + "`?";
    return problem;
  }
  const std::string name = "laos " + command->get_name();
  problem.fix = "see " + name + " --help";
  const std::vector<laos::cli::Definition> definitions = laos::cli::definitions_of(*command);
  std::vector<std::string> flags;
  std::map<std::string, const laos::cli::Definition*> definition_of;
  for (const laos::cli::Definition& definition : definitions)
    for (const std::string& spelling : definition.spellings) {
      flags.push_back(spelling);
      definition_of[spelling] = &definition;
    }
  for (size_t i = 1; i < words.size(); ++i) {
    const size_t equals = words[i].find('=');
    const std::string word = words[i].substr(0, equals);
    if (word == "--") break;
    const auto found = definition_of.find(word);
    if (word.starts_with("--") && found == definition_of.end()) {
      problem.what = name + " has no flag " + word;
      const std::string near = laos::nearest_name(word, flags);
      if (!near.empty()) problem.fix = "did you mean " + near + "?";
      return problem;
    }
    if (found == definition_of.end() || found->second->choices.empty()) continue;
    // The value of a flag that takes one of a few.
    const std::vector<std::string>& choices = found->second->choices;
    const std::string value = equals != std::string::npos ? words[i].substr(equals + 1)
                              : i + 1 < words.size()      ? words[i + 1]
                                                          : "";
    if (value.empty() || value[0] == '-') continue;
    // Some take several, with commas between.
    const std::string wrong = first_not_among(choices, value);
    if (wrong.empty()) continue;
    const std::string near = laos::nearest_name(wrong, choices);
    problem.what = word + " " + wrong + " is none of " + laos::listed(choices);
    if (!near.empty()) problem.fix = "did you mean `" + near + "`?";
    return problem;
  }
  return problem;
}

int run(int argc, char** argv) {
  int exit_code = kDone;
  CLI::App app{
      "laos " LAOS_VERSION
      ": accurate W4A4 quantization of Hugging Face LLM checkpoints on CPUs, for vLLM-Ascend",
      "laos"};
  app.require_subcommand(1);
  app.set_version_flag("-v,--version", "laos " LAOS_VERSION);
  laos::cli::add_quant_command(app, exit_code);
  laos::cli::add_eval_command(app);
  laos::cli::add_generate_command(app);
  laos::cli::add_loglikelihood_command(app);
  laos::cli::add_inspect_command(app, exit_code);
  laos::cli::add_convert_command(app);
  laos::cli::add_tune_command(app);
  laos::cli::add_calibrate_text_command(app);
  laos::cli::add_analyze_command(app);
  laos::cli::add_bench_command(app);
  laos::cli::add_check_command(app, exit_code);
  laos::cli::add_report_command(app);
  laos::cli::add_recipes_command(app);
  laos::cli::add_selftest_command(app);
  laos::cli::add_status_command(app);
  laos::cli::add_tokenize_command(app);
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    if (command->get_name() != "bench" && command->get_name() != "recipes")
      command->add_flag_callback(
          laos::cli::both_spellings("--follow-links"), [] { laos::io::follow_links(true); },
          "read through links that lead out of a model's directory");
  laos::cli::add_completion_command(app);
  laos::cli::add_help_commands(app);
  laos::cli::name_paths(app);
  std::vector<std::string> words(argv + 1, argv + argc);
  try {
    laos::use_isa_from_environment();
    laos::cli::heed_quota();
    if (words.empty()) {
      std::cout << app.help();
      require_printed();
      return kDone;
    }
    if (laos::cluster::started_ranks() > 1) join_ranks(words.front());
    words = laos::cli::complete_flags(app, std::move(words));
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));  // takes them from the end
    laos::cli::leave_job();
    require_printed();
    return exit_code;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // --help, --version
      app.exit(error);
      require_printed();
      return kDone;
    }
    return report({laos::ErrorCode::kUsage, problem_of(app, words, error)});
  }
}

}  // namespace

int main(int argc, char** argv) {
  open_closed_streams();
  give_memory_back();
  laos::cli::bound_spinning(argv);
  laos::cli::watch_signals();
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of the write
  std::signal(SIGBUS, report_lost_file);
  try {
    return run(argc, argv);
  } catch (const laos::Error& error) {
    return report(error);
  } catch (const std::bad_alloc&) {
    return report({laos::ErrorCode::kResource,
                   {.what = "out of memory", .where = "", .fix = "see the peak RAM of --dry-run"}});
  } catch (const std::exception& error) {
    return report(
        {laos::ErrorCode::kInternal,
         {.what = error.what(), .where = "", .fix = "this is a defect of laos; please report it"}});
  }
}
