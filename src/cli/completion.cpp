#include "cli/completion.h"

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/definitions.h"
#include "core/words.h"

namespace laos::cli {
namespace {

struct Command {
  std::string name, description;  // no name: what stands before any command
  std::vector<Definition> definitions;
};

std::vector<Command> all_commands(const CLI::App& app) {
  std::vector<Command> commands = {{"", "", definitions_of(app)}};
  for (const CLI::App* command : commands_of(app))
    commands.push_back({command->get_name(), command->get_description(), definitions_of(*command)});
  // Names of commands are what this one takes.
  for (Command& command : commands)
    for (Definition& definition : command.definitions) {
      if (command.name != "help" || definition.positional.empty()) continue;
      definition.kind = ValueKind::kChoice;
      for (const Command& other : commands)
        if (!other.name.empty()) definition.choices.push_back(other.name);
    }
  return commands;
}

bool is_flag(const Definition& definition) { return !definition.spellings.empty(); }

std::string spaced(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// `text` with a backslash before each of `special`.
std::string escaped(const std::string& text, const std::string& special) {
  std::string result;
  for (const char c : text) {
    if (special.find(c) != std::string::npos) result += '\\';
    result += c;
  }
  return result;
}

// Between two quotation marks, for bash and zsh.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// ------------------------------------------------------------------------------------------ bash

// What to do for values: "words a b", "files", "directories" or "nothing".
std::string bash_values(const Definition& definition) {
  switch (definition.kind) {
    case ValueKind::kChoice:
      return "values='" + spaced(definition.choices) + "'";
    case ValueKind::kFile:
      return "values=:files";
    case ValueKind::kDirectory:
      return "values=:directories";
    case ValueKind::kOther:
      return "values=:none";
    case ValueKind::kNone:
      break;
  }
  return "";
}

constexpr const char* kBashEnd = R"(  if [[ -n $values ]]; then
    case $values in
      :files)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
      :directories)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
      :none) ;;
      *) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$word") ;;
    esac
    return
  fi
  # Each flag once: with underscores where one is written.
  [[ $word == *_* ]] && flags=$underscored
  mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$word")
}
complete -F _laos laos
)";

void print_bash(const std::vector<Command>& commands) {
  std::cout << "# Completion of laos for bash, made by `laos completion bash`.\n"
               "_laos() {\n"
               "  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}\n"
               "  local values= many= flags= underscored= positional= last= count=0 i\n"
               "  COMPREPLY=()\n"
               "  # The flag before the word, and how many words stand between; `=` is a word.\n"
               "  [[ $word == = ]] && word=\n"
               "  for ((i = COMP_CWORD - 1; i > 1; --i)); do\n"
               "    if [[ ${COMP_WORDS[i]} == -?* ]]; then\n"
               "      last=${COMP_WORDS[i]}\n"
               "      break\n"
               "    fi\n"
               "    [[ ${COMP_WORDS[i]} == = ]] || ((++count))\n"
               "  done\n"
               "  ((COMP_CWORD == 1)) && command=\n"
               "  case $command in\n";
  for (const Command& command : commands) {
    std::vector<std::string> names, underscored;
    if (command.name.empty())
      for (const Command& other : commands)
        if (!other.name.empty()) names.push_back(other.name);
    std::string positional;
    for (const Definition& definition : command.definitions) {
      for (const std::string& spelling : definition.spellings)
        (spelling.find('_') == std::string::npos ? names : underscored).push_back(spelling);
      if (!definition.positional.empty()) positional = bash_values(definition).substr(7);
    }
    std::cout << "    " << (command.name.empty() ? "''" : command.name) << ")\n"
              << "      flags='" << spaced(names) << "'\n";
    if (!underscored.empty()) std::cout << "      underscored='" << spaced(underscored) << "'\n";
    if (!positional.empty()) std::cout << "      positional=" << positional << '\n';
    std::cout << "      case $last in\n";
    for (const Definition& definition : command.definitions) {
      if (!is_flag(definition) || definition.value.empty()) continue;
      std::string pattern;
      for (const std::string& spelling : definition.spellings)
        pattern += (pattern.empty() ? "" : " | ") + spelling;
      std::cout << "        " << pattern << ") " << bash_values(definition)
                << (definition.takes_many ? " many=1" : "") << " ;;\n";
    }
    std::cout << "      esac ;;\n";
  }
  std::cout << "    *) return ;;\n"
               "  esac\n"
               "  if [[ $word == -* ]]; then\n"
               "    values=\n"
               "  elif [[ -z $values ]] || { ((count > 0)) && [[ -z $many ]]; }; then\n"
               "    values=$positional\n"
               "  fi\n"
            << kBashEnd;
}

// ------------------------------------------------------------------------------------------- zsh

