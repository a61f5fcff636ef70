// `laos help` and `laos version`: --help, manual pages and what no flag's help says.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace laos::cli {

// To be called when all other commands are there.
void add_help_commands(CLI::App& app);

// What --help prints of `command`, which is `app` itself or one of its commands.
std::string help_of(const CLI::App& app, const CLI::App& command);

}  // namespace laos::cli
