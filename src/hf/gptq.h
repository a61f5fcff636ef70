// Checkpoints in the format of GPTQ, read: weights of 4 or 8 bits beside float inputs, one kind for
// all linears. Writing them is save/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "hf/quantized_checkpoint.h"
#include "io/safetensors.h"
#include "scheme/schemes.h"

namespace laos::hf {

inline constexpr const char* kGptq = "gptq";             // its quant_method
inline constexpr const char* kAutoRound = "auto-round";  // AutoRound's own, for the same tensors
inline constexpr const char* kGptqHeadKey = "lm_head";   // whether the head is quantized too
// What loaders read that do not look into config.json.
inline constexpr const char* kGptqConfigFile = "quantize_config.json";

// The words of a linear's zero points where codes are symmetric: in each `bits` bits the code that
// is zero, 2^(bits - 1), minus 1 in the first version of the format.
int32_t gptq_zeros(int bits, bool is_first_version) noexcept;

class GptqCheckpoint : public QuantizedCheckpoint {
 public:
  // Symmetric, inputs in their order, words of 32 bits; a linear is quantized where it has a
  // qweight. Throws Error: kIo, kFormat, kUnsupported, all problems of a kind at once.
  static GptqCheckpoint open(const std::filesystem::path& directory);

  const std::string& label(const std::string& module) const override;
  const TensorView& weight(const std::string& module) const override;
  MatView<const int8_t> stored_codes(const std::string& /*module*/) const override { return {}; }
  Mat<int8_t> codes(const std::string& module) const override;
  std::vector<float> weight_scale(const std::string& module) const override;
  StaticInput static_input(const std::string& module) const override;

  const scheme::Scheme& scheme() const noexcept { return *scheme_; }
  int64_t group_size() const noexcept { return group_size_; }  // 0: one scale an output row
  // By name.
  const std::set<std::string>& linears() const noexcept { return linears_; }

 private:
  GptqCheckpoint(Config config, io::TensorFiles files, const scheme::Scheme* scheme,
                 int64_t group_size, std::set<std::string> linears);
  const scheme::Scheme* scheme_;
  int64_t group_size_;
  std::set<std::string> linears_;
};

}  // namespace laos::hf
