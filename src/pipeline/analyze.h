// How much each group of linears costs at the low width of a recipe, and which of them should have
// the high one.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cluster/cluster.h"
#include "eval/windows.h"
#include "model/outliers.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"

namespace laos::pipeline {

// A fused group of a decoder layer: an engine wants one label for all of its linears.
struct GroupCost {
  int64_t layer_idx = 0;
  model::LinearGroup group = model::LinearGroup::kQkv;
  int64_t parameters = 0;
  bool is_candidate = false;    // its width may be chosen
  bool is_planned_low = false;  // the recipe as it stands gives it the low one
  double weight_error = 0;  // ‖W - Ŵ‖ / ‖W‖ over the group's linears, rounded to nearest
  model::Outliers before = {},
                  after = {};  // of what it reads: in the float model; rotated and smoothed
  double output_error = 0;     // of its outputs, mean over tokens, relative
  double layer_error = 0;      // of the layer's output, relative to what the layer adds
  double stream_error = 0;  // mean over tokens of ‖Δy‖² / ‖y‖² of the hidden states behind it
  // KL of the model's next-token distribution with this group alone at the low width; NaN unless
  // asked for.
  double kl = 0;

  // What is summed and kept small: kl, or stream_error without it.
  double cost() const noexcept;
};
const char* name_of(model::LinearGroup group) noexcept;  // "qkv", "o", "gate_up", "down"

struct AnalyzeOptions {
  // Whose widths may be chosen; others keep what the recipe says.
  std::set<model::LinearGroup> groups = {model::LinearGroup::kQkv, model::LinearGroup::kO,
                                         model::LinearGroup::kGateUp, model::LinearGroup::kDown};
  int64_t tokens = 1024;  // of the recipe's dataset, at most
  bool kl = false;
};

struct Analysis {
  quant::LinearScheme low, high;  // dynamic
  eval::Windows windows;          // of the recipe's dataset, that all is measured on
  bool is_held_back = true;       // no step of the analysis has seen them
  int64_t num_tokens = 0;         // in them
  int64_t parameters = 0;         // of all linears of the decoder
  int64_t fixed_low = 0;          // of those at the low width whose group is no candidate
  int64_t planned_low = 0;        // at the low width as the recipe stands
  std::vector<GroupCost> groups;  // every group of every layer, in order
};

// What the analysis of a plan begins with: its widths and its groups, nothing measured. The low and
// the high width are the narrowest and the widest of the plan's linears; where it has one only, the
// high one is 8 bits. Every candidate of `plan` has the low width from now on, since what steps
// make of a group does not depend on the others. Where steps look at samples, `plan` loses those
// that are measured on, a fourth of them at most; of fewer than four it keeps all. Throws Error:
// kUnsupported for static activations at either width and where nothing can be chosen, kData
// without a dataset.
Analysis begin_analysis(Plan& plan, const AnalyzeOptions& options);

// Whether analyze() lets a step look at the calibration samples in a layer from `layer_idx` on.
// Steps that train do not work in it.
bool analysis_looks_from(const Plan& plan, int64_t layer_idx);

// What analyze() will take; of memory at most that.
struct AnalysisEstimate {
  double flops = 0;
  double seconds = 0;  // of one process
  int64_t peak_ram_bytes = 0;
  int64_t scratch_bytes = 0;  // in options.scratch_path; in memory where that is empty
};
AnalysisEstimate estimate(const Plan& plan, const Analysis& analysis,
                          const AnalyzeOptions& options);

// Fills in what is measured. Groups are at the low width one at a time and all else float, after
// the rotation and smoothing of the plan: with the codes that the plan's steps make, or rounded to
// nearest where a step trains. Memory is that of a layer at work and of hidden states: of the
// calibration samples, of the windows, and with `kl` of those once more for each group of the
// model; files in options.scratch_path hold them where it is not empty. Throws Error as
// pipeline::run does. Ranks of a job share the groups; the figures are those of one rank, and at
// rank 0.
void analyze(const Plan& plan, const AnalyzeOptions& options, Analysis& analysis,
             Progress& progress, cluster::Cluster& cluster);

// What a choice may cost; at most one of these is given.
struct Budget {
  std::optional<double> low_share = {};     // of all linear weights at the low width, at least
  std::optional<double> average_bits = {};  // of the linear weights, at most
  std::optional<double> max_kl = {};        // sum of the groups' costs
};
// Which candidates should have the high width: with the least sum of costs that the budget allows,
// or under max_kl with the most weights at the low width. Without any the share is the recipe's
// own. true = high, one entry a group. Throws Error(kUsage) when not even all candidates together
// reach it, and for bits that are not between the widths'.
std::vector<bool> choose_high(const Analysis& analysis, const Budget& budget);

// The sum of the costs of candidates that are not `high`: what groups lose one by one.
double predicted_cost(const Analysis& analysis, const std::vector<bool>& high) noexcept;

// The plan's recipe with the chosen widths, as laos quant runs it. `file` is where it will stand,
// from where its dataset must be found.
std::string recipe_with(const Plan& plan, const Analysis& analysis, const std::vector<bool>& high,
                        const std::string& config_id, const std::filesystem::path& file);

}  // namespace laos::pipeline
