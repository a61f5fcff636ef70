// `laos recipes`: the recipes that --quant-type chooses from.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

void add_recipes_command(CLI::App& app);

}  // namespace laos::cli
