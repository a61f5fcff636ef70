// A format of quantized checkpoints: which tensors a linear becomes, how they are encoded, and what
// describes them. Staging, restart and commit are CheckpointWriter's, the same for all.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "quant/int_weight.h"
#include "save/job.h"
#include "scheme/schemes.h"

namespace laos::save {

inline constexpr const char* kConfigFile = "config.json";
// The matrix applied to the embedding, which draft models need.
inline constexpr const char* kRotationFile = "optional/quarot.safetensors";
inline constexpr const char* kRotationTensor = "global_rotation";

// What engines do to a linear's inputs, see model::KroneckerTransform.
struct InputTransform {
  MatView<const float> left, right;  // [l, l], [r, r]
  float clip = 1;
};

// What a quantized linear is before it is encoded.
struct LinearValues {
  const quant::IntWeight& weight;
  const quant::StaticRange* input = nullptr;  // of static activations, else null
  std::span<const float> bias = {};           // [out_features], or none
  const InputTransform* transform = nullptr;  // where the scheme has one
};

// Where the tensors of one quantized linear go.
struct LinearSink {
  std::string name;  // the linear's
  const scheme::Scheme& scheme;
  // By suffix, as "weight_scale".
  std::function<bool(const std::string&)> has;
  std::function<const io::TensorSpec&(const std::string&)> spec_of;
  std::function<void(const std::string&, std::span<const std::byte>)> write_bytes;

  template <class Values>
  void write(const std::string& suffix, const Values& values) const {
    write_bytes(suffix,
                std::as_bytes(std::span(values.data(), static_cast<size_t>(values.size()))));
  }
  // Rounded once to the dtype of the tensor. Throws Error(kNumeric) for a value that is not finite
  // in it.
  void write_float(const std::string& suffix, std::span<const float> values) const;
};

// Of the scales of the formats that GPUs load: loaders hold them in the model's dtype; where the
// recipe chose another, all bits are kept.
DType stored_scale_dtype(const quant::WeightSpec& weight, DType float_dtype) noexcept;

struct TextFile {
  std::string name;
  std::string text;
};

class Format {
 public:
  virtual ~Format() = default;

  virtual scheme::CheckpointFormat id() const noexcept = 0;
  virtual std::string_view name() const noexcept = 0;        // on the command line
  virtual std::string_view title() const noexcept = 0;       // in sentences
  virtual std::string_view saver_type() const noexcept = 0;  // in recipes

  // Files of weights are weights_stem() + "-0000k-of-0000N.safetensors".
  virtual std::string_view weights_stem() const noexcept = 0;
  virtual std::string_view index_file() const noexcept = 0;
  // Without this file a directory is no checkpoint of the format: of an old one it goes first, of
  // a new one it comes last.
  virtual std::string_view mark_file() const noexcept = 0;
  // Whether a file of weights in the save path is of this format, so that it may be replaced.
  virtual bool owns(const std::filesystem::path& weights) const = 0;

  // Whether it has a place for the matrices of online rotations.
  virtual bool holds_online_rotations() const noexcept { return false; }
  // Whether quantized linears of routed experts are written.
  virtual bool holds_experts() const noexcept { return false; }
  // Whether it has a place for the scales of an int8 cache.
  virtual bool holds_cache_scales() const noexcept { return false; }
  // Appends the tensors of a quantized linear in write order, and what stands against writing it
  // to `problems`. `scheme` is null for a pair of bits that has none; `label` names it.
  virtual void plan_linear(const OutputLinear& linear, const std::string& label,
                           const scheme::Scheme* scheme, DType float_dtype,
                           std::vector<OutputTensor>& tensors,
                           std::vector<Problem>& problems) const = 0;
  virtual void encode(const LinearValues& values, const LinearSink& sink) const = 0;

  // What describes the weights, beside config.json.
  virtual std::vector<TextFile> side_files(const CheckpointJob& job) const = 0;
  // Adds to the checkpoint's config.json what describes the weights.
  virtual void describe_in_config(nlohmann::ordered_json& /*config*/,
                                  const CheckpointJob& /*job*/) const {}
};

// A config.json for a directory whose weights are being replaced: no program loads it, and the next
// run knows by it that the weights are its own. See CheckpointWriter::commit.
std::string unfinished_config(const Format& format);

// Every format that can be written, AscendV1 first.
std::span<const Format* const> formats() noexcept;
// LAOS_ASSERTs that there is one of this name.
const Format& format_named(std::string_view name) noexcept;

// config.json of the checkpoint, from the model's: with what the format adds, without the model's
// own quantization_config, with the dtype of the float tensors, which engines take from here, and
// with tie_word_embeddings false, since the embedding and lm_head are rotated in different ways and
// both are written. All else is kept, keys in their order; text that needs no change is returned as
// it is. `path` is for messages. Throws Error(kFormat).
std::string exported_config(const std::string& text, const std::filesystem::path& path,
                            const CheckpointJob& job);

// values[i] as dtype at target + i * size_of(dtype). Throws Error(kNumeric) at `where` for one that
// is not finite in it; `row` is for the message.
void convert_row(const std::string& where, DType dtype, int64_t row, const float* values,
                 int64_t cols, std::byte* target);

}  // namespace laos::save
