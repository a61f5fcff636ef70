// Holds the directory of a quantized checkpoint against what an engine needs to load it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "save/manifest.h"
#include "scheme/schemes.h"

namespace laos::save {

// kError: the engine refuses the checkpoint, or computes something else than was saved.
// kWarning: it loads, but something is not as a writer should leave it.
enum class Severity { kError, kWarning };

const char* name_of(Severity severity) noexcept;  // "error", "warning"

// One thing that is wrong, once for all layers that have it.
struct Finding {
  Severity severity = Severity::kError;
  std::string what;
  std::string where;  // the first place
  std::string fix;    // may be empty
  int64_t count = 1;  // places
};

// What carries one label.
struct LabelTotals {
  std::string label;
  int64_t weights = 0;     // tensors named *.weight
  int64_t parameters = 0;  // elements of those
  int64_t bytes = 0;       // of all tensors with the label, scales included
};

struct InspectReport {
  std::filesystem::path directory;
  scheme::Engine engine = scheme::Engine::kVllmAscend;
  std::string model_quant_type;     // as AscendV1's description says, "" when it does not; or the
                                    // name of another format
  std::vector<LabelTotals> labels;  // in order of first appearance
  // Ranks that an engine must split the model over, 0 for any number: linears whose inputs it
  // splits are transformed, and their matrices are those of one rank.
  int64_t tensor_parallel_size = 0;
  // Others, up to scheme::kMaxTensorParallel, that convert_to_ranks can make it for.
  std::vector<int64_t> other_tensor_parallel_sizes;
  int64_t files = 0;  // *.safetensors
  int64_t parameters = 0;
  int64_t bytes = 0;                 // of tensors
  std::vector<Finding> findings;     // errors first
  std::optional<Verified> verified;  // where it was asked for; its problems are findings too

  // False when a finding is an error.
  bool loads() const noexcept;
};

// Reads all of the directory, every weight and scale included. What is wrong with its files becomes
// a finding; throws Error(kIo) only when `directory` is not a directory that can be listed.
struct InspectOptions {
  std::optional<scheme::Engine> engine =
      {};                     // default: the first that loads the directory's format
  bool verify_files = false;  // also hold every file against SHA256SUMS (see save/manifest.h)
};
InspectReport inspect(const std::filesystem::path& directory, const InspectOptions& options = {});

}  // namespace laos::save
