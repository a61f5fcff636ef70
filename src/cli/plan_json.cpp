#include "cli/plan_json.h"

#include <string>

#include "model/decoder_layer.h"
#include "pipeline/division.h"
#include "save/format.h"

namespace laos::cli {
namespace {

using PlanJson = nlohmann::ordered_json;

PlanJson samples_json(const pipeline::Samples& samples) {
  return {{"samples", samples.size()}, {"tokens", pipeline::lengths_of(samples).num_tokens()}};
}

}  // namespace

WeightShares weight_shares(const pipeline::Plan& plan) {
  double all = 0, quantized = 0, four_bit = 0;
  for (const pipeline::PlannedLinear& linear : plan.linears) {
    const auto size =
        static_cast<double>(model::num_weights(plan.checkpoint.config(), linear.linear));
    all += size;
    if (linear.scheme) quantized += size;
    if (linear.scheme && linear.scheme->weight.bits == 4) four_bit += size;
  }
  return {.quantized = quantized / all, .four_bit = four_bit / all};
}

PlanJson plan_json(const pipeline::Plan& plan, const pipeline::Estimate& estimate) {
  PlanJson json = {
      {"recipe",
       {{"config_id", plan.recipe.metadata.config_id}, {"path", plan.recipe.path.string()}}},
      {"format", plan.job.format->name()}};
  json["checkpoints"] = PlanJson::array();
  for (const save::CheckpointJob* job : save::all_jobs(plan.job))
    json["checkpoints"].push_back({{"format", job->format->name()},
                                   {"directory", job->save_path.string()},
                                   {"disk_bytes", save::planned_bytes(*job)}});
  json["linears"] = PlanJson::array();
  for (const pipeline::PlannedLinear& linear : plan.linears) {
    json["linears"].push_back(
        {{"name", linear.name},
         {"label", linear.label},
         {"decided_by", linear.decided_by},
         {"parameters", model::num_weights(plan.checkpoint.config(), linear.linear)},
         {"weight_bits", linear.scheme ? linear.scheme->weight.bits : 16},
         {"act_bits", linear.scheme ? linear.scheme->act.bits : 16}});
  }
  const WeightShares shares = weight_shares(plan);
  json["quantized_share"] = shares.quantized;
  json["four_bit_share"] = shares.four_bit;
  json["kv_cache"] = plan.recipe.kv_cache ? "int8" : "float";
  json["transform_share"] = pipeline::transform_share(plan);
  PlanJson data = samples_json(*plan.samples);
  data["rotation"] = PlanJson::array();
  for (const pipeline::PlannedFit& fit : plan.fits)
    data["rotation"].push_back(samples_json(*fit.samples));
  data["held_back"] = plan.held_back->size();
  data["path"] = plan.dataset_path.string();
  data["is_default"] = plan.is_default_dataset;
  json["dataset"] = std::move(data);
  json["disk_bytes"] = estimate.disk_bytes;
  json["scratch_bytes"] = estimate.scratch_bytes;
  json["peak_ram_bytes"] = estimate.peak_ram_bytes;
  json["seconds"] = estimate.seconds;
  json["seconds_are_the_most"] = estimate.may_end_early;
  json["health_seconds"] = estimate.health_seconds;
  const pipeline::HealthSize health = pipeline::health_size(plan, pipeline::costs_of(plan));
  json["health_tokens"] = plan.options.checks ? health.tokens() : 0;
  json["health_is_whole"] = plan.options.checks && health == pipeline::HealthSize{};
  json["flops"] = estimate.flops;
  json["gemm_gflops"] = estimate.gemm_gflops;
  json["train_gflops"] = estimate.train_gflops;
  json["warnings"] = plan.warnings;
  json["refusals"] = PlanJson::array();
  for (const Problem& refusal : plan.refusals)
    json["refusals"].push_back(
        {{"what", refusal.what}, {"where", refusal.where}, {"fix", refusal.fix}});
  return json;
}

PlanJson analysis_json(const pipeline::AnalysisEstimate& estimate) {
  return {{"seconds", estimate.seconds},
          {"flops", estimate.flops},
          {"peak_ram_bytes", estimate.peak_ram_bytes}};
}

PlanJson ranks_json(const pipeline::Division& division,
                    const std::vector<pipeline::RankPrice>& prices, double seconds_per_flop) {
  PlanJson json = PlanJson::array();
  for (const pipeline::RankPrice& price : prices)
    json.push_back({{"layers", price.layers},
                    {"tokens", price.tokens},
                    {"seconds", price.flops * seconds_per_flop},
                    {"peak_ram_bytes", price.peak_ram_bytes},
                    {"state_bytes", price.state_bytes},
                    {"sent_bytes", price.sent_bytes},
                    {"received_bytes", price.received_bytes}});
  return {{"seconds", prices.front().job_flops * seconds_per_flop},
          {"waves", division.waves.size()},
          {"each", std::move(json)}};
}

}  // namespace laos::cli
