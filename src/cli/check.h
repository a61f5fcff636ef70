// `laos check` and what `laos quant` prints of the same.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "cli/progress.h"
#include "pipeline/record.h"

namespace laos::cli {

void add_check_command(CLI::App& app, int& exit_code);
void add_report_command(CLI::App& app);

// pipeline::check_checkpoint with its progress on the terminal; `rotation` may be empty.
report::Health run_health_check(const std::filesystem::path& directory,
                                const std::filesystem::path& baseline,
                                const pipeline::HealthText& text, TerminalProgress& progress,
                                const Mat<float>& rotation = {});

// What was looked at, with the reasons of the verdict, on `out`.
void print_health(const report::Health& health, std::FILE* out = stdout);
// The line of the verdict.
void print_verdict(const report::Health& health, std::FILE* out = stdout);

// What a verdict does to the exit code.
struct VerdictFlags {
  bool strict = false, lenient = false;
};
void add_verdict_flags(CLI::App& command, VerdictFlags& flags);
// 1 for a broken checkpoint unless `lenient`; a degraded one gets a warning on stderr, and 1 where
// `strict`.
int exit_code_of(const report::Health& health, const VerdictFlags& flags);

}  // namespace laos::cli
