#include "support/record.h"

#include <cmath>

#include "model/checkpoint.h"

namespace laos::test {

report::RunRecord run_record(int64_t num_layers, int64_t iters) {
  report::RunRecord record;
  record.laos_version = "0.1.0";
  record.libraries = {"oneDNN 2.6.3"};
  record.environment = {.cpu = "a processor with a long name @ 2.60 GHz",
                        .instruction_set = "AVX3_SPR",
                        .system = "Linux 6.1.0 x86_64",
                        .threads = 64,
                        .memory_bytes = int64_t{256} << 30};
  record.model = {.directory = "/models/Qwen3-32B",
                  .type = "Qwen3-32B",
                  .dtype = "BF16",
                  .num_layers = num_layers,
                  .hidden_size = 5120,
                  .intermediate_size = 25600,
                  .vocab_size = 151936};
  record.recipe = {
      .config_id = "laos-qwen3-32b-w4a4",
      .path = "recipes/qwen3-32b-w4a4.yaml",
      .text = "apiversion: modelslim_v1\nspec:\n  process:\n    - {type: autoround_quant}\n",
      .dataset = "calib.jsonl",
      .num_samples = 128,
      .num_tokens = 31889,
      .seed = 42,
      .flops = 3e15};
  record.warnings = {"recipe.yaml:12:5: a warning"};
  report::Fit& fit = record.fits.emplace_back();
  fit.best_step = 180;
  fit.orthogonality = 4e-7;
  for (int step = 0; step <= 20; ++step) {
    fit.steps.push_back(10 * step);
    fit.losses.push_back(0.01 * (0.8 + 0.2 * std::exp(-step)));
  }
  report::Health& health = record.health.emplace();
  health.source = "calib.jsonl";
  health.tokens_sha256 = "5eed";
  health.calibrated = true;
  health.figures.num_tokens = 512;
  health.figures.embedding_error = 0.0017;
  health.figures.kl_mean = 0.041;
  health.figures.kl_stderr = 0.002;
  health.figures.kl_max = 0.9;
  health.figures.top1_agreement = 0.912;
  health.figures.perplexity = 9.1;
  health.figures.baseline_perplexity = 8.8;
  health.figures.continuations = {{"In the beginning", " God created", " God made"}};
  for (int64_t i = 0; i < num_layers; ++i) {
    const auto depth = static_cast<double>(i);
    const double wave = std::sin(depth);
    const bool eight_bit = i < num_layers / 8 || i >= num_layers - num_layers / 8;
    report::Layer& layer = record.layers.emplace_back();
    layer.seconds = 60 + 5 * wave;
    layer.peak_rss_bytes = 20'000'000'000 + 10'000'000 * i;
    for (const model::Linear l : model::kAllLinears) {
      const bool four_bit =
          !eight_bit && (l == model::Linear::kGateProj || l == model::Linear::kUpProj);
      layer.linears.push_back({.name = model::name_of(hf::Config{}, i, l),
                               .label = four_bit ? "W4A4_DYNAMIC" : "W8A8_DYNAMIC",
                               .decided_by = "recipe.yaml:30:11 spec.process[1].strategies[1]",
                               .parameters = 5120 * 5120,
                               .weight_bits = four_bit ? 4 : 8,
                               .act_bits = four_bit ? 4 : 8,
                               .weight_error = four_bit ? 0.11 : 0.007,
                               .clipped = four_bit ? 0.0004 : 0,
                               .range = four_bit ? 0.93 : 1});
    }
    autoround::LayerReport& training = layer.training.emplace_back();
    training.rounding_loss = 0.05 * (depth + 2 + wave);
    training.loss = training.rounding_loss * 0.7;
    training.kept_iteration = i % 3 == 0 ? iters + 1 : iters / 2;
    for (int64_t k = 0; k < iters; ++k)
      training.losses.push_back(
          training.rounding_loss *
          (0.7 + 0.5 * std::exp(-8.0 * static_cast<double>(k) / static_cast<double>(iters)) +
           0.05 * std::sin(static_cast<double>(3 * k))));
    eval::LayerHealth& state = health.figures.layers.emplace_back();
    state.labels = eight_bit ? "w8" : "w4";
    state.error = (eight_bit ? 0.02 : 0.11) + 0.01 * wave;
    state.drift = 0.02 + 0.1 * depth / static_cast<double>(num_layers);
    for (size_t g = 0; g < state.before.size(); ++g) {
      state.before[g] = {.max_to_rms = 12 + 6 * wave + static_cast<double>(g),
                         .kurtosis = 90 + 30 * wave};
      state.after[g] = {.max_to_rms = 4.2 + 0.2 * wave, .kurtosis = 3.3};
    }
  }
  for (int64_t r = 0; r < 2; ++r)
    record.ranks.push_back({.host = "node" + std::to_string(r),
                            .threads = 64,
                            .layers = num_layers / 2,
                            .seconds = 4000,
                            .pass_seconds = 300,
                            .layer_seconds = 3500,
                            .wait_seconds = 100 + 50 * static_cast<double>(r),
                            .cpu_seconds = 200'000,
                            .sent_bytes = 1'000'000'000,
                            .received_bytes = 1'100'000'000,
                            .peak_rss_bytes = 20'000'000'000});
  record.timings = {.total = 4200, .fit = 120, .layers = 3900, .save = 60, .health = 90};
  record.peak_rss_bytes = 21'000'000'000;
  record.checkpoint_bytes = 24'000'000'000;
  return record;
}

}  // namespace laos::test
