// `laos check` and what `laos quant` prints of the same.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>

#include "pipeline/record.h"

namespace laos::cli {

void add_check_command(CLI::App& app, int& exit_code);
void add_report_command(CLI::App& app);

// pipeline::check_checkpoint with its progress on the terminal.
report::Health run_health_check(const std::filesystem::path& directory,
                                const std::filesystem::path& baseline,
                                const pipeline::HealthText& text);

// The verdict with its reasons and figures, on stdout; the verdict's line is the last.
void print_health(const report::Health& health);

}  // namespace laos::cli
