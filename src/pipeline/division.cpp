#include "pipeline/division.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "pipeline/run.h"
#include "rotation/fit.h"

namespace laos::pipeline {

model::Ragged lengths_of(const Samples& samples) {
  model::Ragged ragged;
  for (const std::vector<int32_t>& sample : samples) ragged.append(std::ssize(sample));
  return ragged;
}

LayerNeeds needs_of(const Plan& plan, int64_t layer_idx) {
  LayerNeeds needs;
  const int64_t count = std::ssize(*plan.samples);
  std::vector<bool> wanted(static_cast<size_t>(count), false);
  for (const auto& step : plan.steps) {
    if (!step->reads(plan, layer_idx)) continue;
    needs.outputs = needs.outputs || step->reads_outputs();
    for (const int64_t s : step->samples(plan, layer_idx)) wanted[static_cast<size_t>(s)] = true;
  }
  for (int64_t s = 0; s < count; ++s)
    if (wanted[static_cast<size_t>(s)]) needs.samples.push_back(s);
  needs.all = std::ssize(needs.samples) == count && count > 0;
  return needs;
}

std::vector<model::SampleRange> share_samples(const model::Ragged& samples, const PlanCosts& costs,
                                              int num_ranks) {
  const std::vector<model::SampleRange> pieces = model::whole_pieces(samples, kForwardTokens);
  std::vector<double> until(pieces.size() + 1, 0);  // cost of the pieces before
  for (size_t p = 0; p < pieces.size(); ++p) {
    double cost = 0;
    for (int64_t s = pieces[p].first; s < pieces[p].last; ++s) {
      const auto n = static_cast<double>(samples.length(s));
      cost += costs.forward_of(samples.length(s), 0.5 * n * (n + 1));
    }
    until[p + 1] = until[p] + cost;
  }
  std::vector<model::SampleRange> shares;
  size_t piece = 0;
  for (int r = 0; r < num_ranks; ++r) {
    const double end = until.back() * (r + 1) / num_ranks;
    size_t next = piece;
    // To whichever end of a piece is nearer.
    while (next < pieces.size() && until[next + 1] - end <= end - until[next]) ++next;
    if (r + 1 == num_ranks) next = pieces.size();
    const auto sample_at = [&](size_t p) {
      return p < pieces.size() ? pieces[p].first : samples.num_sequences();
    };
    shares.push_back({sample_at(piece), sample_at(next)});
    piece = next;
  }
  return shares;
}

namespace {

// Layers [begin, end) to ranks, the costliest first and each to the rank with the least so far.
struct Assigned {
  double slowest = std::numeric_limits<double>::infinity();  // infinite: not allowed
  std::vector<int> owner;                                    // of each layer from begin on
};
Assigned assign(const std::vector<double>& work, const std::vector<bool>& has_states,
                const std::vector<bool>& finished, size_t begin, size_t end, int num_ranks) {
  Assigned result;
  result.owner.assign(end - begin, -1);
  std::vector<size_t> order;
  for (size_t i = begin; i < end; ++i)
    if (!finished[i]) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return work[a] > work[b]; });
  std::vector<double> load(static_cast<size_t>(num_ranks), 0);
  std::vector<int64_t> states(static_cast<size_t>(num_ranks), 0);
  for (const size_t i : order) {
    int best = -1;
    for (int r = 0; r < num_ranks; ++r) {
      const auto at = static_cast<size_t>(r);
      if (has_states[i] && states[at] >= kMostStates) continue;
      if (best < 0 || load[at] < load[static_cast<size_t>(best)]) best = r;
    }
    if (best < 0) return result;
    load[static_cast<size_t>(best)] += work[i];
    if (has_states[i]) ++states[static_cast<size_t>(best)];
    result.owner[i - begin] = best;
  }
  result.slowest = *std::max_element(load.begin(), load.end());
  return result;
}

double work_of(const LayerCost& cost) { return cost.looks * cost.pass + cost.rotate + cost.steps; }

}  // namespace

Division divide(const Plan& plan, const PlanCosts& costs, const std::vector<bool>& finished,
                int num_ranks) {
  Division division;
  for (const PlannedFit& fit : plan.fits)
    division.fit_samples = share_samples(lengths_of(*fit.samples), costs, num_ranks);
  division.samples = share_samples(lengths_of(*plan.samples), costs, num_ranks);

  const size_t layers = costs.layers.size();
  std::vector<double> work(layers, 0);
  std::vector<bool> has_states(layers, false);
  double all = 0;
  for (size_t i = 0; i < layers; ++i) {
    if (finished[i]) continue;
    work[i] = work_of(costs.layers[i]);
    all += work[i];
    has_states[i] = plan.reads_activations(static_cast<int64_t>(i));
  }
  // least[e]: of the slowest ranks of the waves before layer e, summed.
  std::vector<double> least(layers + 1, std::numeric_limits<double>::infinity());
  std::vector<size_t> start(layers + 1, 0);
  least[0] = 0;
  for (size_t end = 1; end <= layers; ++end) {
    int64_t states = 0;
    for (size_t begin = end; begin-- > 0;) {
      if (has_states[begin] && ++states > kMostStates * num_ranks) break;
      const Assigned wave = assign(work, has_states, finished, begin, end, num_ranks);
      // Of equals the one with fewer states to hold.
      const double cost =
          least[begin] + wave.slowest + 1e-9 * all * static_cast<double>(states * states);
      if (cost < least[end]) {
        least[end] = cost;
        start[end] = begin;
      }
    }
  }
  for (size_t end = layers; end > 0; end = start[end])
    division.waves.push_back({static_cast<int64_t>(start[end]), static_cast<int64_t>(end)});
  std::reverse(division.waves.begin(), division.waves.end());
  division.owner.assign(layers, -1);
  for (const Division::Wave& wave : division.waves) {
    const Assigned assigned = assign(work, has_states, finished, static_cast<size_t>(wave.begin),
                                     static_cast<size_t>(wave.end), num_ranks);
    std::copy(assigned.owner.begin(), assigned.owner.end(), division.owner.begin() + wave.begin);
  }
  return division;
}

