#include "pipeline/together.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <utility>

#include "core/memory.h"
#include "core/threads.h"
#include "pipeline/record.h"
#include "pipeline/stopwatch.h"

namespace laos::pipeline {

using Json = nlohmann::json;

namespace {

std::vector<bool> flags_of(const std::vector<std::optional<std::string>>& notes) {
  std::vector<bool> flags;
  flags.reserve(notes.size());
  for (const auto& note : notes) flags.push_back(note.has_value());
  return flags;
}

// The rows of samples [first, last).
MatView<const float> rows_of(const model::HiddenStates& states, int64_t first, int64_t last) {
  return states.rows.view().slice_rows(states.samples.offsets[static_cast<size_t>(first)],
                                       states.samples.offsets[static_cast<size_t>(last)]);
}
MatView<float> rows_of(model::HiddenStates& states, int64_t first, int64_t last) {
  return states.rows.view().slice_rows(states.samples.offsets[static_cast<size_t>(first)],
                                       states.samples.offsets[static_cast<size_t>(last)]);
}
template <class T>
std::span<T> values_of(MatView<T> rows) {
  return {rows.data, static_cast<size_t>(rows.rows * rows.cols)};
}

// Samples of `samples` that are in `range`, as runs of neighbours.
std::vector<model::SampleRange> runs_in(const std::vector<int64_t>& samples,
                                        const model::SampleRange& range) {
  std::vector<model::SampleRange> runs;
  for (const int64_t s : samples) {
    if (s < range.first || s >= range.last) continue;
    if (!runs.empty() && runs.back().last == s)
      ++runs.back().last;
    else
      runs.push_back({s, s + 1});
  }
  return runs;
}

}  // namespace

Together::Together(const Plan& plan, FloatPass& pass, save::CheckpointWriter& writer,
                   cluster::Cluster& cluster, Progress& progress,
                   const std::vector<std::optional<std::string>>& notes)
    : plan_(plan),
      pass_(pass),
      writer_(writer),
      cluster_(cluster),
      progress_(progress),
      notes_(notes),
      config_(plan.checkpoint.config()),
      lengths_(lengths_of(*plan.samples)),
      costs_(costs_of(plan)),
      division_(divide(plan, costs_, flags_of(notes), cluster.size())),
      own_progress_(*this) {
  records_.resize(notes.size());
  record_.host = cluster.hosts()[static_cast<size_t>(cluster.rank())];
  record_.threads = num_threads();
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    if (is_finished(i)) continue;
    const LayerNeeds needs = needs_of(plan, i);
    if (needs.samples.empty()) continue;
    needs_states_ = true;
    last_passed_ = needs.outputs ? i : i - 1;
  }
}

std::vector<report::Layer> Together::run() {
  progress_.begin(kQuantizePart, config_.num_hidden_layers);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i)
    if (is_finished(i) && cluster_.rank() == 0)
      note_finished(
          i, 0,
          report::layer_from_json(*notes_[static_cast<size_t>(i)], save::part_name("layer", i)),
          "");
  if (needs_states_) {
    const model::SampleRange share = division_.samples[static_cast<size_t>(cluster_.rank())];
    inputs_ =
        pass_.embed({plan_.samples->begin() + share.first, plan_.samples->begin() + share.last});
    outputs_ = {inputs_.samples, pass_.new_rows(inputs_.rows.rows())};
  }
  for (const Division::Wave& wave : division_.waves) {
    num_in_wave_ = 0;
    for (int64_t i = wave.begin; i < wave.end; ++i) num_in_wave_ += is_finished(i) ? 0 : 1;
    pass_wave(wave);
    for (int64_t i = wave.begin; i < wave.end; ++i)
      if (division_.owner[static_cast<size_t>(i)] == cluster_.rank()) make_layer(i);
  }
  inputs_ = {};
  outputs_ = {};
  const Stopwatch watch;
  if (cluster_.rank() == 0)
    while (num_finished_ < config_.num_hidden_layers) {
      stop_if_asked(own_progress_);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  record_.wait_seconds += watch.seconds();
  cluster_.barrier();
  std::vector<report::Layer> layers;
  if (cluster_.rank() == 0)
    for (std::optional<report::Layer>& record : records_) layers.push_back(std::move(*record));
  return layers;
}

void Together::pass_wave(const Division::Wave& wave) {
  for (int64_t i = wave.begin; i < wave.end; ++i) {
    const int owner = division_.owner[static_cast<size_t>(i)];
    const LayerNeeds needs = owner < 0 ? LayerNeeds{} : needs_of(plan_, i);
    Held* held = nullptr;
    if (owner == cluster_.rank()) {
      held = &held_[i];
      held->needs = needs;
    }
    model::HiddenStates none;
    const auto hand = [&](const model::HiddenStates& own, model::HiddenStates* target) {
      if (target != nullptr) *target = {lengths_, pass_.new_rows(lengths_.num_tokens())};
      hand_over(own, needs.samples, owner, target != nullptr ? *target : none);
    };
    if (!needs.samples.empty()) hand(inputs_, held != nullptr ? &held->inputs : nullptr);
    if (i > last_passed_) continue;
    const Stopwatch watch;
    {
      const FloatLayer layer = pass_.load(i);
      pass_.forward(layer, inputs_, &outputs_);
    }
    record_.pass_seconds += watch.seconds();
    if (needs.outputs) hand(outputs_, held != nullptr ? &held->outputs : nullptr);
    std::swap(inputs_, outputs_);
    stop_if_asked(own_progress_);
  }
}

