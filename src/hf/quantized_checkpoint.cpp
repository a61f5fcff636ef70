#include "hf/quantized_checkpoint.h"

#include "hf/ascendv1.h"
#include "hf/compressed_tensors.h"
#include "hf/model_tensors.h"

namespace laos::hf {

std::string QuantizedCheckpoint::owner(const std::string& module) const {
  const std::string head = lm_head_name(config_);
  const bool is_tied_head = module == head && !files_.contains(head + ".weight");
  return is_tied_head ? embed_tokens_name(config_) : module;
}

bool is_quantized(const std::filesystem::path& directory) {
  return AscendV1Checkpoint::is_ascendv1(directory) ||
         CompressedTensorsCheckpoint::is_compressed_tensors(directory);
}

std::unique_ptr<QuantizedCheckpoint> open_quantized(const std::filesystem::path& directory) {
  if (AscendV1Checkpoint::is_ascendv1(directory))
    return std::make_unique<AscendV1Checkpoint>(AscendV1Checkpoint::open(directory));
  if (CompressedTensorsCheckpoint::is_compressed_tensors(directory))
    return std::make_unique<CompressedTensorsCheckpoint>(
        CompressedTensorsCheckpoint::open(directory));
  return nullptr;
}

}  // namespace laos::hf
