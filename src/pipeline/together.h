// The layers of a run by all ranks of a job.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cluster/cluster.h"
#include "pipeline/division.h"
#include "pipeline/float_pass.h"
#include "pipeline/layer_steps.h"
#include "report/run_record.h"
#include "save/checkpoint_writer.h"

namespace laos::pipeline {

// A layer is made by the rank that owns it, from hidden states that all ranks carry, each its share
// of the samples; the layer is durable at once, and rank 0 is told. All arguments must outlive
// this.
class Together {
 public:
  // `notes`: of each layer that an earlier run finished, the record; at ranks other than 0 only
  // whether there is one.
  Together(const Plan& plan, FloatPass& pass, save::CheckpointWriter& writer,
           cluster::Cluster& cluster, Progress& progress,
           const std::vector<std::optional<std::string>>& notes);

  // Returns when every layer is finished, by any rank. At rank 0: the record of each; all layers
  // that it did not make itself are then parts of the writer's work, and yet to be restored.
  // Throws Error as pipeline::run.
  std::vector<report::Layer> run();
  // Layers that other ranks made.
  const std::vector<int64_t>& made_elsewhere() const noexcept { return made_elsewhere_; }

  // What every rank did, at rank 0; empty elsewhere. Every rank calls it.
  std::vector<report::Rank> rank_records(double seconds);

 private:
  // What the owner of a layer was sent of the float model.
  struct Held {
    LayerNeeds needs;
    model::HiddenStates inputs, outputs;
  };

  bool is_finished(int64_t layer_idx) const {
    return notes_[static_cast<size_t>(layer_idx)].has_value();
  }
  void pass_wave(const Division::Wave& wave);
  // The rows of `samples` from the ranks that carry them to `owner`.
  void hand_over(const model::HiddenStates& own, const std::vector<int64_t>& samples, int owner,
                 model::HiddenStates& target);
  void make_layer(int64_t layer_idx);
  void take_notices();
  void note_finished(int64_t layer_idx, int rank, report::Layer record, const std::string& note);

  // Shows rank 0's own progress as that of the whole job.
  class OwnProgress : public Progress {
   public:
    explicit OwnProgress(Together& together) : together_(together) {}
    void iteration(int64_t layer_idx, int64_t iteration, int64_t iters, double loss) override;
    bool stop() override;

   private:
    Together& together_;
  };

  const Plan& plan_;
  FloatPass& pass_;
  save::CheckpointWriter& writer_;
  cluster::Cluster& cluster_;
  Progress& progress_;
  const std::vector<std::optional<std::string>>& notes_;
  const hf::Config& config_;
  const model::Ragged lengths_;  // of all samples
  const PlanCosts costs_;
  const Division division_;
  OwnProgress own_progress_;
  bool needs_states_ = false;
  int64_t last_passed_ = -1;              // no layer behind this one needs the float model
  model::HiddenStates inputs_, outputs_;  // of this rank's share
  std::map<int64_t, Held> held_;
  // At rank 0.
  std::vector<std::optional<report::Layer>> records_;
  std::vector<int64_t> made_elsewhere_;
  int64_t num_finished_ = 0, num_in_wave_ = 0;
  // Of this rank.
  report::Rank record_;
};

}  // namespace laos::pipeline
