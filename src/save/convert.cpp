#include "save/convert.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "hf/ascendv1.h"
#include "hf/model_tensors.h"
#include "hf/quantized_checkpoint.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "save/checkpoint_writer.h"
#include "save/pairs.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRecipeEnding = "_best_practice.yaml";
constexpr int64_t kMaxRecipeBytes = int64_t{1} << 20;

struct SourceLinear {
  quant::LinearScheme scheme;
  std::vector<float> scale;  // of the weight
  std::optional<quant::StaticRange> input;
};

bool are_exact(const std::vector<float>& values, DType dtype) {
  return std::all_of(values.begin(), values.end(),
                     [&](float value) { return round_to(dtype, value) == value; });
}

// AscendV1 stores the products of both scales alone. The weight's is the value of `dtype` that
// gives them; empty when there is none.
std::vector<float> weight_scale_of(const hf::StaticInput& input, DType dtype) {
  std::vector<float> scale;
  for (const float product : input.deq_scale) {
    scale.push_back(round_to(dtype, product / input.scale));
    if (scale.back() * input.scale != product) return {};
  }
  return scale;
}

SourceLinear source_of(const hf::QuantizedCheckpoint& checkpoint, const hf::WeightModule& module,
                       std::vector<Problem>& problems) {
  const scheme::Scheme& row = *scheme::find(checkpoint.label(module.name));
  SourceLinear linear;
  linear.scheme = {{.bits = row.weight_bits}, {.bits = row.act_bits}};
  const auto refuse = [&](const std::string& what) {
    problems.push_back({what, module.name, "quantize the float model with --format"});
    return linear;
  };
  if (row.transforms) return refuse(std::string(row.label) + " has no name in the other format");
  if (row.activations == scheme::Activations::kEither)
    return refuse("the label " + std::string(row.label) + " leaves open how inputs are quantized");
  for (const char* suffix : {"heads_rotation", "kronecker_rotation_m"})
    if (!checkpoint.online_rotation(module.name, suffix).empty())
      return refuse("an online rotation is not converted");
  const DType dtype = checkpoint.config().dtype;
  if (row.activations == scheme::Activations::kStatic) {
    const hf::StaticInput input = checkpoint.static_input(module.name);
    linear.scheme.act.is_static = true;
    linear.scheme.act.symmetric = input.offset == 0;
    linear.input = quant::StaticRange{.scale = input.scale, .offset = input.offset};
    linear.scale = weight_scale_of(input, dtype);
    if (linear.scale.empty() || !are_exact({input.scale}, dtype))
      return refuse("scales that are not exact in the model's dtype");
  } else {
    linear.scale = checkpoint.weight_scale(module.name);
    const int64_t num_groups = std::ssize(linear.scale) / module.shape[0];
    if (num_groups > 1) linear.scheme.weight.group_size = module.shape[1] / num_groups;
  }
  if (!std::ranges::all_of(linear.scale, [&](float scale) { return row.takes_scale(scale); }))
    return refuse("scales that " + std::string(row.label) +
                  " does not have: 0, negative or no number");
  linear.scheme.weight.scale_dtype = are_exact(linear.scale, dtype) ? dtype : DType::kF32;
  return linear;
}

// The recipe that the run left, and the model type that names it.
std::pair<std::string, std::string> recipe_of(const fs::path& directory, const hf::Config& config) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(kRecipeEnding) && name != kRecipeEnding && entry.is_regular_file(error))
      return {name.substr(0, name.size() - std::string_view(kRecipeEnding).size()),
              io::read_text(entry.path(), kMaxRecipeBytes)};
  }
  return {config.architecture, "# converted, without a recipe\n"};
}

void throw_if_any(const std::vector<Problem>& problems) {
  Problems grouped;
  for (const hf::ProblemGroup& group : hf::group_over_layers(problems)) grouped.add(group.first);
  grouped.throw_if_any(ErrorCode::kUnsupported);
}

// Writes these tensors beside all else that the checkpoint in `directory` has.
CheckpointJob job_of(const fs::path& directory, const hf::Config& config, const fs::path& save_path,
                     std::vector<OutputTensor> tensors, const Format& format) {
  auto [model_type, recipe] = recipe_of(directory, config);
  std::error_code ignored;
  const bool has_rotation = fs::exists(directory / kRotationFile, ignored);
  return {.save_path = save_path,
          .model_directory = directory,
          .float_dtype = config.dtype,
          .tensors = std::move(tensors),
          .max_shard_bytes = max_shard_bytes({}),
          .model_type = std::move(model_type),
          .recipe_yaml = std::move(recipe),
          .global_rotation = has_rotation ? config.hidden_size : 0,
          .format = &format};
}

// When all tensors of the job are written.
void finish(const CheckpointJob& job, CheckpointWriter& writer) {
  if (job.global_rotation > 0) {
    const io::TensorFiles files =
        io::TensorFiles::open_files({job.model_directory / kRotationFile});
    const Mat<float> rotation = to_f32(files.at(kRotationTensor));
    writer.write_global_rotation(rotation.view());
  }
  writer.commit();
}

}  // namespace

