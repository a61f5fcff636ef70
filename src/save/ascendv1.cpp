#include "save/ascendv1.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "hf/ascendv1.h"
#include "io/large_json.h"
#include "save/format.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

using Dims = scheme::LinearPart::Dims;

scheme::LinearSizes sizes_of(const OutputLinear& linear) {
  const int64_t group_size = linear.scheme ? linear.scheme->weight.group_size : 0;
  return {.out_features = linear.out_features,
          .in_features = linear.in_features,
          .num_groups = group_size == 0 ? 1 : linear.in_features / group_size,
          .num_slices = hf::num_slices(linear.name),
          .num_blocks = linear.scheme ? std::max<int64_t>(linear.scheme->act.pair_blocks, 1) : 1};
}

// Engines that run f16 models read the f32 bits of deq_scale as integers of 64 bits.
DType deq_scale_dtype(DType model_dtype) noexcept {
  return model_dtype == DType::kBF16 ? DType::kF32 : DType::kI64;
}

// Two codes a byte along the rows: the low nibble is the even row's.
Mat<int8_t> packed_rows(const Mat<int8_t>& codes) {
  Mat<int8_t> packed(codes.rows() / 2, codes.cols());
  for (int64_t i = 0; i < packed.rows(); ++i)
    for (int64_t j = 0; j < packed.cols(); ++j)
      packed(i, j) = static_cast<int8_t>((codes(2 * i, j) & 15) | (codes(2 * i + 1, j) * 16));
  return packed;
}

// 8 * sum over a slice of in_features of scale * q: what the engine adds back, since it computes
// with codes + 8.
std::vector<float> scale_bias(const quant::IntWeight& weight, int64_t num_slices) {
  std::vector<float> bias;
  const int64_t rows = weight.q.rows(), cols = weight.q.cols();
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t s = 0; s < num_slices; ++s) {
      int64_t sum = 0;
      for (int64_t j = s * cols / num_slices; j < (s + 1) * cols / num_slices; ++j)
        sum += weight.q(i, j);
      bias.push_back(8.0f * weight.scale[static_cast<size_t>(i)] * static_cast<float>(sum));
    }
  return bias;
}

// Of a matrix whose rows stand end to end.
std::span<const float> elements(MatView<const float> matrix) {
  LAOS_ASSERT(matrix.stride == matrix.cols);
  return {matrix.data, static_cast<size_t>(matrix.rows * matrix.cols)};
}

class AscendV1 : public Format {
 public:
  scheme::CheckpointFormat id() const noexcept override {
    return scheme::CheckpointFormat::kAscendV1;
  }
  std::string_view name() const noexcept override { return "ascendv1"; }
  std::string_view title() const noexcept override { return "AscendV1"; }
  std::string_view saver_type() const noexcept override { return "ascendv1_saver"; }
  std::string_view weights_stem() const noexcept override { return hf::kAscendV1Stem; }
  std::string_view index_file() const noexcept override { return hf::kAscendV1IndexFile; }
  std::string_view mark_file() const noexcept override { return hf::kDescriptionFile; }
  bool owns(const fs::path& weights) const override {
    return weights.filename().string().starts_with(hf::kAscendV1Stem);
  }
  bool holds_online_rotations() const noexcept override { return true; }
  bool holds_experts() const noexcept override { return true; }
  bool holds_cache_scales() const noexcept override { return true; }

  void plan_linear(const OutputLinear& linear, const std::string& label,
                   const scheme::Scheme* scheme, DType float_dtype,
                   std::vector<OutputTensor>& tensors,
                   std::vector<Problem>& problems) const override {
    if (scheme == nullptr || scheme->parts.empty()) {
      problems.push_back({label + " is not written as AscendV1", linear.name,
                          "write compressed-tensors, or use another scheme of docs/recipes.md"});
      return;
    }
    const scheme::LinearSizes sizes = sizes_of(linear);
    if (scheme->packs_rows() && sizes.out_features % 2 != 0)
      problems.push_back({"out_features " + std::to_string(sizes.out_features) + " is odd; " +
                              label + " packs two rows into one",
                          linear.name, "use another scheme"});
    const auto add = [&](std::string_view suffix, DType dtype, Shape shape) {
      std::string name = linear.name + ".";
      tensors.push_back({{name.append(suffix), dtype, std::move(shape)},
                         label,
                         linear.name,
                         linear.scheme->weight.group_size});
    };
    for (const scheme::LinearPart& part : scheme->parts) {
      DType dtype = part.dtype;
      if (part.suffix == "deq_scale") dtype = deq_scale_dtype(float_dtype);
      if (part.dims == Dims::kLeft || part.dims == Dims::kRight) dtype = float_dtype;
      add(part.suffix, dtype, part.shape(sizes));
    }
    if (linear.has_bias)
      tensors.push_back(
          {{linear.name + ".bias", DType::kF32, {linear.out_features}}, scheme::kFloatLabel});
  }

