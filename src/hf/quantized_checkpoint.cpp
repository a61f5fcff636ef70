#include "hf/quantized_checkpoint.h"

#include "hf/ascendv1.h"
#include "hf/compressed_tensors.h"
#include "hf/gptq.h"
#include "hf/model_tensors.h"
#include "hf/quantization_config.h"

namespace laos::hf {

std::string QuantizedCheckpoint::owner(const std::string& module) const {
  const std::string head = lm_head_name(config_);
  const bool is_tied_head = module == head && !files_.contains(head + ".weight");
  return is_tied_head ? embed_tokens_name(config_) : module;
}

std::optional<scheme::CheckpointFormat> format_of(const std::filesystem::path& directory) {
  using Format = scheme::CheckpointFormat;
  if (AscendV1Checkpoint::is_ascendv1(directory)) return Format::kAscendV1;
  if (is_unfinished(directory)) return std::nullopt;
  const std::string method = quant_method_of(directory);
  if (method == kCompressedTensors) return Format::kCompressedTensors;
  if (method == kGptq || method == kAutoRound) return Format::kGptq;
  return std::nullopt;
}

std::unique_ptr<QuantizedCheckpoint> open_quantized(const std::filesystem::path& directory) {
  const auto format = format_of(directory);
  if (!format) return nullptr;
  switch (*format) {
    case scheme::CheckpointFormat::kAscendV1:
      return std::make_unique<AscendV1Checkpoint>(AscendV1Checkpoint::open(directory));
    case scheme::CheckpointFormat::kCompressedTensors:
      return std::make_unique<CompressedTensorsCheckpoint>(
          CompressedTensorsCheckpoint::open(directory));
    case scheme::CheckpointFormat::kGptq:
      return std::make_unique<GptqCheckpoint>(GptqCheckpoint::open(directory));
  }
  return nullptr;
}

}  // namespace laos::hf