void convert(const fs::path& directory, const Format& format, const fs::path& save_path) {
  const auto refuse = [&](const std::string& what, const std::string& fix) {
    throw Error(ErrorCode::kUsage, {.what = what, .where = directory.string(), .fix = fix});
  };
  const auto source = hf::format_of(directory);
  if (!source) refuse("not a quantized checkpoint", "quantize it: laos quant");
  if (*source == format.id())
    refuse("the checkpoint is " + std::string(format.title()) + " already", "copy it");
  const std::unique_ptr<hf::QuantizedCheckpoint> checkpoint = hf::open_quantized(directory);

  const hf::Config& config = checkpoint->config();
  const std::vector<hf::WeightModule> modules = hf::weight_modules(config);
  std::map<std::string, SourceLinear> linears;
  std::vector<Problem> problems;
  for (const hf::WeightModule& module : modules)
    if (checkpoint->label(module.name) != scheme::kFloatLabel)
      linears[module.name] = source_of(*checkpoint, module, problems);
  if (config.num_hidden_layers > 0 && checkpoint->cache_scales(0))
    problems.push_back({"scales of an int8 cache have no place in " + std::string(format.title()),
                        directory.string(), "quantize the float model with --format"});
  throw_if_any(problems);

  const auto scheme_of = [&](const std::string& name) -> std::optional<quant::LinearScheme> {
    const auto found = linears.find(name);
    if (found == linears.end()) return std::nullopt;
    return found->second.scheme;
  };
  const CheckpointJob job =
      job_of(directory, config, save_path,
             output_tensors(config, config.dtype, scheme_of, nullptr, format), format);
  CheckpointWriter writer(job);
  for (const hf::WeightModule& module : modules) {
    const auto found = linears.find(module.name);
    Mat<float> bias;
    if (module.has_bias) bias = to_f32(checkpoint->files().at(module.bias_name()));
    if (found == linears.end()) {
      writer.write_float(module.weight_name(), to_f32(checkpoint->weight(module.name)).view());
      if (module.has_bias) writer.write_float(module.bias_name(), bias.view());
      continue;
    }
    const SourceLinear& linear = found->second;
    writer.write_linear(
        module.name,
        {.spec = linear.scheme.weight, .q = checkpoint->codes(module.name), .scale = linear.scale},
        linear.input ? &*linear.input : nullptr,
        std::span(std::as_const(bias).data(), static_cast<size_t>(bias.size())));
  }
  finish(job, writer);
}

void convert_to_ranks(const fs::path& directory, int64_t ranks, const fs::path& save_path) {
  const auto refuse = [&](const std::string& what, const std::string& fix) {
    throw Error(ErrorCode::kUsage, {.what = what, .where = directory.string(), .fix = fix});
  };
  if (!hf::AscendV1Checkpoint::is_ascendv1(directory))
    refuse("not a checkpoint in the AscendV1 format", "quantize: laos quant --online --tp 1,2");
  const hf::AscendV1Checkpoint checkpoint = hf::AscendV1Checkpoint::open(directory);
  const hf::Config& config = checkpoint.config();
  const io::TensorFiles& files = checkpoint.files();

  std::map<std::string, Mat<uint16_t>> matrices;  // that change, by the tensor's name
  std::vector<Problem> problems;
  bool has_split = false, changes = false;
  for (const hf::WeightModule& module : hf::weight_modules(config)) {
    if (hf::num_slices(module.name) == 1) continue;  // every rank has all inputs
    const scheme::Scheme* row = scheme::find(checkpoint.label(module.name));
    if (row == nullptr || !row->transforms) continue;
    has_split = true;
    const TensorView &left = files.at(module.name + ".left_trans"),
                     &right = files.at(module.name + ".right_trans");
    const int64_t in_features = module.shape[1];
    changes = changes || in_features / (left.shape[0] * right.shape[0]) != ranks;
    const Mat<uint16_t> block = repeated_block(left, right);
    if (!can_repeat(in_features, ranks, block.rows())) {
      problems.push_back({"its matrices cannot be cut for " + std::to_string(ranks) + " ranks",
                          module.name,
                          "quantize the float model with --tp " + std::to_string(ranks)});
      continue;
    }
    MatrixPair<uint16_t> pair =
        repeated(block.view(), scheme::pair_sizes(in_features / ranks), one_of(left.dtype));
    matrices[left.name] = std::move(pair.left);
    matrices[right.name] = std::move(pair.right);
  }
  if (!has_split) refuse("the checkpoint serves every tensor parallel size as it is", "use it");
  throw_if_any(problems);
  if (!changes)
    refuse("the checkpoint serves tensor parallel size " + std::to_string(ranks) + " as it is",
           "use it");

  // In the order of the files.
  std::vector<const TensorView*> tensors;
  for (const auto& [name, tensor] : files.tensors()) tensors.push_back(&tensor);
  std::ranges::sort(tensors, [&](const TensorView* a, const TensorView* b) {
    return std::pair(files.file_of(a->name), a->data) < std::pair(files.file_of(b->name), b->data);
  });
  std::vector<OutputTensor> outputs;
  for (const TensorView* tensor : tensors) {
    const std::string* label = checkpoint.description().find(tensor->name);
    OutputTensor& output = outputs.emplace_back();
    output.spec = {tensor->name, tensor->dtype, tensor->shape};
    if (label != nullptr) output.label = *label;
    output.group_size = checkpoint.description().group_size;
    if (const auto matrix = matrices.find(tensor->name); matrix != matrices.end())
      output.spec.shape = {matrix->second.rows(), matrix->second.cols()};
  }
  const CheckpointJob job =
      job_of(directory, config, save_path, std::move(outputs), ascendv1_format());
  CheckpointWriter writer(job);
  for (const TensorView* tensor : tensors) {
    const auto matrix = matrices.find(tensor->name);
    if (matrix == matrices.end())
      writer.write_as_is(tensor->name,
                         std::span(tensor->data, static_cast<size_t>(tensor->size_bytes())));
    else
      writer.write_as_is(tensor->name,
                         std::as_bytes(std::span(matrix->second.data(),
                                                 static_cast<size_t>(matrix->second.size()))));
  }
  finish(job, writer);
}

}  // namespace laos::save
