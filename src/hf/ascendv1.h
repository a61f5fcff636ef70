// AscendV1 checkpoints, read: the description, and whether it and the tensors fit together. What
// tensors a label has is scheme/. Writing them is save/.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"
#include "hf/config.h"
#include "hf/model_tensors.h"
#include "hf/quantized_checkpoint.h"
#include "io/safetensors.h"
#include "scheme/schemes.h"

namespace laos::hf {

// File names of the format; shards are kAscendV1Stem-0000k-of-0000N.safetensors.
inline constexpr const char* kDescriptionFile = "quant_model_description.json";
inline constexpr const char* kAscendV1Stem = "quant_model_weights";
inline constexpr const char* kAscendV1IndexFile = "quant_model_weights.safetensors.index.json";

// Scales of attention's cache stand beside the weights of k_proj and v_proj, F32
// [num_key_value_heads * head_dim], under a label of their own, and the description says
// "kv_cache_type": "C8". Engines that read them ignore the offsets, which are 0, when they undo the
// codes.
inline constexpr const char* kCacheTypeField = "kv_cache_type";
inline constexpr const char* kCacheLabel = "C8";
inline constexpr const char* kCacheScaleSuffix = "kv_cache_scale";
inline constexpr const char* kCacheOffsetSuffix = "kv_cache_offset";
inline constexpr std::array kCachedLinears = {Linear::kKProj, Linear::kVProj};
// Why vLLM-Ascend's operator does not take an int8 cache of this model; "" when it does.
std::string cache_refusal(const Config& config);

// Columns of the scale_bias of a linear named like this: 16 slices of in_features for those that
// write into the residual stream, whose input an engine splits over its ranks.
int64_t num_slices(std::string_view linear_name) noexcept;

// quant_model_description.json: tensor name -> label, in file order, and what follows the labels.
struct Description {
  std::vector<std::pair<std::string, std::string>> labels;
  std::map<std::string, std::string> label_of;
  std::string model_quant_type;  // "" when absent
  std::string kv_cache_type;     // likewise
  int64_t group_size = 0;

  // Null when `tensor` has no entry.
  const std::string* find(const std::string& tensor) const;
};

// Throws Error(kIo) or Error(kFormat), all problems at once: not a flat JSON object, a key twice, a
// label that is not a string.
Description read_description(const std::filesystem::path& directory);

// Every *.safetensors at the top level of `directory`, by name: what an engine loads, whatever the
// index says. Throws Error(kIo).
std::vector<std::filesystem::path> top_level_safetensors(const std::filesystem::path& directory);
// All of them, mapped. Throws Error(kIo), also where there is none, and as io::TensorFiles.
io::TensorFiles open_top_level_safetensors(const std::filesystem::path& directory);

// What is wrong with a checkpoint. Messages name no layer, so that group_over_layers can put them
// together.
struct StructureProblems {
  // Where description and tensors contradict each other, the format or the config: entries without
  // a tensor and the reverse, unknown labels, missing or mislabelled parts of a linear, wrong
  // dtypes and shapes, and (unless `config` is null) weights the config implies that are missing
  // and tensors that no module takes.
  std::vector<Problem> broken;
  // What the format holds and the engine does not load: some schemes, online rotations.
  std::vector<Problem> unloadable;
};
StructureProblems check_structure(const Config* config, const Description& description,
                                  const std::map<std::string, TensorView>& tensors,
                                  scheme::Engine engine = scheme::Engine::kVllmAscend);

// Problems that differ only in numbers between dots of `where`: the first, and how many there are.
// Of more than 200 groups the rest is only counted, in one group at the end.
struct ProblemGroup {
  Problem first;
  int64_t count = 1;
};
std::vector<ProblemGroup> group_over_layers(const std::vector<Problem>& problems);

// An AscendV1 directory, mapped and checked, so that every accessor below has what it returns.
// Codes and scales are not scanned (save::inspect does).
class AscendV1Checkpoint : public QuantizedCheckpoint {
 public:
  // True when `directory` holds a description.
  static bool is_ascendv1(const std::filesystem::path& directory);
  // Throws Error: kIo, kFormat, kUnsupported (see read_config, TensorFiles, check_structure);
  // takes what is unloadable.
  static AscendV1Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const noexcept { return directory_; }
  const Description& description() const noexcept { return description_; }

  const std::string& label(const std::string& module) const override;
  // I8 for a quantized linear, as it is stored.
  const TensorView& weight(const std::string& module) const override;
  MatView<const int8_t> stored_codes(const std::string& module) const override;
  Mat<int8_t> codes(const std::string& module) const override;
  std::vector<float> weight_scale(const std::string& module) const override;
  StaticInput static_input(const std::string& module) const override;
  std::optional<InputPair> input_pair(const std::string& module) const override;
  std::vector<float> online_rotation(const std::string& module,
                                     const std::string& suffix) const override;
  std::optional<CacheScales> cache_scales(int64_t layer_idx) const override;
  // A part of a quantized linear, or a matrix of an online rotation, in f32: "weight_scale"
  // [out_features, num_groups], ...; empty when there is none. An I64 deq_scale holds the bits of
  // f32.
  std::vector<float> values(const std::string& module, const std::string& suffix) const;
  // quant_bias of a W8A8 linear [out_features].
  std::vector<int32_t> quant_bias(const std::string& module) const;

 private:
  AscendV1Checkpoint(std::filesystem::path directory, Config config, Description description,
                     io::TensorFiles files);

  std::filesystem::path directory_;
  Description description_;
};

}  // namespace laos::hf
