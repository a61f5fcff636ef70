// What a command line may hold, read from the definitions that --help prints: manual pages and
// completions are made from it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace laos::cli {

// What stands on the command line as a value.
enum class ValueKind { kNone, kChoice, kFile, kDirectory, kOther };

struct Definition {
  std::vector<std::string> spellings;  // with their dashes; empty for a positional argument
  std::string positional;              // the name that stands for it there; empty for a flag alone
  std::string value;                   // what its value is called, as DIR; empty without one
  ValueKind kind = ValueKind::kNone;
  std::vector<std::string> choices;  // of kChoice
  std::string range;                 // as "from 1 to 4096"; empty where it has none
  std::string fallback;              // its value where it is not given
  std::string group, description;
  std::vector<std::string> excludes, needs;  // flags
  bool is_required = false;
  bool takes_many = false;  // values, one after the other
};

std::vector<Definition> definitions_of(const CLI::App& command);

std::vector<const CLI::App*> commands_of(const CLI::App& app);

// Says DIR or FILE, not TEXT, of the options whose values are that.
void name_paths(CLI::App& app);

}  // namespace laos::cli