void Together::hand_over(const model::HiddenStates& own, const std::vector<int64_t>& samples,
                         int owner, model::HiddenStates& target) {
  const auto share_of = [&](int rank) { return division_.samples[static_cast<size_t>(rank)]; };
  const model::SampleRange share = share_of(cluster_.rank());
  const auto own_values = [&](const model::SampleRange& run) {
    return values_of(rows_of(own, run.first - share.first, run.last - share.first));
  };
  std::vector<cluster::Send> sends;
  std::vector<cluster::Receive> receives;
  if (cluster_.rank() != owner) {
    for (const model::SampleRange& run : runs_in(samples, share))
      sends.push_back({owner, std::as_bytes(own_values(run))});
  } else {
    for (int r = 0; r < cluster_.size(); ++r)
      for (const model::SampleRange& run : runs_in(samples, share_of(r))) {
        const std::span<float> place = values_of(rows_of(target, run.first, run.last));
        if (r == owner)
          std::ranges::copy(own_values(run), place.begin());
        else
          receives.push_back({r, std::as_writable_bytes(place)});
      }
  }
  cluster_.exchange(sends, receives);
  own.rows.drop(0, own.rows.rows());
  target.rows.drop(0, target.rows.rows());
}

void Together::make_layer(int64_t layer_idx) {
  const Stopwatch watch;
  const auto found = held_.find(layer_idx);
  LAOS_ASSERT(found != held_.end());
  Held& held = found->second;
  LayerStates states{.inputs = &held.inputs,
                     .outputs = held.needs.outputs ? &held.outputs : nullptr,
                     .has_outputs = true,
                     .present = held.needs.all ? nullptr : &held.needs.samples};
  QuantizedLayer layer =
      run_steps(plan_, pass_, own_progress_, layer_idx, states, /*wants_outputs=*/false);
  held_.erase(found);
  const std::string note = note_of(layer);
  report::Layer record = record_layer(plan_, layer_idx, layer, watch.seconds(), pass_.times());
  const std::string text = report::to_json(record);
  const TimeSheet::Span timed(pass_.times(), kWriteTime);
  writer_.begin_layer(layer_idx);
  write_layer(plan_, layer_idx, layer, writer_);
  writer_.finish_layer(text);
  record_.layer_seconds += watch.seconds();
  ++record_.layers;
  if (cluster_.rank() == 0)
    note_finished(layer_idx, 0, std::move(record), note);
  else
    cluster_.notify(
        Json{{"layer", layer_idx}, {"rank", cluster_.rank()}, {"note", note}, {"record", text}}
            .dump());
  stop_if_asked(own_progress_);
}

void Together::take_notices() {
  for (const std::string& text : cluster_.take_notices()) {
    const Json notice = Json::parse(text);
    const auto layer_idx = notice.at("layer").get<int64_t>();
    const auto record = notice.at("record").get<std::string>();
    writer_.work().take_up(save::part_name("layer", layer_idx), record);
    made_elsewhere_.push_back(layer_idx);
    note_finished(layer_idx, notice.at("rank").get<int>(),
                  report::layer_from_json(record, save::part_name("layer", layer_idx)),
                  notice.at("note").get<std::string>());
  }
}

void Together::note_finished(int64_t layer_idx, int rank, report::Layer record,
                             const std::string& note) {
  records_[static_cast<size_t>(layer_idx)] = std::move(record);
  ++num_finished_;
  num_in_wave_ = std::max<int64_t>(0, num_in_wave_ - 1);
  const std::string text = "layer " + std::to_string(layer_idx + 1) + " by rank " +
                           std::to_string(rank) + (note.empty() ? "" : "  " + note);
  if (is_finished(layer_idx))
    progress_.kept(num_finished_);
  else
    progress_.step(num_finished_, text);
}

void Together::OwnProgress::iteration(int64_t layer_idx, int64_t iteration, int64_t iters,
                                      double loss) {
  // The others of the wave are about as far.
  const double part = static_cast<double>(iteration) / static_cast<double>(iters);
  together_.progress_.share((static_cast<double>(together_.num_finished_) +
                             part * static_cast<double>(together_.num_in_wave_)) /
                                static_cast<double>(together_.config_.num_hidden_layers),
                            layer_idx, iteration, iters, loss);
}

bool Together::OwnProgress::stop() {
  if (together_.cluster_.rank() == 0) together_.take_notices();
  return together_.progress_.stop();
}

std::vector<report::Rank> Together::rank_records(double seconds) {
  const cluster::Traffic traffic = cluster_.traffic();
  record_.seconds = seconds;
  record_.cpu_seconds = cpu_seconds();
  // Waits for the plan are among these too, and no part of the run.
  record_.wait_seconds = std::min(seconds, record_.wait_seconds + traffic.wait_seconds);
  record_.sent_bytes = traffic.sent_bytes;
  record_.received_bytes = traffic.received_bytes;
  record_.peak_rss_bytes = peak_rss_bytes();
  std::vector<report::Rank> records;
  for (const std::string& text : cluster_.gather(report::to_json(record_)))
    records.push_back(report::rank_from_json(text, "rank"));
  return records;
}

}  // namespace laos::pipeline
