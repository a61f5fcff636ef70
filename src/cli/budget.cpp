#include "cli/budget.h"

#include <cstdio>

#include "cli/flags.h"
#include "core/units.h"

namespace laos::cli {

void BudgetFlags::check(Problems& problems) const {
  if (count() > 1)
    problems.add({.what = "--average-bits, --w4a4-share and --max-kl each are the budget",
                  .where = "command line",
                  .fix = "give one of them"});
}

void add_budget_options(CLI::App& command, BudgetFlags& flags) {
  command.add_option(both_spellings("--average-bits"), flags.budget.average_bits,
                     "budget: mean bits of the linear weights");
  command
      .add_option(both_spellings("--w4a4-share"), flags.budget.low_share,
                  "budget: share of the linear weights at the low width (default: the recipe's)")
      ->check(CLI::Range(0.0, 1.0));
  command
      .add_option(both_spellings("--max-kl"), flags.budget.max_kl,
                  "budget: sum of the groups' KL divergences, with as many weights as possible at "
                  "the low width")
      ->check(CLI::Range(1e-9, 1e9));
}

std::string widths_of(const quant::LinearScheme& scheme) {
  return "W" + std::to_string(scheme.weight.bits) + "A" + std::to_string(scheme.act.bits);
}

std::string estimate_text(const pipeline::AnalysisEstimate& estimate) {
  char text[160];
  std::snprintf(text, sizeof text, "analysis  about %s (%.1f TFLOP), peak RAM about %s",
                rough_duration_text(estimate.seconds).c_str(), estimate.flops / 1e12,
                bytes_text(estimate.peak_ram_bytes).c_str());
  return text;
}

std::string summary_of(const pipeline::Analysis& analysis, const std::vector<bool>& high) {
  const auto all = static_cast<double>(analysis.parameters);
  auto low = static_cast<double>(analysis.fixed_low);
  int64_t num_high = 0;
  std::vector<bool> planned(high.size());
  for (size_t i = 0; i < high.size(); ++i) {
    const pipeline::GroupCost& group = analysis.groups[i];
    planned[i] = !group.is_planned_low;
    if (!group.is_candidate) continue;
    num_high += high[i] ? 1 : 0;
    if (!high[i]) low += static_cast<double>(group.parameters);
  }
  const auto planned_low = static_cast<double>(analysis.planned_low);
  const int low_bits = analysis.low.weight.bits, high_bits = analysis.high.weight.bits;
  const auto bits_at = [&](double at_low) {
    return high_bits - (high_bits - low_bits) * at_low / all;
  };
  char text[400];
  std::snprintf(
      text, sizeof text,
      "chosen    %lld groups at %s; %.1f %% of the linear weights at %s, %.2f bits on average; "
      "costs sum to %.4g\n"
      "recipe's  %.1f %% of the linear weights at %s, %.2f bits on average; costs sum to %.4g\n",
      static_cast<long long>(num_high), widths_of(analysis.high).c_str(), 100 * low / all,
      widths_of(analysis.low).c_str(), bits_at(low), pipeline::predicted_cost(analysis, high),
      100 * planned_low / all, widths_of(analysis.low).c_str(), bits_at(planned_low),
      pipeline::predicted_cost(analysis, planned));
  if (analysis.is_held_back) return text;
  return std::string(text) +
         "          these costs are too low: with fewer than four samples they are of the text that "
         "codes were solved with\n";
}

}  // namespace laos::cli
