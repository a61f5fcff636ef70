// `laos convert DIR --to FORMAT`: the same integers in another format.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

void add_convert_command(CLI::App& app);

}  // namespace laos::cli
