// How a plan divides among ranks: work, memory and bytes on the wire of each, and the time that
// follows. Usage: plan_scaling [GFLOPS [WIRE_GB_PER_S]], rates of one machine.
//
// The plan is the published recipe's on a model of 64 layers of Qwen3-32B's shape, of which there
// is a header only (a file of holes), and a set of texts like its own: 820 of 76 to 31,076 tokens,
// 2.65 million in all. Exits with 1 when the busiest rank has more than 1/(0.9 N) of the whole.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "hf/config.h"
#include "hf/model_tensors.h"
#include "pipeline/division.h"

namespace {

namespace fs = std::filesystem;
using namespace laos;
using Json = nlohmann::ordered_json;

void write_holes(const fs::path& directory) {
  const fs::path tiny = fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny";
  for (const auto& entry : fs::directory_iterator(tiny))
    if (entry.path().extension() != ".safetensors")
      fs::copy_file(entry.path(), directory / entry.path().filename());
  Json config = Json::parse(std::ifstream(tiny / "config.json"));
  config["hidden_size"] = 5120;
  config["intermediate_size"] = 25600;
  config["num_hidden_layers"] = config["max_window_layers"] = config["num_attention_heads"] = 64;
  config["num_key_value_heads"] = 8;
  config["head_dim"] = 128;
  config["vocab_size"] = 151936;
  config["max_position_embeddings"] = 40960;
  config["tie_word_embeddings"] = false;
  config.erase("layer_types");
  std::ofstream(directory / "config.json") << config;
  Json header = Json::object();
  int64_t end = 0;
  for (const hf::WeightModule& module : hf::weight_modules(hf::read_config(directory))) {
    const int64_t begin = end;
    end += 2 * num_elements(module.shape);
    header[module.weight_name()] = {
        {"dtype", "BF16"}, {"shape", module.shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  const auto size = static_cast<uint64_t>(text.size());
  std::ofstream file(directory / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof size);
  file << text;
  file.close();
  fs::resize_file(directory / "model.safetensors", sizeof size + size + static_cast<uint64_t>(end));
}

// Lengths that fall off like those of the published set, in an order that does not sort them.
std::shared_ptr<const pipeline::Samples> made_up_samples() {
  constexpr int64_t kCount = 820, kLeast = 76, kMost = 31'076, kTokens = 2'650'000;
  // length = least * (most / least) ^ (x ^ power), x in [0, 1]; `power` gives the sum.
  double low = 0.05, high = 20;
  const auto length_at = [&](double x, double power) {
    return static_cast<double>(kLeast) *
           std::pow(static_cast<double>(kMost) / kLeast, std::pow(x, power));
  };
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    double sum = 0;
    for (int64_t s = 0; s < kCount; ++s)
      sum += length_at(static_cast<double>(s) / (kCount - 1), middle);
    (sum > kTokens ? low : high) = middle;
  }
  pipeline::Samples samples(kCount);
  for (int64_t s = 0; s < kCount; ++s)
    samples[static_cast<size_t>(s * 337 % kCount)].assign(
        static_cast<size_t>(length_at(static_cast<double>(s) / (kCount - 1), high)), 0);
  return std::make_shared<const pipeline::Samples>(std::move(samples));
}

}  // namespace

int main(int argc, char** argv) {
  const double gflops = argc > 1 ? std::atof(argv[1]) : 1500;
  const double wire = 1e9 * (argc > 2 ? std::atof(argv[2]) : 1.25);
  std::string name = (fs::temp_directory_path() / "laos-scaling-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) return 2;
  const fs::path directory = name;
  int exit_code = 0;
  try {
    write_holes(directory);
    std::ofstream(directory / "calib.jsonl")
        << Json{{"inputs_pretokenized",
                 "In the beginning God created the heaven. " + std::string(4000, 'a')}}
        << '\n';
    pipeline::QuantOptions options;
    options.model_path = directory;
    options.recipe_path = fs::path(LAOS_SOURCE_DIR) / "recipes/qwen3-32b-w4a4.yaml";
    options.dataset = (directory / "calib.jsonl").string();
    options.model_type = "Qwen3-32B";
    options.writes = false;
    pipeline::Plan plan = pipeline::make_plan(options);
    plan.samples = made_up_samples();
    for (pipeline::PlannedFit& fit : plan.fits) fit.samples = plan.samples;
    int64_t tokens = 0;
    for (const auto& sample : *plan.samples) tokens += std::ssize(sample);
    const pipeline::PlanCosts costs = pipeline::costs_of(plan);
    const std::vector<bool> none(costs.layers.size(), false);
    std::printf("%zu texts, %lld tokens; %.0f GFLOP/s and %.2f GB/s a machine\n",
                plan.samples->size(), static_cast<long long>(tokens), gflops, wire / 1e9);
    std::printf("%5s %6s %10s %9s %9s %11s %11s %10s %9s\n", "ranks", "waves", "EFLOP", "busiest",
                "at most", "wire, all", "receives", "hours", "speed-up");
    const double flop_seconds = pipeline::seconds_of(plan, costs, gflops, gflops) / costs.total();
    double whole = 0, alone = 0;
    for (const int ranks : {1, 2, 4, 8, 16}) {
      const pipeline::Division division = pipeline::divide(plan, costs, none, ranks);
      const auto prices = pipeline::price(plan, costs, division);
      double busiest = 0;
      int64_t sent = 0, received = 0;
      for (const pipeline::RankPrice& rank : prices) {
        busiest = std::max(busiest, rank.flops);
        sent += rank.sent_bytes;
        received = std::max(received, rank.received_bytes);
      }
      // States are handed over between passing a layer and the next: their time adds up, all
      // receivers one after the other.
      const double seconds =
          flop_seconds * prices.front().job_flops + static_cast<double>(sent) / wire;
      if (ranks == 1) {
        whole = busiest;
        alone = seconds;
      }
      const double bound = 1 / (0.9 * ranks);
      std::printf("%5d %6zu %10.4f %9.4f %9.4f %8.1f GB %8.1f GB %10.1f %9.2f\n", ranks,
                  division.waves.size(), busiest / 1e18, busiest / whole, ranks == 1 ? 1 : bound,
                  static_cast<double>(sent) / 1e9, static_cast<double>(received) / 1e9,
                  seconds / 3600, alone / seconds);
      if (ranks > 1 && busiest / whole > bound) exit_code = 1;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "plan_scaling: error: %s\n", error.what());
    exit_code = 2;
  }
  fs::remove_all(directory);
  return exit_code;
}
