// What `laos quant --dry-run --json` prints.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "pipeline/analyze.h"
#include "pipeline/division.h"
#include "pipeline/plan.h"

namespace laos::cli {

// Of the weights of all linears of decoder layers: in integers, and of these at 4 bits.
struct WeightShares {
  double quantized = 0, four_bit = 0;
};
WeightShares weight_shares(const pipeline::Plan& plan);

nlohmann::ordered_json plan_json(const pipeline::Plan& plan, const pipeline::Estimate& estimate);
// Of the analysis of --auto.
nlohmann::ordered_json analysis_json(const pipeline::AnalysisEstimate& estimate);
// Of so many ranks, each like this machine.
nlohmann::ordered_json ranks_json(const pipeline::Division& division,
                                  const std::vector<pipeline::RankPrice>& prices,
                                  double seconds_per_flop);

}  // namespace laos::cli
