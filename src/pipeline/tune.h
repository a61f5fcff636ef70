// A quantized checkpoint whose scales are learned from its float model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "eval/eval_model.h"
#include "hf/quantized_checkpoint.h"
#include "hf/tokenizer.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"
#include "save/work_directory.h"
#include "tune/fit_scales.h"

namespace laos::pipeline {

struct TuneOptions {
  std::filesystem::path checkpoint, baseline, save_path;
  std::optional<std::string> dataset;  // nullopt: the set that comes with laos
  std::vector<std::filesystem::path> calib_directories;
  int64_t seq_len = 256;    // tokens of a sample at most
  int64_t nsamples = 128;   // at most
  std::string chat_format;  // in place of the checkpoint's own
  hf::Bos bos = hf::Bos::kAsModel;
  bool restart = false;  // what an interrupted run left is thrown away
  tune::FitOptions fit;
};

// All that is checked before the first step.
struct TunePlan {
  TuneOptions options;
  std::unique_ptr<hf::QuantizedCheckpoint> checkpoint;
  std::unique_ptr<eval::EvalModel> teacher;
  std::filesystem::path dataset;
  Samples samples;
  int64_t num_tokens = 0;
  int64_t num_scales = 0;  // rows of linears whose scales are learned
  std::vector<std::string> warnings;
  double flops = 0;          // of the products
  double seconds = 0;        // estimated, by the rate of this machine's products
  int64_t memory_bytes = 0;  // of the process's own, at most
  save::WorkPlan work;
};

// Throws Error: as tune::fit_scales and save::Rescaling, kUsage where `baseline` is quantized,
// kData for what the dataset has, kResource where memory is short.
TunePlan plan_tune(const TuneOptions& options);

// Learns the scales and writes the checkpoint, unless no step was better than the scales as they
// are: then nothing is written, and best_step is 0. Every tune::kKeptSteps steps are kept in
// save_path/.laos-partial, and the next run of the same plan goes on from there. The same plan
// gives the same bytes, on any number of threads, interrupted or not. Throws Error as plan_tune,
// and kStopped.
tune::FitResult run_tune(const TunePlan& plan, Progress& progress);

}  // namespace laos::pipeline
