// The budget that widths are chosen within: flags of `laos analyze` and `laos quant --auto`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "pipeline/analyze.h"

namespace laos::cli {

struct BudgetFlags {
  pipeline::Budget budget;

  int count() const noexcept {
    return (budget.low_share ? 1 : 0) + (budget.average_bits ? 1 : 0) + (budget.max_kl ? 1 : 0);
  }
  // More than one of them.
  void check(Problems& problems) const;
};
void add_budget_options(CLI::App& command, BudgetFlags& flags);

std::string widths_of(const quant::LinearScheme& scheme);  // "W4A4"

// What analyze() will take, in a line.
std::string estimate_text(const pipeline::AnalysisEstimate& estimate);
// What was chosen, beside the recipe as it stands, in two lines.
std::string summary_of(const pipeline::Analysis& analysis, const std::vector<bool>& high);

}  // namespace laos::cli