std::vector<RankPrice> price(const Plan& plan, const PlanCosts& costs, const Division& division) {
  const hf::Config& config = plan.checkpoint.config();
  const int64_t row_bytes = 4 * config.hidden_size;
  const size_t ranks = division.samples.size();
  std::vector<RankPrice> prices(ranks);
  double job = 0;  // of the slowest ranks, part after part

  const auto add_part = [&](const std::vector<double>& part) {
    for (size_t r = 0; r < ranks; ++r) prices[r].flops += part[r];
    job += *std::max_element(part.begin(), part.end());
  };
  std::vector<double> part(ranks, 0);
  const auto pass_share = [&](const model::Ragged& samples, const model::SampleRange& share) {
    double cost = 0;
    for (int64_t s = share.first; s < share.last; ++s) {
      const auto n = static_cast<double>(samples.length(s));
      cost += costs.forward_of(samples.length(s), 0.5 * n * (n + 1));
    }
    return cost;
  };
  for (const PlannedFit& fit : plan.fits) {
    const model::Ragged samples = lengths_of(*fit.samples);
    const int64_t rows = rotation::num_fit_rows(config, fit.options, samples, fit.chunks);
    const int64_t matrix = row_bytes * config.hidden_size;
    for (size_t r = 0; r < ranks; ++r) {
      part[r] =
          static_cast<double>(costs.layers.size()) * pass_share(samples, division.fit_samples[r]);
      if (r == 0) continue;
      const auto share =
          static_cast<double>(samples.offsets[static_cast<size_t>(division.fit_samples[r].last)] -
                              samples.offsets[static_cast<size_t>(division.fit_samples[r].first)]);
      const auto sent = static_cast<int64_t>(
          share / std::max<double>(1, static_cast<double>(samples.num_tokens())) *
          static_cast<double>(rows * row_bytes));
      prices[r].sent_bytes += sent;
      prices[0].received_bytes += sent;
      prices[r].received_bytes += matrix;
      prices[0].sent_bytes += matrix;
    }
    add_part(part);
    std::fill(part.begin(), part.end(), 0);
    part[0] = costs.fit;
    add_part(part);
  }

  const model::Ragged samples = lengths_of(*plan.samples);
  for (size_t r = 0; r < ranks; ++r)
    prices[r].tokens = samples.offsets[static_cast<size_t>(division.samples[r].last)] -
                       samples.offsets[static_cast<size_t>(division.samples[r].first)];
  std::vector<double> pass(ranks);
  for (size_t r = 0; r < ranks; ++r) pass[r] = pass_share(samples, division.samples[r]);
  for (const Division::Wave& wave : division.waves) {
    std::vector<double> passes(ranks, 0), steps(ranks, 0);
    std::vector<int64_t> state_rows(ranks, 0);
    for (int64_t i = wave.begin; i < wave.end; ++i) {
      const LayerCost& cost = costs.layers[static_cast<size_t>(i)];
      if (cost.passed)
        for (size_t r = 0; r < ranks; ++r) passes[r] += pass[r] + cost.rotate;
      const int owner = division.owner[static_cast<size_t>(i)];
      if (owner < 0) continue;
      const auto at = static_cast<size_t>(owner);
      prices[at].layers.push_back(i);
      steps[at] += work_of(cost);
      const LayerNeeds needs = needs_of(plan, i);
      const int64_t copies = needs.outputs ? 2 : 1;
      for (size_t r = 0; r < ranks; ++r) {
        int64_t rows = 0;
        for (const int64_t s : needs.samples)
          if (s >= division.samples[r].first && s < division.samples[r].last)
            rows += samples.length(s);
        state_rows[at] += copies * rows;
        if (r == at) continue;
        prices[r].sent_bytes += copies * rows * row_bytes;
        prices[at].received_bytes += copies * rows * row_bytes;
      }
    }
    add_part(passes);
    add_part(steps);
    for (size_t r = 0; r < ranks; ++r)
      prices[r].state_bytes = std::max(prices[r].state_bytes, state_rows[r] * row_bytes);
  }
  const int64_t peak = peak_ram_bytes(plan);
  for (RankPrice& rank : prices) {
    rank.job_flops = job;
    rank.peak_ram_bytes = peak;
    rank.state_bytes += 2 * rank.tokens * row_bytes;
  }
  return prices;
}

}  // namespace laos::pipeline