  void encode(const LinearValues& values, const LinearSink& sink) const override {
    const quant::IntWeight& weight = values.weight;
    if (!values.bias.empty()) sink.write_float("bias", values.bias);
    if (sink.scheme.packs_rows())
      sink.write("weight", packed_rows(weight.q));
    else
      sink.write("weight", weight.q);
    if (values.input != nullptr) {
      const quant::StaticParts parts = quant::static_parts(weight, *values.input, values.bias);
      sink.write("input_scale", std::vector<float>{values.input->scale});
      sink.write("input_offset", std::vector<float>{values.input->offset});
      if (sink.spec_of("deq_scale").dtype == DType::kI64) {
        std::vector<int64_t> bits;
        for (const float scale : parts.deq_scale) bits.push_back(std::bit_cast<uint32_t>(scale));
        sink.write("deq_scale", bits);
      } else {
        sink.write("deq_scale", parts.deq_scale);
      }
      sink.write("quant_bias", parts.quant_bias);
      return;
    }
    sink.write("weight_scale", weight.scale);
    sink.write("weight_offset", std::vector<float>(weight.scale.size(), 0.0f));
    if (values.transform != nullptr) {
      const InputTransform& transform = *values.transform;
      sink.write_float("left_trans", elements(transform.left));
      sink.write_float("right_trans", elements(transform.right));
      sink.write("clip_ratio", std::vector<float>{transform.clip});
    }
    if (sink.scheme.packs_rows())
      sink.write("scale_bias", scale_bias(weight, hf::num_slices(sink.name)));
  }

  std::vector<TextFile> side_files(const CheckpointJob& job) const override {
    return {{hf::kDescriptionFile, description_json(job)}};
  }
};

}  // namespace

const Format& ascendv1_format() noexcept {
  static const AscendV1 format;
  return format;
}

std::string description_json(const CheckpointJob& job) {
  io::LargeJson<OrderedJson> file{OrderedJson::object()};
  OrderedJson& description = file.value;
  std::vector<std::string> labels;
  int64_t group_size = 0;
  bool has_cache_scales = false;
  for (const OutputTensor& tensor : job.tensors) {
    if (tensor.label.empty()) continue;
    has_cache_scales = has_cache_scales || tensor.label == hf::kCacheLabel;
    io::add_member(description, tensor.spec.name, tensor.label);
    labels.push_back(tensor.label);
    const bool is_scale = tensor.spec.name.ends_with(".weight_scale");
    if (is_scale && tensor.spec.shape[1] > 1) group_size = tensor.group_size;
  }
  description["version"] = "1.0.0";
  description["model_quant_type"] = scheme::model_quant_type(labels);
  if (has_cache_scales) description[hf::kCacheTypeField] = hf::kCacheLabel;
  description["metadata"] = OrderedJson::object();
  if (job.online) {
    OrderedJson heads = OrderedJson::array(), down = OrderedJson::array();
    for (const OutputTensor& tensor : job.tensors) {
      const std::string& name = tensor.spec.name;
      const std::string module = name.substr(0, name.rfind('.'));
      if (name.ends_with(".heads_rotation")) heads.push_back(module);
      if (name.ends_with(".kronecker_rotation_m")) down.push_back(module);
    }
    description["metadata"]["quarot"] = {{"max_tp_size", job.online->max_tp_size},
                                         {"heads_rotation", {{"layers", heads}}},
                                         {"kronecker_rotation", {{"layers", down}}}};
  }
  description["group_size"] = group_size;
  description["optional"] = OrderedJson::object();
  if (job.global_rotation > 0)
    description["optional"]["quarot"]["rotation_map"][kRotationTensor] = kRotationFile;
  return description.dump(4);
}

}  // namespace laos::save
