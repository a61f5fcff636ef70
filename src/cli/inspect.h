// `laos inspect DIR [--json]`: what an AscendV1 checkpoint holds, and whether an engine loads it.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

// Adds the subcommand. When it runs it prints to stdout and sets `exit_code` to 1 if a load would
// be refused, else to 0. `exit_code` must outlive `app`'s parse.
void add_inspect_command(CLI::App& app, int& exit_code);

}  // namespace laos::cli
