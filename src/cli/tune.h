// `laos tune`.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

void add_tune_command(CLI::App& app);

}  // namespace laos::cli
