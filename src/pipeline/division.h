// Who does what when several ranks share a run. Nothing in here changes a byte of the result.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/hidden_states.h"
#include "pipeline/plan.h"

namespace laos::pipeline {

// Tokens that a whole health check runs through both models: so many windows of so many tokens at
// most, spread over the text's samples; and how often it goes through the weights for
// continuations. The least it comes to is one window of so many tokens.
inline constexpr int64_t kHealthWindows = 4;
inline constexpr int64_t kHealthWindowTokens = 128, kLeastHealthWindowTokens = 32;
inline constexpr int64_t kMostContinuationPasses = 4;
// Operations that a check may take in any case: a second or less.
inline constexpr double kFreeHealthFlops = 1e11;

// What the steps of a layer must have of the float model.
struct LayerNeeds {
  std::vector<int64_t> samples;  // whose inputs, in order; empty: none look
  bool all = false;              // these are all of them
  bool outputs = false;          // and of the same samples
};
LayerNeeds needs_of(const Plan& plan, int64_t layer_idx);

// Operations of one layer.
struct LayerCost {
  double pass = 0;      // all samples through the float layer, once
  double experts = 0;   // of a pass: those of a mixture, which stay in f32
  double rotate = 0;    // of its weights
  double looks = 0;     // passes that its steps make themselves
  double repeated = 0;  // more of them to save memory; of no weight where ranks divide the work,
                        // since each has its own memory
  double steps = 0;     // what its steps do besides
  double trained = 0;   // of these: training
  double products = 0;  // of these: what else is in the dtype of the plan's products
  bool passed = false;  // its float outputs are needed, by its own steps or behind it
  double passes() const;  // of all samples
  double total() const;
  double in_dtype() const;  // of the total, without training: in the dtype of the plan's products
};
// Of the whole plan.
struct PlanCosts {
  double fit_pass = 0;      // samples of stage 1 through all layers
  double fit_experts = 0;   // of it
  double fit = 0;           // fitting, after that
  double fit_products = 0;  // of it: what is in the dtype of the plan's products
  std::vector<LayerCost> layers;
  double save = 0;    // embedding and head
  double health = 0;  // the check of what was made
  double forward_of(int64_t tokens, double pairs) const {
    return per_token * static_cast<double>(tokens) + per_pair * pairs;
  }
  double per_token = 0, per_pair = 0;  // of a pass: a token, and two of them that attend
  double weights = 0;                  // of the linears of all layers
  double total() const;  // of the recipe: of one process that does all but the last two
  double in_dtype() const, trained() const;  // of the total
};
PlanCosts costs_of(const Plan& plan);
// Expected of one process that does it all, on a machine that multiplies at these rates: in f32 and
// in the dtype of the plan's products.
double seconds_of(const Plan& plan, const PlanCosts& costs, double gemm_gflops,
                  double train_gflops);

// What a health check runs.
struct HealthSize {
  int64_t windows = kHealthWindows;
  int64_t window_tokens = kHealthWindowTokens;
  int64_t passes = kMostContinuationPasses;  // over each model's weights, for continuations
  int64_t tokens() const { return windows * window_tokens; }
  bool operator==(const HealthSize&) const = default;
};
// Of the plan: as much as a tenth of the rest pays for, or kFreeHealthFlops. First the passes go,
// then the windows become shorter, then fewer.
HealthSize health_size(const Plan& plan, const PlanCosts& costs);

// The parts of the work in order, as Progress::begin names them, and what each costs: operations,
// as many of one part take as long as of another.
struct PartCost {
  std::string name;
  double cost = 0;
};
std::vector<PartCost> part_costs(const Plan& plan, const PlanCosts& costs);

// Ranks carry shares of the samples, in whole pieces, through the float layers. They do so for a
// wave of layers; then each works on those layers of the wave that it owns.
struct Division {
  struct Wave {
    int64_t begin, end;  // layers
  };
  std::vector<model::SampleRange> fit_samples, samples;  // of each rank
  std::vector<Wave> waves;
  std::vector<int> owner;  // of each layer; -1: finished already
};

// Layers with states to keep that a rank may own in one wave: each costs it the memory of their
// inputs and outputs.
inline constexpr int64_t kMostStates = 2;

// Waves and owners such that the slowest ranks of all waves together take least, by cost.
Division divide(const Plan& plan, const PlanCosts& costs, const std::vector<bool>& finished,
                int num_ranks);

// Of one rank, expected.
struct RankPrice {
  std::vector<int64_t> layers;
  int64_t tokens = 0;    // of the main stage, carried through the float layers
  double flops = 0;      // its own work
  double job_flops = 0;  // with its waiting for others: equal for all ranks
  int64_t peak_ram_bytes = 0;
  int64_t state_bytes = 0;  // of hidden states at once, in files
  int64_t sent_bytes = 0, received_bytes = 0;
};
std::vector<RankPrice> price(const Plan& plan, const PlanCosts& costs, const Division& division);

// Contiguous shares of samples in whole pieces of forward_all, as equal as can be in tokens.
std::vector<model::SampleRange> share_samples(const model::Ragged& samples, const PlanCosts& costs,
                                              int num_ranks);
model::Ragged lengths_of(const Samples& samples);

}  // namespace laos::pipeline
