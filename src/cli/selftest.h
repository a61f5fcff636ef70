// `laos selftest-checkpoint`.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

void add_selftest_command(CLI::App& app);

}  // namespace laos::cli
