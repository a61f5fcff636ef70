// Options of the rotation processors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "linalg/gemm.h"
#include "model/checkpoint.h"

namespace laos::rotation {

// What stage 1 makes small.
enum class FitObjective {
  kProcrustes,  // the distance of the rotated rows to their rounded values
  kTokenRange,  // the range of each row, which sets the step of a per-token quantization
};

// adapt_rotation stage 1: fit the global rotation to activations.
struct FitOptions {
  FitObjective objective = FitObjective::kProcrustes;
  int64_t steps = 20;  // 1..1000
  int quant_bits = 4;  // 4 or 8: what the fitted activations will be quantized to
  // Substrings of linear names within a decoder layer.
  std::vector<std::string> layer_type = {std::string(hf::short_name(hf::Linear::kUpProj))};
  int64_t block_size = -1;     // of the initial Hadamard matrix; -1 = whole
  int64_t max_samples = 2048;  // rows kept a layer
  linalg::ComputeType compute = linalg::ComputeType::kF32;  // of the steps of kTokenRange
};

// What a recipe says where it leaves the rest of an objective's options out.
FitOptions default_fit(FitObjective objective);

// The recipe's key for RotateOptions::down_online_layers. The name is msModelSlim's.
inline constexpr const char* kDownOnlineLayersKey = "down_proj_online_layers";

// adapt_rotation stage 2 and quarot: fold norms and rotate the weights.
struct RotateOptions {
  bool use_fitted = true;   // the matrix of stage 1; quarot takes the plain Hadamard matrix
  int64_t block_size = -1;  // of the head rotation, and of the global one when none was fitted
  bool online = false;      // also rotate the inputs of o_proj and down_proj at run time
  std::vector<int64_t> down_online_layers;  // where that of down_proj is
  int64_t max_tp_size = 4;         // tensor parallel ranks that online rotations must not mix
  bool export_extra_info = true;  // save the global rotation, for draft models
};

// head_rotation: fit a rotation of each value head to what o_proj reads.
struct HeadFitOptions {
  int64_t steps = 100;  // 1..1000
};

}  // namespace laos::rotation
