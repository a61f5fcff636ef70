// Carries out a plan.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "autoround/train_layer.h"
#include "cluster/cluster.h"
#include "pipeline/plan.h"
#include "pipeline/time_sheet.h"
#include "report/run_record.h"
#include "rotation/fit.h"
#include "rotation/rotation.h"

namespace laos::pipeline {

// Tokens that run forward through a float layer at a time, and rows of embed_tokens and lm_head
// that are held in f32 at a time.
inline constexpr int64_t kForwardTokens = model::kPieceTokens;
inline constexpr int64_t kHeadRows = 4096;

// The parts of the work that take time, as Progress::begin names them.
inline constexpr const char* kCollectPart = "collect activations";
inline constexpr const char* kFitPart = "fit rotation";
inline constexpr const char* kQuantizePart = "quantize";
inline constexpr const char* kSavePart = "save";
inline constexpr const char* kHealthPart = "health check";

// What a run tells while it works. Every member may be left as it is.
class Progress {
 public:
  virtual ~Progress() = default;
  // A part of the work begins: one of those above, or what takes little time. `num_steps` layers or
  // steps follow.
  virtual void begin(const std::string& /*part*/, int64_t /*num_steps*/) {}
  // Step `done` (from 1) of the part is done; `note` says what came of it, or is empty.
  virtual void step(int64_t /*done*/, const std::string& /*note*/) {}
  // The part's first `done` steps were done by an earlier run.
  virtual void kept(int64_t /*done*/) {}
  // An iteration of training layer `layer_idx`; loss is the mean absolute error per element.
  virtual void iteration(int64_t /*layer_idx*/, int64_t /*iteration*/, int64_t /*iters*/,
                         double /*loss*/) {}
  // The same where several ranks work: the whole job is done to this share, as far as this rank can
  // tell.
  virtual void share(double /*share*/, int64_t /*layer_idx*/, int64_t /*iteration*/,
                     int64_t /*iters*/, double /*loss*/) {}
  // Asked after every step and iteration: true makes run() throw Error(kStopped) there.
  virtual bool stop() { return false; }
};

// What came of it.
struct RunResult {
  std::vector<rotation::FitResult> fits;       // rotation matrices moved out
  std::vector<autoround::LayerReport> layers;  // of every decoder layer
  int64_t layers_kept = 0;                     // of those, finished by an earlier run
  std::vector<report::Layer> records;          // likewise, with all that run.json says of it
  std::vector<report::Rank> ranks;             // what each did, when there are several
  // [hidden_size, hidden_size] that the residual stream was rotated by; empty where it was not.
  Mat<float> rotation;
  double fit_seconds = 0;
  double quantize_seconds = 0;
  double save_seconds = 0;
  std::vector<TimeSheet::Part> times;  // of rank 0
};

// Quantizes and writes the checkpoint; nothing is visible in save_path before the end. Whenever and
// however it ends before that, each fitted rotation and each layer that was finished stays in
// save_path/.laos-partial, and the next run of the same plan goes on from there; without any,
// nothing stays. Same plan, same bytes, on any number of threads, interrupted or not. Throws Error:
// kNumeric for NaN or infinity in a weight (found before anything is trained), kIo and kResource
// from writing, kStopped.
RunResult run(const Plan& plan, Progress& progress);
// The same by all ranks of a job, each of which calls it with the same plan: the bytes are those of
// one rank. Ranks other than 0 get no result worth looking at.
RunResult run(const Plan& plan, Progress& progress, cluster::Cluster& cluster);

// The rotation of a plan, fitted as the plan says by all ranks; nullopt when nothing is rotated.
// Throws Error as rotation::fit_rotation.
std::optional<rotation::ModelRotation> make_plan_rotation(const Plan& plan, Progress& progress,
                                                          cluster::Cluster& cluster);

}  // namespace laos::pipeline
