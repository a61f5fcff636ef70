// `laos generate`: what a checkpoint says, alone or beside another.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

// Adds the subcommand. When it runs it prints to stdout: the text as it comes, or JSON with --json;
// memory and speed go to stderr.
void add_generate_command(CLI::App& app);

}  // namespace laos::cli