std::string zsh_values(const Definition& definition) {
  switch (definition.kind) {
    case ValueKind::kChoice:
      return ":" + escaped(definition.value, ":") + ":(" + spaced(definition.choices) + ")";
    case ValueKind::kFile:
      return ":file:_files";
    case ValueKind::kDirectory:
      return ":directory:_files -/";
    case ValueKind::kOther:
      return ":" + escaped(definition.value, ":") + ": ";
    case ValueKind::kNone:
      break;
  }
  return "";
}

void print_zsh(const std::vector<Command>& commands) {
  std::cout << "#compdef laos\n"
               "# Completion of laos for zsh, made by `laos completion zsh`.\n"
               "_laos() {\n"
               "  local command=$words[2]\n"
               "  if ((CURRENT == 2)); then\n"
               "    local -a commands=(\n";
  for (const Command& command : commands)
    if (!command.name.empty())
      std::cout << "      " << quoted(command.name + ":" + command.description) << '\n';
  std::cout << "    )\n"
               "    [[ $PREFIX == -* ]] || _describe -t commands command commands\n"
               "    command=\n"
               "  else\n"
               "    shift words\n"
               "    ((CURRENT--))\n"
               "  fi\n"
               "  case $command in\n";
  for (const Command& command : commands) {
    std::cout << "    " << (command.name.empty() ? "''" : command.name) << ")\n"
              << "      _arguments -S";
    for (const Definition& definition : command.definitions) {
      const bool has_value = !definition.value.empty();
      for (const std::string& spelling : definition.spellings) {
        // What begins with ! is known and not offered.
        const std::string hidden = spelling.find('_') == std::string::npos ? "" : "!";
        const std::string many = definition.takes_many ? "*" : "";
        const std::string equals = has_value && spelling.starts_with("--") ? "=" : "";
        std::cout << " \\\n        "
                  << quoted(hidden + many + spelling + equals + "[" +
                            escaped(definition.description, "[]\\") + "]" + zsh_values(definition));
      }
      if (!definition.positional.empty())
        std::cout << " \\\n        "
                  << quoted((definition.takes_many ? "*" : "1") + zsh_values(definition));
    }
    std::cout << " ;;\n";
  }
  std::cout << "  esac\n"
               "}\n"
               "if [[ $funcstack[1] == _laos ]]; then\n"
               "  _laos \"$@\"\n"
               "else\n"
               "  compdef _laos laos\n"
               "fi\n";
}

// ------------------------------------------------------------------------------------------ fish

std::string fish_quoted(const std::string& text) { return "'" + escaped(text, "'\\") + "'"; }

std::string fish_values(const Definition& definition) {
  switch (definition.kind) {
    case ValueKind::kChoice:
      return " -x -a " + fish_quoted(spaced(definition.choices));
    case ValueKind::kFile:
      return " -r -F";
    case ValueKind::kDirectory:
      return " -x -a '(__fish_complete_directories)'";
    case ValueKind::kOther:
      return " -x";
    case ValueKind::kNone:
      break;
  }
  return "";
}

void print_fish(const std::vector<Command>& commands) {
  std::cout << "# Completion of laos for fish, made by `laos completion fish`.\n"
               "function __laos_writes_underscores\n"
               "    string match -q -- '*_*' (commandline -ct)\n"
               "end\n"
               "complete -c laos -f\n";
  for (const Command& command : commands) {
    const std::string seen = "__fish_seen_subcommand_from " + command.name;
    const std::string condition = command.name.empty() ? "__fish_use_subcommand" : seen;
    if (!command.name.empty())
      std::cout << "complete -c laos -n __fish_use_subcommand -a " << command.name << " -d "
                << fish_quoted(command.description) << '\n';
    for (const Definition& definition : command.definitions) {
      for (const std::string& spelling : definition.spellings) {
        const bool is_long = spelling.starts_with("--");
        const bool is_hidden = spelling.find('_') != std::string::npos;
        std::cout << "complete -c laos -n "
                  << fish_quoted(condition + (is_hidden ? "; and __laos_writes_underscores" : ""))
                  << (is_long ? " -l " + spelling.substr(2) : " -s " + spelling.substr(1))
                  << fish_values(definition) << " -d " << fish_quoted(definition.description)
                  << '\n';
      }
      if (!definition.positional.empty()) {
        // -x is for values of flags.
        std::string values = fish_values(definition);
        if (values.starts_with(" -x")) values.erase(0, 3);
        if (values == " -r -F") values = " -F";
        if (!values.empty())
          std::cout << "complete -c laos -n " << fish_quoted(condition) << values << '\n';
      }
    }
  }
}

}  // namespace

void add_completion_command(CLI::App& app) {
  const auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "completion", "Print what a shell needs to complete command lines of laos");
  command->add_option("SHELL", *shell, "the shell: source <(laos completion bash)")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell] {
    const std::vector<Command> commands = all_commands(app);
    if (*shell == "bash") print_bash(commands);
    if (*shell == "zsh") print_zsh(commands);
    if (*shell == "fish") print_fish(commands);
  });
}

}  // namespace laos::cli
