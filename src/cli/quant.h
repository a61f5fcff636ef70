// `laos quant`: a checkpoint in, an AscendV1 checkpoint out.
#pragma once

#include <CLI/App.hpp>

namespace laos::cli {

// Adds the subcommand `quant`; its callback does the work. The plan and the summary go to stdout,
// warnings and progress to stderr. Throws what pipeline::make_plan and pipeline::run throw, and
// Error(kUsage).
void add_quant_command(CLI::App& app, int& exit_code);

}  // namespace laos::cli
