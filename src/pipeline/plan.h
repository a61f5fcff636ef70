// What a quantization will do, decided and checked whole before the first heavy byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hf/tokenizer.h"
#include "linalg/gemm.h"
#include "model/checkpoint.h"
#include "pipeline/step.h"
#include "recipe/recipe.h"
#include "save/checkpoint_writer.h"

namespace laos::pipeline {

// What a user asks for.
struct QuantOptions {
  std::filesystem::path model_path;   // Hugging Face checkpoint directory
  std::span<const hf::Family> families = hf::families();  // that it may be of
  // Directory to write; where there are several formats, each is a directory in it, by its name.
  std::filesystem::path save_path;
  std::filesystem::path recipe_path;  // YAML
  std::string recipe_text;            // what is in it; "": the file is read
  std::string model_type;             // names the exported recipe
  std::vector<std::string> formats = {};  // save::Format::name; none: those of the recipe's savers
  // Of the recipe's flatquant, instead of what it says.
  std::optional<bool> clip = {};
  std::vector<int64_t> tp = {};
  bool int8_cache = false;                               // as spec.kv_cache of the recipe
  std::optional<std::string> dataset;                    // overrides every dataset of the recipe
  std::vector<std::filesystem::path> calib_directories;  // where datasets are looked for last
  int64_t calib_seq_len = 2048;                          // tokens of a sample at most
  hf::Bos bos = hf::Bos::kAsModel;                       // whether a sample begins with it
  int64_t nsamples = 0;                                  // of a dataset, drawn by `seed`; 0: all
  std::string chat_format;                               // of conversations; "": the model's own
  // Samples of every dataset that nothing is calibrated on, for the health check; nullopt: one in
  // kHoldBackOneIn, kMostHeldBack at most.
  std::optional<int64_t> hold_back;
  uint32_t seed = 42;
  // Operands of the products of training, of the float layers that calibration samples pass through
  // and of what linears are solved with. Everything else is computed in f32.
  linalg::ComputeType compute = linalg::ComputeType::kF32;
  bool local_model = false;  // model_path is a machine's own copy, like those of others
  bool restart = false;      // throw away what an interrupted run finished
  // Hidden states are kept for the next run once this many seconds went into them.
  double keep_states_seconds = 60;
  // Where hidden states are kept while the run goes on; empty: in the work directory.
  std::filesystem::path scratch_path;
  int64_t max_memory = 0;  // bytes that the run may take; 0: what the machine has
  // For a plan that is looked at and not run: save_path is not checked, and the dataset is read
  // even where no step needs it.
  bool writes = true;
  bool reads_dataset = false;
  // Want of disk and memory, and an output that is in the way, become refusals of the plan.
  bool dry_run = false;
  bool checks = true;  // the finished checkpoint is checked, see pipeline/record.h
};

using Samples = std::vector<std::vector<int32_t>>;

inline constexpr int64_t kHoldBackOneIn = 64, kMostHeldBack = 4;

// One line of the plan.
struct PlannedLinear {
  std::string name;
  int64_t layer_idx = 0;
  model::Linear linear = model::Linear::kQProj;
  std::optional<quant::LinearScheme> scheme;  // nullopt = FLOAT
  size_t step = 0;                            // of Plan::steps, which quantizes it
  std::string label;
  std::string decided_by;  // location of the strategy, or "no strategy matches"

  // Blocks of its inputs that share a pair of matrices, see quant::ActSpec; 0: there is none.
  int64_t pair_blocks() const noexcept { return scheme ? scheme->act.pair_blocks : 0; }
};

// A prior stage: fits the rotation to activations of `samples`.
struct PlannedFit {
  rotation::FitOptions options;
  std::shared_ptr<const Samples> dataset;  // of the stage
  std::shared_ptr<const Samples> samples;  // those of it that the fit reads
  int64_t chunks = 1;  // see rotation::ActivationRows
};

// The costs, estimated from shapes and from this machine's GEMM rates.
struct Estimate {
  int64_t peak_ram_bytes = 0;
  int64_t disk_bytes = 0;
  int64_t scratch_bytes = 0;  // on disk besides, until the end: hidden states
  double flops = 0;
  double health_seconds = 0;  // of `seconds`: the check of the finished checkpoint
  double gemm_gflops = 0;     // in f32, measured now
  double train_gflops = 0;    // in the dtype of training
  double seconds = 0;
  bool may_end_early = false;  // seconds are the most
};

struct Plan {
  QuantOptions options;
  model::Checkpoint checkpoint;
  recipe::Recipe recipe;
  std::vector<PlannedFit> fits;
  std::vector<std::unique_ptr<Step>> steps;  // at most one that rotates
  std::shared_ptr<const Samples>
      samples;  // of the main stage; empty when no step reads activations
  std::filesystem::path
      dataset_path;         // of `samples`, else of the fit's; empty when nothing is read
  bool is_default_dataset;  // the set that comes with laos, as nothing was named
  std::shared_ptr<const Samples> held_back;  // of that dataset, see QuantOptions; may be empty
  std::vector<PlannedLinear> linears;        // every linear of every decoder layer, in order
  DType float_dtype = DType::kBF16;          // of the tensors that stay float, as they are written
  save::CheckpointJob job;
  std::vector<std::string> warnings;
  std::vector<Problem> refusals;  // of a dry run: what would have refused the run itself

  const PlannedLinear& linear(int64_t layer_idx, model::Linear l) const {
    return linears[static_cast<size_t>(hf::index_of(checkpoint.config(), layer_idx, l))];
  }
  // What the main stage would read: the samples of the fit's stage where no step reads any.
  const std::shared_ptr<const Samples>& calibration() const noexcept {
    return samples->empty() && !fits.empty() ? fits.front().dataset : samples;
  }
  // As the recipe names the processor of a step: "gptq_quant".
  std::string step_type(size_t step) const;
  // Null: norms and basis stay as they are.
  const rotation::RotateOptions* rotate() const noexcept;
  // Whether any step looks at activations of a layer.
  bool reads_activations(int64_t layer_idx) const;
  // The same of a layer from `layer_idx` on.
  bool reads_activations_from(int64_t layer_idx) const;
};

// The recipe of a job, with what other options change of it. Throws Error as load_recipe, and
// kUsage.
recipe::Recipe recipe_of(const QuantOptions& options);

// Reads recipe, checkpoint and datasets and decides everything. Throws Error with every problem
// found in any of them, and writes nothing: recipe errors, a checkpoint that is not whole, pairs
// that the format or its consumer refuse, dimensions without a rotation, missing or empty datasets,
// an output that cannot be written.
Plan make_plan(const QuantOptions& options);

// Operations that the matrices in front of linears take when the model is served, over those of all
// linears of the decoder layers.
double transform_share(const Plan& plan);

// Bytes of the files that hold hidden states while the plan runs.
int64_t scratch_bytes(const Plan& plan);

// Memory of the process at the most.
int64_t peak_ram_bytes(const Plan& plan);

// Of a product large enough to run at full rate, measured in a quarter of a second: in 1e9
// operations a second.
double gemm_gflops(linalg::ComputeType compute);
// The share of it that work other than training reaches, which takes as long on elements in either
// dtype; `speed`: the rate of the dtype beside that of f32.
double efficiency(const hf::Config& config, double speed = 1);

// Runs short products to learn the machine's rates.
Estimate estimate(const Plan& plan);

}  // namespace laos::pipeline
