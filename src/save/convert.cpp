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

// Scales of rows, some a row, times the row's factor, rounded to what `dtype` holds.
void multiply_rows(const std::vector<float>& factors, DType dtype, std::vector<float>& scale) {
  const size_t per_row = scale.size() / factors.size();
  for (size_t i = 0; i < scale.size(); ++i)
    scale[i] = round_to(dtype, scale[i] * factors[i / per_row]);
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

[[noreturn]] void refuse(const fs::path& directory, const std::string& what,
                         const std::string& fix) {
  throw Error(ErrorCode::kUsage, {.what = what, .where = directory.string(), .fix = fix});
}

std::unique_ptr<hf::QuantizedCheckpoint> open_source(const fs::path& directory) {
  if (!hf::format_of(directory))
    refuse(directory, "not a quantized checkpoint", "quantize it: laos quant");
  return hf::open_quantized(directory);
}

// A checkpoint as a format writes it, linear by linear.
class Rewriting {
 public:
  Rewriting(const hf::QuantizedCheckpoint& checkpoint, const fs::path& directory,
            const Format& format, const fs::path& save_path)
      : checkpoint_(checkpoint), modules_(hf::weight_modules(checkpoint.config())) {
    const hf::Config& config = checkpoint.config();
    std::vector<Problem> problems;
    for (const hf::WeightModule& module : modules_)
      if (checkpoint.label(module.name) != scheme::kFloatLabel)
        linears_[module.name] = source_of(checkpoint, module, problems);
    if (config.num_hidden_layers > 0 && checkpoint.cache_scales(0))
      problems.push_back({"scales of an int8 cache have no place in " + std::string(format.title()),
                          directory.string(), "quantize the float model with --format"});
    throw_if_any(problems);
    const auto scheme_of = [&](const std::string& name) -> std::optional<quant::LinearScheme> {
      const auto found = linears_.find(name);
      if (found == linears_.end()) return std::nullopt;
      return found->second.scheme;
    };
    job_ = job_of(directory, config, save_path,
                  output_tensors(config, config.dtype, scheme_of, nullptr, format), format);
  }

  const CheckpointJob& job() const noexcept { return job_; }

  void write(CheckpointWriter& writer, const RowFactors& factors = {}) const {
    for (const hf::WeightModule& module : modules_) {
      const auto found = linears_.find(module.name);
      Mat<float> bias;
      if (module.has_bias) bias = to_f32(checkpoint_.files().at(module.bias_name()));
      if (found == linears_.end()) {
        writer.write_float(module.weight_name(), to_f32(checkpoint_.weight(module.name)).view());
        if (module.has_bias) writer.write_float(module.bias_name(), bias.view());
        continue;
      }
      const SourceLinear& linear = found->second;
      const quant::WeightSpec& spec = linear.scheme.weight;
      std::vector<float> scale = linear.scale;
      if (const auto factor = factors.find(module.name); factor != factors.end())
        multiply_rows(factor->second, spec.scale_dtype, scale);
      writer.write_linear(
          module.name,
          {.spec = spec, .q = checkpoint_.codes(module.name), .scale = std::move(scale)},
          linear.input ? &*linear.input : nullptr,
          std::span(std::as_const(bias).data(), static_cast<size_t>(bias.size())));
    }
    finish(job_, writer);
  }

 private:
  const hf::QuantizedCheckpoint& checkpoint_;
  std::vector<hf::WeightModule> modules_;
  std::map<std::string, SourceLinear> linears_;
  CheckpointJob job_;
};

// A tensor in place of one that a checkpoint has.
struct NewTensor {
  Shape shape;
  std::vector<std::byte> bytes;
};
using NewTensors = std::map<std::string, NewTensor>;

template <class T>
NewTensor tensor_of(Shape shape, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {std::move(shape), {bytes.begin(), bytes.end()}};
}

// A checkpoint in AscendV1 tensor by tensor, in the order of its files.
class AscendV1Copy {
 public:
  // `replaced` has the shapes of those that write() will replace by tensors of another shape.
  AscendV1Copy(const hf::AscendV1Checkpoint& checkpoint, const fs::path& directory,
               const fs::path& save_path, const NewTensors& replaced = {}) {
    const io::TensorFiles& files = checkpoint.files();
    for (const auto& [name, tensor] : files.tensors()) tensors_.push_back(&tensor);
    std::ranges::sort(tensors_, [&](const TensorView* a, const TensorView* b) {
      return std::pair(files.file_of(a->name), a->data) <
             std::pair(files.file_of(b->name), b->data);
    });
    std::vector<OutputTensor> outputs;
    for (const TensorView* tensor : tensors_) {
      const std::string* label = checkpoint.description().find(tensor->name);
      OutputTensor& output = outputs.emplace_back();
      output.spec = {tensor->name, tensor->dtype, tensor->shape};
      if (label != nullptr) output.label = *label;
      output.group_size = checkpoint.description().group_size;
      if (const auto found = replaced.find(tensor->name); found != replaced.end())
        output.spec.shape = found->second.shape;
    }
    job_ = job_of(directory, checkpoint.config(), save_path, std::move(outputs), ascendv1_format());
  }

  const CheckpointJob& job() const noexcept { return job_; }

  void write(CheckpointWriter& writer, const NewTensors& replaced) const {
    for (const TensorView* tensor : tensors_) {
      const auto found = replaced.find(tensor->name);
      writer.write_as_is(tensor->name,
                         found != replaced.end()
                             ? std::span<const std::byte>(found->second.bytes)
                             : std::span(tensor->data, static_cast<size_t>(tensor->size_bytes())));
    }
    finish(job_, writer);
  }

 private:
  std::vector<const TensorView*> tensors_;
  CheckpointJob job_;
};

}  // namespace

