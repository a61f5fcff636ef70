#include "pipeline/stage1.h"

#include <algorithm>
#include <cstdio>
#include <span>
#include <utility>

#include "model/pass_linears.h"
#include "pipeline/division.h"
#include "pipeline/float_pass.h"
#include "rotation/rotation.h"

namespace laos::pipeline {
namespace {

std::span<std::byte> bytes_of(MatView<float> rows) {
  return std::as_writable_bytes(std::span(rows.data, static_cast<size_t>(rows.rows * rows.cols)));
}

// The rows that the fit is given: all at rank 0, none elsewhere. The float model with folded norms,
// layer by layer.
Mat<float> collect_rows(const Plan& plan, const PlannedFit& planned,
                        const std::filesystem::path& scratch, Progress& progress,
                        cluster::Cluster& cluster) {
  const hf::Config& config = plan.checkpoint.config();
  const model::Ragged lengths = lengths_of(*planned.samples);
  const std::vector<model::SampleRange> shares =
      share_samples(lengths, costs_of(plan), cluster.size());
  const auto rows_of = [&](int rank) {
    return rotation::ActivationRows(config, planned.options, lengths, planned.chunks,
                                    &shares[static_cast<size_t>(rank)]);
  };
  const model::SampleRange share = shares[static_cast<size_t>(cluster.rank())];
  rotation::ActivationRows rows = rows_of(cluster.rank());
  {
    model::HiddenStates states = model::embed(
        plan.checkpoint.embed_tokens(),
        {planned.samples->begin() + share.first, planned.samples->begin() + share.last}, scratch);
    plan.checkpoint.drop_pages();
    const model::Rope<float> rope(config, model::longest_sample(lengths));
    model::LayerSaved<float> saved(config, model::largest_piece(states.samples, kForwardTokens),
                                   false, model::longest_sample(states.samples));
    saved.compute = plan.options.compute;
    progress.begin(kCollectPart, config.num_hidden_layers);
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      model::LayerWeights weights = plan.checkpoint.load_layer(i);
      rotation::fold_norms(weights);
      const auto linears = model::pass_linears(saved.compute, model::views_of(weights));
      model::forward_all(
          config, model::norms_of(weights), *linears, rope, states, kForwardTokens, saved, &states,
          [&](const model::Piece&, const model::Ragged& batch, model::LayerSaved<float>& piece) {
            require_finite(plan, i, piece, batch.num_tokens());
            rows.observe(batch, piece);
            stop_if_asked(progress);
          });
      rows.finish_layer();
      progress.step(i + 1, "");
    }
  }
  const int64_t per_layer = rows.rows_per_layer();
  const auto own_rows = rows.kept_rows();
  Mat<float> own = rows.take();
  if (cluster.size() == 1) return own;
  if (cluster.rank() != 0) {
    std::vector<cluster::Send> sends;
    const int64_t count = own_rows.last - own_rows.first;
    for (int64_t i = 0; i < config.num_hidden_layers; ++i)
      sends.push_back({0, bytes_of(own.view().slice_rows(i * count, (i + 1) * count))});
    cluster.exchange(sends, {});
    return {};
  }
  Mat<float> all(config.num_hidden_layers * per_layer, config.hidden_size);
  std::vector<cluster::Receive> receives;
  for (int r = 0; r < cluster.size(); ++r) {
    const rotation::ActivationRows::RowRange kept = r == 0 ? own_rows : rows_of(r).kept_rows();
    const int64_t count = kept.last - kept.first;
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
      const MatView<float> place =
          all.view().slice_rows(i * per_layer + kept.first, i * per_layer + kept.last);
      if (r != 0)
        receives.push_back({r, bytes_of(place)});
      else
        std::copy_n(own.row(i * count), count * own.cols(), place.data);
    }
  }
  cluster.exchange({}, receives);
  return all;
}

}  // namespace

void broadcast(Mat<float>& matrix, int64_t rows, int64_t cols, cluster::Cluster& cluster) {
  if (cluster.size() == 1) return;
  if (cluster.rank() != 0) matrix = Mat<float>(rows, cols);
  cluster.broadcast(bytes_of(matrix.view()));
}

rotation::FitResult fit_together(const Plan& plan, const PlannedFit& planned,
                                 const std::filesystem::path& scratch, Progress& progress,
                                 cluster::Cluster& cluster, TimeSheet* times) {
  Mat<float> rows;
  {
    const TimeSheet::Span timed(times, kFitPassTime);
    rows = collect_rows(plan, planned, scratch, progress, cluster);
  }
  const TimeSheet::Span timed(times, kFitTime);
  rotation::FitResult result;
  if (cluster.rank() == 0) {
    progress.begin(kFitPart, planned.options.steps);
    result = rotation::fit_rotation(std::move(rows), planned.options,
                                    [&](const rotation::FitStep& step) {
                                      char note[64];
                                      std::snprintf(note, sizeof note, "loss %.6g", step.loss);
                                      if (step.step > 0) progress.step(step.step, note);
                                      stop_if_asked(progress);
                                    });
  }
  const int64_t size = plan.checkpoint.config().hidden_size;
  broadcast(result.rotation, size, size, cluster);
  return result;
}

}  // namespace laos::pipeline
