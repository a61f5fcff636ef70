#include "cli/manual.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <memory>
#include <vector>

#include "cli/definitions.h"
#include "cli/exit_codes.h"
#include "core/error.h"
#include "core/words.h"

namespace laos::cli {
namespace {

struct Variable {
  const char* name;
  const char* meaning;
};
// Every variable of the environment that a user may set for laos.
constexpr std::array<Variable, 9> kVariables = {{
    {"LAOS_DATA_DIR",
     "directory that holds recipes, calib and tasks, looked into after ../share/laos beside the "
     "program"},
    {"MSMODELSLIM_CUSTOM_PRACTICE_REPO",
     "directory of recipes that --quant-type asks before laos's own, behind --recipes"},
    {"LAOS_CACHE_DIR", "where eval keeps what baselines compute, without --cache-dir"},
    {"XDG_CACHE_HOME", "the same, in its folder laos (default: ~/.cache)"},
    {"OMP_NUM_THREADS",
     "threads to use, without --threads (default: the processors that the process may use)"},
    {"OMP_WAIT_POLICY",
     "how threads wait for work; where it is not set, laos lets them spin for microseconds only"},
    {"GOMP_SPINCOUNT", "the same in turns of a loop"},
    {"LAOS_ISA", "instruction set to use instead of the best one, as scalar or AVX2"},
    {"LAOS_RANK_TIMEOUT",
     "of several ranks: seconds after which one that gives no sign of life is given up, from 5 to "
     "86400 (default: 40)"},
}};

// What laos help prints that is no command.
constexpr std::array<const char*, 2> kTopics = {"exit-codes", "environment"};

// For roff: no character of `text` means anything there.
std::string roff(const std::string& text) {
  std::string escaped;
  for (const char c : text) switch (c) {
      case '\\':
        escaped += "\\e";
        break;
      case '-':
        escaped += "\\-";
        break;
      case '\'':
        escaped += "\\(aq";
        break;
      case '`':
        escaped += "\\(ga";
        break;
      case '^':
        escaped += "\\(ha";
        break;
      case '~':
        escaped += "\\(ti";
        break;
      default:
        escaped += c;
    }
  return escaped.starts_with('.') ? "\\&" + escaped : escaped;
}

std::string bold(const std::string& text) { return "\\fB" + roff(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + roff(text) + "\\fR"; }

void add_sentence(std::string& text, const std::string& sentence) {
  if (sentence.empty()) return;
  if (!text.empty()) text += text.ends_with('.') ? " " : ". ";
  text += sentence;
}

std::string body_of(const Definition& definition) {
  std::string text = definition.description;
  if (!definition.choices.empty()) add_sentence(text, "One of: " + listed(definition.choices));
  if (!definition.range.empty()) add_sentence(text, "A number " + definition.range);
  if (!definition.fallback.empty()) add_sentence(text, "Default: " + definition.fallback);
  if (definition.takes_many) add_sentence(text, "Several may follow");
  if (!definition.needs.empty()) add_sentence(text, "Only with " + listed(definition.needs));
  if (!definition.excludes.empty())
    add_sentence(text, "Not together with " + listed(definition.excludes, "or"));
  if (definition.is_required) add_sentence(text, "Required");
  return text + (text.ends_with('.') ? "" : ".");
}

void print_entry(const std::string& title, const std::string& text) {
  std::cout << ".TP\n" << title << '\n' << roff(text) << '\n';
}

void print_definition(const Definition& definition) {
  std::string title;
  for (const std::string& spelling : definition.spellings)
    title += (title.empty() ? "" : ", ") + bold(spelling);
  if (!definition.value.empty())
    title += (title.empty() ? "" : " ") +
             italic(definition.spellings.empty() ? definition.positional : definition.value);
  if (!definition.positional.empty() && !definition.spellings.empty())
    title = italic(definition.positional) + ", " + title;
  print_entry(title, body_of(definition));
}

// One section for each group of options, in the order in which they begin.
void print_definitions(const std::vector<Definition>& definitions) {
  std::vector<std::string> groups;
  for (const Definition& definition : definitions)
    if (std::find(groups.begin(), groups.end(), definition.group) == groups.end())
      groups.push_back(definition.group);
  std::cout << ".SH OPTIONS\n";
  for (const std::string& group : groups) {
    if (groups.size() > 1) std::cout << ".SS " << roff(group) << '\n';
    for (const Definition& definition : definitions)
      if (definition.group == group) print_definition(definition);
  }
}

std::string synopsis_of(const std::string& name, const std::vector<Definition>& definitions) {
  std::string text = bold(name);
  for (const Definition& definition : definitions) {
    if (!definition.is_required || definition.spellings.empty()) continue;
    text += " " + (definition.positional.empty()
                       ? bold(definition.spellings.back().starts_with("--")
                                  ? *std::find_if(definition.spellings.begin(),
                                                  definition.spellings.end(),
                                                  [](const std::string& spelling) {
                                                    return spelling.starts_with("--");
                                                  })
                                  : definition.spellings.front()) +
                             " " + italic(definition.value)
                       : italic(definition.positional));
  }
  text += " [" + italic("OPTIONS") + "]";
  for (const Definition& definition : definitions)
    if (definition.spellings.empty())
      text += " " + (definition.is_required ? italic(definition.positional)
                                            : "[" + italic(definition.positional) + "]");
  return text;
}

void print_manual(const CLI::App& app, const CLI::App& command) {
  const bool is_all = &command == &app;
  const std::string page = is_all ? "laos" : "laos-" + command.get_name();
  const std::string name = is_all ? "laos" : "laos " + command.get_name();
  const std::vector<Definition> definitions = definitions_of(command);
  std::cout << ".TH " << roff(page) << " 1 \"\" \"laos " LAOS_VERSION "\" \"User Commands\"\n"
            << ".SH NAME\n"
            << roff(page) << " \\- "
            << roff(is_all ? "quantize Hugging Face LLM checkpoints to low bits on CPUs"
                           : command.get_description())
            << '\n'
            << ".SH SYNOPSIS\n"
            << (is_all ? bold("laos") + " " + italic("COMMAND") + " [" + italic("OPTIONS") + "]"
                       : synopsis_of(name, definitions))
            << "\n.SH DESCRIPTION\n"
            << roff(command.get_description()) << ".\n.PP\n"
            << roff(
                   "Words of a flag are joined with dashes or underscores, its value follows as "
                   "the next word or behind `=`, and a flag may be cut short as long as no other "
                   "begins like it. Figures and results go to standard output, progress, warnings "
                   "and errors to standard error.")
            << '\n';
  if (is_all) {
    std::cout << ".SH COMMANDS\n";
    for (const CLI::App* each : commands_of(app))
      print_entry(bold("laos-" + each->get_name()) + "(1)", each->get_description());
  }
  print_definitions(definitions);
  std::cout << ".SH EXIT STATUS\n";
  for (const ExitCode& exit_code : kExitCodes)
    print_entry(bold(std::to_string(exit_code.code)), exit_code.meaning);
  std::cout << ".SH ENVIRONMENT\n";
  for (const Variable& variable : kVariables) print_entry(bold(variable.name), variable.meaning);
  std::cout << ".SH SEE ALSO\n";
  std::vector<std::string> others;
  if (!is_all) others.push_back(bold("laos") + "(1)");
  for (const CLI::App* each : commands_of(app))
    if (each != &command) others.push_back(bold("laos-" + each->get_name()) + "(1)");
  std::cout << listed(others) << '\n';
}

// A word and what it means, the latter in columns beside it.
void print_meaning(const std::string& word, int width, const std::string& meaning) {
  constexpr size_t kColumns = 100;
  const std::string indent(static_cast<size_t>(width) + 2, ' ');
  std::string line = word + std::string(indent.size() - word.size(), ' ');
  std::istringstream words(meaning);
  bool is_first = true;
  for (std::string next; words >> next; is_first = false) {
    if (!is_first && line.size() + 1 + next.size() > kColumns) {
      std::cout << line << '\n';
      line = indent + next;
    } else {
      line += (is_first ? "" : " ") + next;
    }
  }
  std::cout << line << '\n';
}

void print_topic(const std::string& topic) {
  if (topic == kTopics[0]) {
    for (const ExitCode& code : kExitCodes)
      print_meaning(std::to_string(code.code), 3, code.meaning);
    return;
  }
  size_t width = 0;
  for (const Variable& variable : kVariables)
    width = std::max(width, std::string(variable.name).size());
  for (const Variable& variable : kVariables)
    print_meaning(variable.name, static_cast<int>(width), variable.meaning);
}

const CLI::App& command_named(const CLI::App& app, const std::string& name, bool with_topics) {
  if (name.empty()) return app;
  std::vector<std::string> names;
  for (const CLI::App* command : commands_of(app)) {
    if (command->get_name() == name) return *command;
    names.push_back(command->get_name());
  }
  if (with_topics) names.insert(names.end(), kTopics.begin(), kTopics.end());
  const std::string near = nearest_name(name, names);
  throw Error(ErrorCode::kUsage,
              {.what = "there is no command " + name,
               .where = "command line",
               .fix = near.empty() ? "see laos help" : "did you mean `laos help " + near + "`?"});
}

}  // namespace

std::string help_of(const CLI::App& app, const CLI::App& command) {
  // Its own help() is that of the command that was parsed, which is `laos help`.
  return &command == &app ? app.get_formatter()->make_help(&app, "laos", CLI::AppFormatMode::Normal)
                          : command.help("laos");
}

void add_help_commands(CLI::App& app) {
  struct Flags {
    std::string name;
    bool man = false, list = false;
  };
  const auto flags = std::make_shared<Flags>();
  CLI::App* help = app.add_subcommand("help", "Show what a command does and its flags");
  help->add_option("COMMAND", flags->name,
                   "a command, or " + listed(kTopics, "or") + " (default: all commands)");
  CLI::Option* man = help->add_flag("--man", flags->man,
                                    "as a manual page, in roff: laos help --man quant | man -l -");
  help->add_flag("--list", flags->list, "the names of the commands, one a line")->excludes(man);
  help->callback([&app, flags] {
    if (flags->list) {
      for (const CLI::App* command : commands_of(app)) std::cout << command->get_name() << '\n';
      return;
    }
    const bool is_topic = std::find(kTopics.begin(), kTopics.end(), flags->name) != kTopics.end();
    if (is_topic && !flags->man) return print_topic(flags->name);
    const CLI::App& command = command_named(app, flags->name, !flags->man);
    if (flags->man)
      print_manual(app, command);
    else
      std::cout << help_of(app, command);
  });
  app.add_subcommand("version", "Print the version")->callback([] {
    std::cout << "laos " LAOS_VERSION "\n";
  });
  app.footer(
      "laos help COMMAND shows the flags of a command; laos help exit-codes and laos help "
      "environment\nwhat exit codes mean and which variables are read.");
}

}  // namespace laos::cli
