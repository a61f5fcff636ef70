#include "save/format.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "hf/config.h"
#include "hf/json_file.h"
#include "hf/quantization_config.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

bool is_finite(DType dtype, const std::byte* value) noexcept {
  if (dtype == DType::kF32) {
    float f;
    std::memcpy(&f, value, sizeof f);
    return std::isfinite(f);
  }
  uint16_t bits;
  std::memcpy(&bits, value, sizeof bits);
  const uint16_t exponent = dtype == DType::kBF16 ? 0x7f80 : 0x7c00;
  return (bits & exponent) != exponent;
}

}  // namespace

DType stored_scale_dtype(const quant::WeightSpec& weight, DType float_dtype) noexcept {
  return weight.scale_dtype == float_dtype ? float_dtype : DType::kF32;
}

void convert_row(const std::string& where, DType dtype, int64_t row, const float* values,
                 int64_t cols, std::byte* target) {
  from_f32(values, cols, dtype, target);
  const int64_t size = size_of(dtype);
  for (int64_t col = 0; col < cols; ++col)
    if (!is_finite(dtype, target + col * size))
      throw Error(ErrorCode::kNumeric,
                  {.what = "the value " + std::to_string(values[col]) + " at row " +
                           std::to_string(row) + ", column " + std::to_string(col) +
                           " is not finite as " + std::string(to_string(dtype)),
                   .where = where,
                   .fix = "check the input checkpoint for damaged weights"});
}

void LinearSink::write_float(const std::string& suffix, std::span<const float> values) const {
  const io::TensorSpec& spec = spec_of(suffix);
  std::vector<std::byte> bytes(static_cast<size_t>(spec.size_bytes()));
  LAOS_ASSERT(std::ssize(values) == num_elements(spec.shape));
  convert_row(spec.name, spec.dtype, 0, values.data(), std::ssize(values), bytes.data());
  write_bytes(suffix, bytes);
}

std::string unfinished_config(const Format& format) {
  const OrderedJson config = {{hf::kUnfinished,
                               "laos was stopped while it replaced this checkpoint; "
                               "repeat the command"},
                              {hf::kQuantizationConfig, {{"quant_method", format.name()}}}};
  return config.dump(2) + "\n";
}

std::span<const Format* const> formats() noexcept {
  static const std::array<const Format*, 3> all = {&ascendv1_format(), &compressed_tensors_format(),
                                                   &gptq_format()};
  return all;
}

const Format& format_named(std::string_view name) noexcept {
  const std::span<const Format* const> all = formats();
  const auto found = std::ranges::find_if(all, [&](const Format* f) { return f->name() == name; });
  LAOS_ASSERT(found != all.end());
  return **found;
}

std::string exported_config(const std::string& text, const fs::path& path,
                            const CheckpointJob& job) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kFormat,
                {.what = what, .where = path.string(), .fix = "restore the model's config.json"});
  };
  OrderedJson config = hf::parse_json<OrderedJson>(text, path, hf::kMaxConfigValues);
  if (!config.is_object()) refuse("config.json is not a JSON object");

  const OrderedJson original = config;
  config.erase("quantization_config");
  config["tie_word_embeddings"] = false;
  if (const auto text_config = config.find("text_config"); text_config != config.end()) {
    if (!text_config->is_object()) refuse("text_config is not a JSON object");
    text_config->erase("quantization_config");
    if (text_config->contains("tie_word_embeddings")) (*text_config)["tie_word_embeddings"] = false;
  }
  const std::string_view dtype = hf::dtype_name(job.float_dtype);
  for (const char* key : {"torch_dtype", "dtype"})
    if (config.contains(key)) config[key] = dtype;
  if (!config.contains("torch_dtype") && !config.contains("dtype")) config["torch_dtype"] = dtype;
  job.format->describe_in_config(config, job);
  return config == original ? text : config.dump(2) + "\n";
}

}  // namespace laos::save
