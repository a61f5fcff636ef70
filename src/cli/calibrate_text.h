// `laos calibrate-text`: calibration data that a model writes itself.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

// Adds the subcommand. When it runs it writes a file of JSON lines, or to stdout.
void add_calibrate_text_command(CLI::App& app);

}  // namespace laos::cli
