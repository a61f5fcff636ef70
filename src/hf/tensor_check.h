// Holds the tensors of a quantized checkpoint against what its config.json implies, for readers of
// formats.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"
#include "hf/config.h"
#include "hf/model_tensors.h"
#include "io/safetensors.h"

namespace laos::hf {

// Collects what the files lack of what config.json says.
class TensorCheck {
 public:
  TensorCheck(const Config& config, const io::TensorFiles& files)
      : config_(config), files_(files) {}

  static std::vector<DType> floats() { return {DType::kBF16, DType::kF16, DType::kF32}; }

  void add(std::string what, const std::string& where);
  // The tensor, if it is there with one of these dtypes and this shape; else null, and reported.
  const TensorView* check(const std::string& name, const std::vector<DType>& dtypes,
                          const Shape& shape);
  // Weight and bias of a module that is not quantized.
  void check_float(const WeightModule& module);
  void check_bias(const WeightModule& module);

  // What nothing takes is of a scheme that is not read, as zero points of weights are. Throws
  // Error(kFormat) when anything was reported.
  void finish();

 private:
  const Config& config_;
  const io::TensorFiles& files_;
  std::set<std::string> known_;
  std::vector<Problem> problems_;
};

}  // namespace laos::hf