void convert(const fs::path& directory, const Format& format, const fs::path& save_path) {
  if (const auto source = hf::format_of(directory); source && *source == format.id())
    refuse(directory, "the checkpoint is " + std::string(format.title()) + " already", "copy it");
  const std::unique_ptr<hf::QuantizedCheckpoint> checkpoint = open_source(directory);
  const Rewriting rewriting(*checkpoint, directory, format, save_path);
  CheckpointWriter writer(rewriting.job());
  rewriting.write(writer);
}

// In AscendV1 tensors are copied as they are but for scales; other formats are written anew.
class Rescaling::Source {
 public:
  Source(const fs::path& directory, const fs::path& save_path) {
    if (hf::AscendV1Checkpoint::is_ascendv1(directory)) {
      ascendv1_.emplace(hf::AscendV1Checkpoint::open(directory));
      copy_.emplace(*ascendv1_, directory, save_path);
      return;
    }
    other_ = open_source(directory);
    const auto id = hf::format_of(directory);
    for (const Format* format : formats())
      if (id == format->id()) rewriting_.emplace(*other_, directory, *format, save_path);
    LAOS_ASSERT(rewriting_);
  }

  CheckpointJob job(WorkPlan work) const {
    CheckpointJob job = copy_ ? copy_->job() : rewriting_->job();
    job.work = std::move(work);
    return job;
  }

  void write(CheckpointWriter& writer, const RowFactors& factors) const {
    if (rewriting_) return rewriting_->write(writer, factors);
    NewTensors replaced;
    for (const auto& [linear, factor] : factors) {
      const scheme::Scheme& row = *scheme::find(ascendv1_->label(linear));
      const DType held = row.scales_in_model_dtype ? ascendv1_->config().dtype : DType::kF32;
      for (const char* suffix : {".weight_scale", ".scale_bias"}) {
        const TensorView* tensor = ascendv1_->files().find(linear + suffix);
        if (tensor == nullptr) continue;
        std::vector<float> values(static_cast<size_t>(num_elements(tensor->shape)));
        to_f32(*tensor, values.data());
        multiply_rows(factor, held, values);
        replaced[tensor->name] = tensor_of<float>(tensor->shape, values);
      }
    }
    copy_->write(writer, replaced);
  }

 private:
  std::optional<hf::AscendV1Checkpoint> ascendv1_;
  std::optional<AscendV1Copy> copy_;
  std::unique_ptr<hf::QuantizedCheckpoint> other_;
  std::optional<Rewriting> rewriting_;
};

Rescaling::Rescaling(const fs::path& directory, const fs::path& save_path, WorkPlan work)
    : source_(std::make_unique<Source>(directory, save_path)),
      writer_(std::make_unique<CheckpointWriter>(source_->job(std::move(work)))) {}

Rescaling::~Rescaling() = default;

void Rescaling::check(const fs::path& directory, const fs::path& save_path, WorkPlan work) {
  const CheckpointJob job = Source(directory, save_path).job(std::move(work));
  check_output_path(job, planned_bytes_of_all(job));
}

WorkDirectory& Rescaling::work() { return writer_->work(); }

void Rescaling::write(const RowFactors& factors) { source_->write(*writer_, factors); }

void convert_to_ranks(const fs::path& directory, int64_t ranks, const fs::path& save_path) {
  if (!hf::AscendV1Checkpoint::is_ascendv1(directory))
    refuse(directory, "not a checkpoint in the AscendV1 format",
           "quantize: laos quant --online --tp 1,2");
  const hf::AscendV1Checkpoint checkpoint = hf::AscendV1Checkpoint::open(directory);
  const hf::Config& config = checkpoint.config();
  const io::TensorFiles& files = checkpoint.files();

  NewTensors matrices;  // that change
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
    const MatrixPair<uint16_t> pair =
        repeated(block.view(), scheme::pair_sizes(in_features / ranks), one_of(left.dtype));
    const auto replace = [&](const TensorView& tensor, const Mat<uint16_t>& matrix) {
      matrices[tensor.name] = tensor_of<uint16_t>(
          {matrix.rows(), matrix.cols()}, {matrix.data(), static_cast<size_t>(matrix.size())});
    };
    replace(left, pair.left);
    replace(right, pair.right);
  }
  if (!has_split)
    refuse(directory, "the checkpoint serves every tensor parallel size as it is", "use it");
  throw_if_any(problems);
  if (!changes)
    refuse(directory,
           "the checkpoint serves tensor parallel size " + std::to_string(ranks) + " as it is",
           "use it");

  const AscendV1Copy copy(checkpoint, directory, save_path, matrices);
  CheckpointWriter writer(copy.job());
  copy.write(writer, matrices);
}

}  // namespace laos::save
