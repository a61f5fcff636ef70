// Long flags cut short.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace laos::cli {

// `words` are those of the command line behind the program's name. A long flag of the command they
// name that is not spelled whole, but begins only one of its flags (`--model_p`, `--quant=w4a4`),
// is completed. Words behind `--` stay as they are. Throws Error(kUsage) for one that begins
// several flags.
std::vector<std::string> complete_flags(const CLI::App& app, std::vector<std::string> words);

}  // namespace laos::cli
