// `laos completion`: what a shell needs to complete command lines of laos.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

// To be called when all other commands are there.
void add_completion_command(CLI::App& app);

}  // namespace laos::cli
