#include "hf/compressed_tensors.h"

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "hf/ascendv1.h"
#include "hf/quantization_config.h"
#include "save/format.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr const char* kStem = "model";  // as loaders look for it

// A byte a code where engines multiply integers of 8 bits; words otherwise.
bool is_packed(const scheme::Scheme& scheme, int64_t group_size) {
  return scheme.weight_bits != 8 || scheme.act_bits == 16 || group_size != 0;
}

// What config_groups says of a linear.
OrderedJson group_of(const scheme::Scheme& scheme, int64_t group_size, bool is_symmetric_input) {
  OrderedJson weights = {{"num_bits", scheme.weight_bits},
                         {"type", "int"},
                         {"symmetric", true},
                         {"strategy", group_size == 0 ? "channel" : "group"},
                         {"group_size", nullptr},
                         {"dynamic", false}};
  if (group_size != 0) weights["group_size"] = group_size;
  OrderedJson input = nullptr;
  if (scheme.activations != scheme::Activations::kFloat) {
    const bool is_dynamic = scheme.activations == scheme::Activations::kDynamic;
    input = {{"num_bits", scheme.act_bits},
             {"type", "int"},
             {"symmetric", is_symmetric_input},
             {"group_size", nullptr},
             {"strategy", is_dynamic ? "token" : "tensor"},
             {"dynamic", is_dynamic}};
  }
  return {{"format", is_packed(scheme, group_size) ? "pack-quantized" : "int-quantized"},
          {"weights", std::move(weights)},
          {"input_activations", std::move(input)},
          {"output_activations", nullptr}};
}

class CompressedTensors : public Format {
 public:
  scheme::CheckpointFormat id() const noexcept override {
    return scheme::CheckpointFormat::kCompressedTensors;
  }
  std::string_view name() const noexcept override { return hf::kCompressedTensors; }
  std::string_view title() const noexcept override { return hf::kCompressedTensors; }
  std::string_view saver_type() const noexcept override { return "compressed_tensors_saver"; }
  std::string_view weights_stem() const noexcept override { return kStem; }
  std::string_view index_file() const noexcept override { return "model.safetensors.index.json"; }
  std::string_view mark_file() const noexcept override { return kConfigFile; }
  // Float checkpoints have the same file names: config.json tells them apart.
  bool owns(const fs::path& weights) const override {
    return weights.filename().string().starts_with(kStem) &&
           hf::quant_method_of(weights.parent_path()) == hf::kCompressedTensors;
  }

  bool holds_experts() const noexcept override { return true; }

  void plan_linear(const OutputLinear& linear, const std::string& label,
                   const scheme::Scheme* scheme, DType float_dtype,
                   std::vector<OutputTensor>& tensors,
                   std::vector<Problem>& problems) const override {
    if (scheme == nullptr || scheme->transforms ||
        scheme->activations == scheme::Activations::kEither) {
      problems.push_back({label + " is not written as compressed-tensors", linear.name,
                          "use one of the schemes of docs/recipes.md"});
      return;
    }
    const int64_t out = linear.out_features, in = linear.in_features;
    const quant::WeightSpec& weight = linear.scheme->weight;
    const auto add = [&](const char* suffix, DType dtype, Shape shape) {
      tensors.push_back({{linear.name + "." + suffix, dtype, std::move(shape)},
                         label,
                         linear.name,
                         weight.group_size});
    };
    if (is_packed(*scheme, weight.group_size)) {
      add("weight_packed", DType::kI32, {out, (in * scheme->weight_bits + 31) / 32});
      add("weight_shape", DType::kI64, {2});
    } else {
      add("weight", DType::kI8, {out, in});
    }
    add("weight_scale", stored_scale_dtype(weight, float_dtype),
        {out, weight.group_size == 0 ? 1 : in / weight.group_size});
    if (scheme->activations == scheme::Activations::kStatic) {
      add("input_scale", float_dtype, {1});
      if (!linear.scheme->act.symmetric) add("input_zero_point", DType::kI8, {1});
    }
    if (linear.has_bias) add("bias", float_dtype, {out});
  }

  void encode(const LinearValues& values, const LinearSink& sink) const override {
    const quant::IntWeight& weight = values.weight;
    if (sink.has("weight_packed")) {
      sink.write("weight_packed", hf::pack_words(weight.q, sink.scheme.weight_bits));
      sink.write("weight_shape", std::vector<int64_t>{weight.q.rows(), weight.q.cols()});
    } else {
      sink.write("weight", weight.q);
    }
    sink.write_float("weight_scale", weight.scale);
    if (values.input != nullptr) {
      sink.write_float("input_scale", std::vector<float>{values.input->scale});
      if (sink.has("input_zero_point"))
        sink.write("input_zero_point",
                   std::vector<int8_t>{static_cast<int8_t>(values.input->offset)});
    }
    if (!values.bias.empty()) sink.write_float("bias", values.bias);
  }

  std::vector<TextFile> side_files(const CheckpointJob& /*job*/) const override { return {}; }

  void describe_in_config(OrderedJson& config, const CheckpointJob& job) const override {
    struct Found {
      OrderedJson group;
      std::vector<std::string> linears;
    };
    std::vector<Found> groups;
    OrderedJson ignore = OrderedJson::array();
    for (size_t i = 0; i < job.tensors.size(); ++i) {
      const OutputTensor& tensor = job.tensors[i];
      const std::string& name = tensor.spec.name;
      if (tensor.linear.empty() && name.ends_with(".weight") && tensor.spec.shape.size() == 2 &&
          tensor.kind != hf::WeightModule::Kind::kEmbedding)
        ignore.push_back(name.substr(0, name.size() - std::string_view(".weight").size()));
      if (!name.ends_with(".weight_scale")) continue;
      const scheme::Scheme& scheme = *scheme::find(tensor.label);
      const auto of_linear = [&](size_t j, const char* suffix) {
        return j < job.tensors.size() && job.tensors[j].spec.name == tensor.linear + suffix;
      };
      OrderedJson group =
          group_of(scheme, tensor.group_size, !of_linear(i + 2, ".input_zero_point"));
      auto found = std::find_if(groups.begin(), groups.end(),
                                [&](const Found& other) { return other.group == group; });
      if (found == groups.end()) found = groups.insert(groups.end(), {std::move(group), {}});
      found->linears.push_back(tensor.linear);
    }

    OrderedJson& section = config[hf::kQuantizationConfig] = OrderedJson::object();
    section["quant_method"] = hf::kCompressedTensors;
    section["format"] = "dense";
    section["quantization_status"] = "compressed";
    section["global_compression_ratio"] = nullptr;
    section["kv_cache_scheme"] = nullptr;
    section["config_groups"] = OrderedJson::object();
    for (size_t i = 0; i < groups.size(); ++i) {
      OrderedJson& group = section["config_groups"]["group_" + std::to_string(i)];
      group["targets"] =
          groups.size() == 1 ? OrderedJson{"Linear"} : OrderedJson(groups[i].linears);
      group.update(groups[i].group);
      const bool is_mixed = i > 0 && section["format"] != groups[i].group["format"];
      section["format"] = is_mixed ? OrderedJson("mixed-precision") : groups[i].group["format"];
    }
    section["ignore"] = std::move(ignore);
  }
};

}  // namespace

const Format& compressed_tensors_format() noexcept {
  static const CompressedTensors format;
  return format;
}

}  // namespace laos::save
