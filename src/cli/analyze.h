// `laos analyze`: what each group costs at 4 bits, and a recipe that spends a budget on the best.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

void add_analyze_command(CLI::App& app);

}  // namespace laos::cli
