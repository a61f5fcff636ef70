// laos status: how far the run that writes a directory is.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

void add_status_command(CLI::App& app);

}  // namespace laos::cli
