// compressed-tensors checkpoints, read: what config.json says of each linear, and whether it and
// the tensors fit together. Writing them is save/.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "hf/config.h"
#include "hf/quantized_checkpoint.h"
#include "io/safetensors.h"
#include "scheme/schemes.h"

namespace laos::hf {

inline constexpr const char* kCompressedTensors = "compressed-tensors";  // its quant_method

// How a linear's weight is stored.
struct CompressedLinear {
  const scheme::Scheme* scheme = nullptr;
  int64_t group_size = 0;       // 0: one scale an output row
  bool is_packed = false;       // "pack-quantized": words of 32 bits; else a byte a code
  bool has_zero_point = false;  // of a static input
};

// A code plus 2^(bits - 1) in each `bits` bits of a word, the lowest first; a row begins a word.
// codes [out, in] -> [out, ceil(in * bits / 32)]; bits 4 or 8.
Mat<int32_t> pack_words(const Mat<int8_t>& codes, int bits);
// words [out, ceil(in * bits / 32)] -> [out, in]; `words` need not be aligned.
Mat<int8_t> unpack_words(const std::byte* words, int64_t rows, int64_t cols, int bits);

class CompressedTensorsCheckpoint : public QuantizedCheckpoint {
 public:
  // Integer weights of 4 and 8 bits, symmetric, per channel or in groups, in linears of decoder
  // layers; inputs float, dynamic per token, or static per tensor. Throws Error: kIo, kFormat,
  // kUnsupported, all problems of a kind at once.
  static CompressedTensorsCheckpoint open(const std::filesystem::path& directory);

  const std::string& label(const std::string& module) const override;
  const TensorView& weight(const std::string& module) const override;
  MatView<const int8_t> stored_codes(const std::string& module) const override;
  Mat<int8_t> codes(const std::string& module) const override;
  std::vector<float> weight_scale(const std::string& module) const override;
  StaticInput static_input(const std::string& module) const override;

  // By name; only those that are quantized.
  const std::map<std::string, CompressedLinear>& linears() const noexcept { return linears_; }

 private:
  CompressedTensorsCheckpoint(Config config, io::TensorFiles files,
                              std::map<std::string, CompressedLinear> linears);
  std::map<std::string, CompressedLinear> linears_;
};

}  // namespace laos::hf
