#include "hf/gptq.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "hf/compressed_tensors.h"
#include "hf/quantization_config.h"
#include "save/format.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using GptqJson = nlohmann::ordered_json;

constexpr const char* kGptqStem = "model";  // as loaders look for it

// A regular expression that matches `name` alone.
std::string escaped(const std::string& name) {
  std::string text;
  for (const char c : name) text += c == '.' ? std::string("\\.") : std::string(1, c);
  return text;
}

// What loaders must know; the same in both files that say it.
GptqJson gptq_section(const CheckpointJob& job) {
  int bits = 0;
  int64_t group_size = 0;
  std::map<std::string, std::set<int64_t>>
      layers_of;  // path in a layer -> layers it is quantized in
  std::set<int64_t> layers;
  std::vector<std::string> floats;
  const auto path_of = [](const OutputTensor& tensor, const std::string& name) {
    const std::string number = "." + std::to_string(tensor.layer_idx) + ".";
    return name.substr(name.find(number) + number.size());
  };
  for (const OutputTensor& tensor : job.tensors) {
    const std::string& name = tensor.spec.name;
    if (tensor.layer_idx < 0 || tensor.kind != hf::WeightModule::Kind::kLinear) continue;
    layers.insert(tensor.layer_idx);
    if (name.ends_with(".qweight")) {
      bits = scheme::find(tensor.label)->weight_bits;
      group_size = tensor.group_size;
      layers_of[path_of(tensor, tensor.linear)].insert(tensor.layer_idx);
    } else if (name.ends_with(".weight")) {
      floats.push_back(name.substr(0, name.size() - std::string_view(".weight").size()));
    }
  }
  GptqJson section = {{"quant_method", hf::kGptq},
                      {"bits", bits},
                      {"group_size", group_size == 0 ? -1 : group_size},
                      {"sym", true},
                      {"desc_act", false},
                      {hf::kGptqHeadKey, false},
                      {"checkpoint_format", "gptq"},
                      {"pack_dtype", "int32"}};
  if (floats.empty()) return section;
  // vLLM and GPTQModel leave out what `dynamic` says; transformers, what is not listed here.
  for (const std::string& name : floats)
    section["dynamic"]["-:^" + escaped(name) + "$"] = GptqJson::object();
  GptqJson modules = GptqJson::array();
  for (const auto& [path, of] : layers_of)
    if (of == layers) modules.push_back(GptqJson::array({path}));
  section["modules_in_block_to_quantize"] = std::move(modules);
  return section;
}

class Gptq : public Format {
 public:
  scheme::CheckpointFormat id() const noexcept override { return scheme::CheckpointFormat::kGptq; }
  std::string_view name() const noexcept override { return hf::kGptq; }
  std::string_view title() const noexcept override { return "GPTQ"; }
  std::string_view saver_type() const noexcept override { return "gptq_saver"; }
  std::string_view weights_stem() const noexcept override { return kGptqStem; }
  std::string_view index_file() const noexcept override { return "model.safetensors.index.json"; }
  std::string_view mark_file() const noexcept override { return kConfigFile; }
  bool owns(const fs::path& weights) const override {
    return weights.filename().string().starts_with(kGptqStem) &&
           hf::quant_method_of(weights.parent_path()) == hf::kGptq;
  }

  void plan_linear(const OutputLinear& linear, const std::string& label,
                   const scheme::Scheme* scheme, DType float_dtype,
                   std::vector<OutputTensor>& tensors,
                   std::vector<Problem>& problems) const override {
    const auto refuse = [&](std::string what, std::string fix) {
      problems.push_back({std::move(what), linear.name, std::move(fix)});
    };
    if (scheme == nullptr || scheme->activations != scheme::Activations::kFloat)
      return refuse(label + " is not written as GPTQ", "write compressed-tensors");
    const int64_t out = linear.out_features, in = linear.in_features;
    const int64_t in_a_word = 32 / scheme->weight_bits;
    const quant::WeightSpec& weight = linear.scheme->weight;
    if (out % in_a_word != 0 || in % in_a_word != 0)
      refuse(std::to_string(out) + " by " + std::to_string(in) +
                 " weights do not go into words of " + std::to_string(in_a_word),
             "keep this linear float, or write compressed-tensors");
    // One kind for all: loaders read it once.
    const auto first = std::ranges::find_if(
        tensors, [](const OutputTensor& tensor) { return !tensor.linear.empty(); });
    if (first != tensors.end() && (first->label != label || first->group_size != weight.group_size))
      refuse("all linears of GPTQ have one width and one group size, which " + first->linear +
                 " has not in common with others",
             "use one scheme, or write compressed-tensors");
    const int64_t groups = weight.group_size == 0 ? 1 : in / weight.group_size;
    const auto add = [&](const char* suffix, DType dtype, Shape shape) {
      tensors.push_back({{linear.name + "." + suffix, dtype, std::move(shape)},
                         label,
                         linear.name,
                         weight.group_size});
    };
    add("qweight", DType::kI32, {in / in_a_word, out});
    add("qzeros", DType::kI32, {groups, out / in_a_word});
    add("scales", stored_scale_dtype(weight, float_dtype), {groups, out});
    add("g_idx", DType::kI32, {in});
    if (linear.has_bias) add("bias", float_dtype, {out});
  }

  void encode(const LinearValues& values, const LinearSink& sink) const override {
    const quant::IntWeight& weight = values.weight;
    const int bits = sink.scheme.weight_bits;
    const int64_t out = weight.q.rows(), in = weight.q.cols();
    sink.write("qweight", transposed(hf::pack_words(weight.q, bits)));
    const auto num_zeros = static_cast<size_t>(num_elements(sink.spec_of("qzeros").shape));
    sink.write("qzeros", std::vector<int32_t>(num_zeros, hf::gptq_zeros(bits, true)));
    const int64_t groups = std::ssize(weight.scale) / out;
    std::vector<float> scales;
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t i = 0; i < out; ++i)
        scales.push_back(weight.scale[static_cast<size_t>(i * groups + g)]);
    sink.write_float("scales", scales);
    std::vector<int32_t> group_of;
    for (int64_t j = 0; j < in; ++j) group_of.push_back(static_cast<int32_t>(j / (in / groups)));
    sink.write("g_idx", group_of);
    if (!values.bias.empty()) sink.write_float("bias", values.bias);
  }

  std::vector<TextFile> side_files(const CheckpointJob& job) const override {
    return {{hf::kGptqConfigFile, gptq_section(job).dump(2) + "\n"}};
  }
  void describe_in_config(GptqJson& config, const CheckpointJob& job) const override {
    config[hf::kQuantizationConfig] = gptq_section(job);
  }

 private:
  static Mat<int32_t> transposed(const Mat<int32_t>& matrix) {
    Mat<int32_t> result(matrix.cols(), matrix.rows());
    for (int64_t i = 0; i < matrix.rows(); ++i)
      for (int64_t j = 0; j < matrix.cols(); ++j) result(j, i) = matrix(i, j);
    return result;
  }
};

}  // namespace

const Format& gptq_format() noexcept {
  static const Gptq format;
  return format;
}

}  // namespace laos::save
