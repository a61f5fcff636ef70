#include "cli/definitions.h"

#include <algorithm>
#include <array>
#include <regex>
#include <sstream>
#include <string_view>

namespace laos::cli {
namespace {

// A flag means the same in every command.
constexpr std::array<std::string_view, 8> kDirectories = {
    "model-path", "save-path", "baseline", "tmp", "cache-dir", "recipes", "beside", "DIR"};
constexpr std::array<std::string_view, 9> kFiles = {"config-path", "dataset",    "text",
                                                    "output",      "input",      "write-recipe",
                                                    "prompt-file", "health-text"};

template <class Names>
bool is_among(const std::string& name, const Names& names) {
  return !name.empty() && std::find(names.begin(), names.end(), name) != names.end();
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) parts.push_back(part);
  return parts;
}

// `constraint` is what CLI11 says of checks: "{a,b}" or "INT in [1 - 4096]".
void read_constraint(const std::string& constraint, Definition& definition) {
  std::smatch match;
  if (std::regex_search(constraint, match, std::regex("\\{([^}]*)\\}"))) {
    definition.choices = split(match[1], ',');
    definition.kind = ValueKind::kChoice;
  } else if (std::regex_match(constraint, match,
                              std::regex("(?:INT|UINT|FLOAT) in \\[(\\S+) - (\\S+)\\]"))) {
    definition.range = "from " + match[1].str() + " to " + match[2].str();
  }
}

std::vector<std::string> names_of(const std::set<CLI::Option*>& options) {
  std::vector<std::string> names;
  for (const CLI::Option* option : options) names.push_back(option->get_name());
  std::sort(names.begin(), names.end());  // the set is one of addresses
  return names;
}

}  // namespace

std::vector<Definition> definitions_of(const CLI::App& command) {
  std::vector<Definition> definitions;
  for (const CLI::Option* option : command.get_options()) {
    Definition definition;
    for (const std::string& name : option->get_snames()) definition.spellings.push_back("-" + name);
    for (const std::string& name : option->get_lnames())
      definition.spellings.push_back("--" + name);
    if (option->get_positional()) definition.positional = option->get_name(/*positional=*/true);
    if (option->get_items_expected_max() > 0) {
      const std::string type = option->get_type_name();
      const size_t colon = type.find(':');
      definition.value = type.substr(0, colon);
      if (definition.value.empty()) definition.value = definition.positional;
      definition.kind = definition.value.find("DIR") != std::string::npos    ? ValueKind::kDirectory
                        : definition.value.find("FILE") != std::string::npos ? ValueKind::kFile
                                                                             : ValueKind::kOther;
      if (colon != std::string::npos) read_constraint(type.substr(colon + 1), definition);
      definition.takes_many = option->get_expected_max() > 1 && option->get_allow_extra_args();
    }
    definition.fallback = option->get_default_str();
    definition.group = option->get_group();
    definition.description = option->get_description();
    definition.excludes = names_of(option->get_excludes());
    definition.needs = names_of(option->get_needs());
    definition.is_required = option->get_required();
    definitions.push_back(std::move(definition));
  }
  return definitions;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

void name_paths(CLI::App& app) {
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    for (CLI::Option* option : command->get_options()) {
      const std::vector<std::string>& names = option->get_lnames();
      const std::string name =
          names.empty() ? option->get_name(/*positional=*/true) : names.front();
      if (option->get_type_name() != "TEXT") continue;
      if (is_among(name, kDirectories))
        option->type_name("DIR");
      else if (is_among(name, kFiles))
        option->type_name("FILE");
    }
}

}  // namespace laos::cli
