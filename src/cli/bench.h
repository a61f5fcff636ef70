// `laos bench`: how near training and evaluating one layer come to this machine's GEMM rate.
#pragma once

#include <CLI/CLI.hpp>

namespace laos::cli {

// Adds the subcommand. When it runs it prints to stdout, JSON with --json.
void add_bench_command(CLI::App& app);

}  // namespace laos::cli
