#include "cli/emulate.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "cli/flags.h"

namespace laos::cli {
namespace {

struct EmulatedEngine {
  const char* name;
  eval::Arithmetic arithmetic;
  const char* what;
};
constexpr EmulatedEngine kEmulated[] = {
    {"vllm-ascend", eval::Arithmetic::kVllmAscend,
     "activations in the model's dtype, W4A4 products in f16"},
    {"transformers", eval::Arithmetic::kTransformers,
     "dynamic inputs in the steps of the compressed-tensors package"},
};

}  // namespace

void add_emulate_option(CLI::App& command, std::string& engine) {
  std::vector<std::string> names;
  std::string what = "compute as this engine does";
  for (const EmulatedEngine& row : kEmulated) {
    names.emplace_back(row.name);
    what += std::string(names.size() == 1 ? ": " : "; ") + row.name + " (" + row.what + ")";
  }
  command.add_option("--emulate", engine, what + "; the baseline stays exact")
      ->check(CLI::IsMember(names));
}

eval::Arithmetic arithmetic_of(const std::string& engine) {
  for (const EmulatedEngine& row : kEmulated)
    if (engine == row.name) return row.arithmetic;
  return eval::Arithmetic::kExact;
}

OverflowReport::~OverflowReport() {
  constexpr size_t kShown = 10;
  if (model_.emulation() == nullptr) return;
  std::vector<std::pair<float, std::string>> peaks;
  for (const auto& [linear, peak] : model_.emulation()->w4a4_peaks)
    if (!(peak < eval::kF16Overflow)) peaks.emplace_back(peak, linear);
  std::sort(peaks.begin(), peaks.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  for (size_t i = 0; i < std::min(kShown, peaks.size()); ++i)
    std::fprintf(stderr, "warning: %s of %s reaches %.6g, which is infinity in f16\n",
                 peaks[i].second.c_str(), model_path_.c_str(), static_cast<double>(peaks[i].first));
  if (peaks.size() > kShown)
    std::fprintf(stderr, "warning: and %zu more linears\n", peaks.size() - kShown);
}

}  // namespace laos::cli
