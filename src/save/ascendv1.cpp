#include "save/ascendv1.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/threads.h"
#include "core/units.h"
#include "hf/ascendv1.h"
#include "hf/config.h"
#include "hf/json_file.h"
#include "hf/model_tensors.h"
#include "io/file.h"
#include "io/own_file.h"
#include "save/manifest.h"
#include "save/paths.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr const char* kConfigFile = "config.json";
constexpr int64_t kMaxCopyBytes = int64_t{256} << 20;
constexpr int64_t kPieceBytes = int64_t{16} << 20;  // of converted floats in memory at a time

constexpr const char* kLayerPart = "layer";
constexpr const char* kOptionalDirectory = "optional";
constexpr const char* kRotationStem = "quarot";
constexpr const char* kRotationFile = "optional/quarot.safetensors";
constexpr const char* kRotationTensor = "global_rotation";

std::string label_text(const OutputLinear& linear) {
  if (!linear.scheme) return scheme::kFloatLabel;
  if (const auto label = quant::label_of(*linear.scheme)) return *label;
  std::string pair = "W";
  pair += std::to_string(linear.scheme->weight.bits);
  pair += "A";
  pair += std::to_string(linear.scheme->act.bits);
  return pair;
}

[[noreturn]] void refuse_usage(const std::string& what, const fs::path& where,
                               const std::string& fix) {
  throw Error(ErrorCode::kUsage, {.what = what, .where = where.string(), .fix = fix});
}

std::string recipe_file(const std::string& model_type) {
  return model_type + "_best_practice.yaml";
}

io::ShardPlan rotation_plan(const AscendV1Job& job) {
  return io::plan_shards(
      {{kRotationTensor, DType::kF32, {job.global_rotation, job.global_rotation}}}, kRotationStem,
      0);
}

io::ShardPlan shard_plan(const AscendV1Job& job) {
  std::vector<io::TensorSpec> specs;
  specs.reserve(job.tensors.size());
  for (const OutputTensor& tensor : job.tensors) specs.push_back(tensor.spec);
  return io::plan_shards(specs, hf::kAscendV1Stem, job.max_shard_bytes);
}

// --- the model directory -------------------------------------------------------------------------

// Whether the directory entry is a file of this model. Throws Error(kIo) for a link to elsewhere.
bool is_file_of_model(const fs::path& path) {
  std::error_code error;
  const bool is_other = fs::exists(path, error) && !fs::is_regular_file(path, error);
  if (!is_other) io::require_own_file(path);
  return !is_other;
}

// Files of the model directory that stay behind: the first two are written and not copied, the
// others tell how other weights are quantized or adapted, and a loader that finds one believes it.
constexpr std::array<std::string_view, 6> kNotCopied = {kConfigFile,
                                                        hf::kDescriptionFile,
                                                        "adapter_config.json",
                                                        "quantize_config.json",
                                                        "hf_quant_config.json",
                                                        "quant_config.json"};

// Names of the files that go with the weights unchanged, sorted: tokenizer, configuration, code. An
// index of the float shards does not, since it names files that are not there.
std::vector<std::string> copied_files(const fs::path& model_directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entries(model_directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename().string();
    const bool has_suffix = name.ends_with(".json") || name.ends_with(".py") ||
                            name.ends_with(".txt") || name.ends_with(".jinja");
    if (!has_suffix || name.ends_with("index.json")) continue;
    if (std::find(kNotCopied.begin(), kNotCopied.end(), name) != kNotCopied.end()) continue;
    if (is_file_of_model(entries->path())) names.push_back(name);
  }
  if (error) fail_io("cannot list the model directory", model_directory, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

// Engines take the dtype of a model from here, so it is that of the float tensors.
std::string with_dtype(const std::string& text, const fs::path& path, DType dtype) {
  OrderedJson config = hf::parse_json<OrderedJson>(text, path, hf::kMaxConfigValues);
  const OrderedJson original = config;
  const std::string_view name = hf::dtype_name(dtype);
  for (const char* key : {"torch_dtype", "dtype"})
    if (config.contains(key)) config[key] = name;
  if (!config.contains("torch_dtype") && !config.contains("dtype")) config["torch_dtype"] = name;
  return config == original ? text : config.dump(2) + "\n";
}

std::string read_exported_config(const AscendV1Job& job) {
  const fs::path path = job.model_directory / kConfigFile;
  io::require_own_file(path);
  const std::string text = exported_config(io::read_text(path, hf::kMaxConfigBytes), path);
  for (const OutputTensor& tensor : job.tensors)
    if (tensor.spec.name.ends_with("embed_tokens.weight"))
      return with_dtype(text, path, tensor.spec.dtype);
  return text;
}

// --- the output directory ------------------------------------------------------------------------

void check_not_in_model_directory(const fs::path& save_path, const fs::path& model_directory) {
  std::error_code error;
  for (fs::path path = nearest_existing(save_path);; path = path.parent_path()) {
    if (fs::equivalent(path, model_directory, error))
      refuse_usage("the output would be written into the model directory", save_path,
                   "choose another save path");
    if (path == path.parent_path()) return;
  }
}

bool is_ascendv1_weights(const fs::path& file) {
  return file.filename().string().starts_with(hf::kAscendV1Stem);
}

void check_no_foreign_weights(const fs::path& save_path) {
  for (const fs::path& file : hf::top_level_safetensors(save_path))
    if (!is_ascendv1_weights(file))
      refuse_usage("the save path holds weights of something else, which engines would load too",
                   file, "choose an empty directory");
}

void check_model_type(const std::string& model_type) {
  const bool is_plain = std::all_of(model_type.begin(), model_type.end(), [](unsigned char c) {
    return c >= 0x20 && c != 0x7f && c != '/';
  });
  if (model_type.empty() || model_type.size() > 200 || !is_plain)
    refuse_usage("the model type must be a name of 1 to 200 characters without slashes",
                 "--model_type", "write for example Qwen3-8B");
}

void rename_file(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) fail_io("cannot rename the finished file to", to, error.value());
}

// --- values --------------------------------------------------------------------------------------

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

void convert_row(const io::TensorSpec& spec, int64_t row, const float* values, int64_t cols,
                 std::byte* target) {
  from_f32(values, cols, spec.dtype, target);
  const int64_t size = size_of(spec.dtype);
  for (int64_t col = 0; col < cols; ++col)
    if (!is_finite(spec.dtype, target + col * size))
      throw Error(ErrorCode::kNumeric,
                  {.what = "the value " + std::to_string(values[col]) + " at row " +
                           std::to_string(row) + ", column " + std::to_string(col) +
                           " is not finite as " + std::string(to_string(spec.dtype)),
                   .where = spec.name,
                   .fix = "check the input checkpoint for damaged weights"});
}

// --- tensors -------------------------------------------------------------------------------------

scheme::LinearSizes sizes_of(const OutputLinear& linear) {
  const int64_t group_size = linear.scheme ? linear.scheme->weight.group_size : 0;
  return {.out_features = linear.out_features,
          .in_features = linear.in_features,
          .num_groups = group_size == 0 ? 1 : linear.in_features / group_size,
          .num_slices = hf::num_slices(linear.name)};
}

// Engines that run f16 models read the f32 bits of deq_scale as integers of 64 bits.
DType deq_scale_dtype(DType model_dtype) noexcept {
  return model_dtype == DType::kBF16 ? DType::kF32 : DType::kI64;
}

// The matrices that the module of this name carries.
void append_online(const hf::Config& config, const OnlineLayout& online, const std::string& module,
                   std::vector<OutputTensor>& tensors) {
  const auto add = [&](const char* suffix, int64_t size) {
    tensors.push_back({{module + "." + suffix, DType::kF32, {size, size}}, ""});
  };
  if (module.ends_with("." + std::string(hf::path_of(config, hf::Linear::kOProj))))
    add("heads_rotation", config.num_attention_heads);
  for (const int64_t layer_idx : online.down_proj_layers) {
    if (module != hf::name_of(config, layer_idx, hf::Linear::kDownProj)) continue;
    add("kronecker_rotation_m", online.m);
    add("kronecker_rotation_n", online.n);
  }
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

}  // namespace

// --- planning ------------------------------------------------------------------------------------

std::vector<OutputLinear> output_linears(const hf::Config& config, const SchemeLookup& scheme_of) {
  std::vector<OutputLinear> linears;
  for (const hf::WeightModule& module : hf::weight_modules(config))
    if (module.kind == hf::WeightModule::Kind::kLinear)
      linears.push_back({module.name, module.shape[0], module.shape[1], scheme_of(module.name)});
  return linears;
}

std::vector<OutputTensor> output_tensors(const hf::Config& config, DType float_dtype,
                                         const SchemeLookup& scheme_of,
                                         const OnlineLayout* online) {
  std::vector<OutputTensor> tensors;
  std::vector<Problem> problems;
  for (const hf::WeightModule& module : hf::weight_modules(config)) {
    std::optional<quant::LinearScheme> scheme;
    if (module.kind == hf::WeightModule::Kind::kLinear) scheme = scheme_of(module.name);
    if (!scheme) {
      tensors.push_back({{module.weight_name(), float_dtype, module.shape}, scheme::kFloatLabel});
    } else {
      const OutputLinear linear = {module.name, module.shape[0], module.shape[1], scheme};
      const std::string label = label_text(linear);
      const scheme::Scheme* row = scheme::find(label);
      if (row == nullptr) {
        problems.push_back({label + " is not written as AscendV1", module.name,
                            "use one of the schemes of docs/recipes.md"});
        continue;
      }
      const scheme::LinearSizes sizes = sizes_of(linear);
      if (row->packs_rows() && sizes.out_features % 2 != 0)
        problems.push_back({"out_features " + std::to_string(sizes.out_features) + " is odd; " +
                                label + " packs two rows into one",
                            module.name, "use another scheme"});
      for (const scheme::LinearPart& part : row->parts)
        tensors.push_back(
            {{module.name + "." + std::string(part.suffix),
              part.dims == scheme::LinearPart::Dims::kOut && part.suffix == "deq_scale"
                  ? deq_scale_dtype(float_dtype)
                  : part.dtype,
              part.shape(sizes)},
             label});
    }
    if (module.has_bias)
      tensors.push_back(
          {{module.bias_name(), scheme ? DType::kF32 : float_dtype, {module.shape[0]}},
           scheme::kFloatLabel});
    if (online != nullptr) append_online(config, *online, module.name, tensors);
  }
  Problems grouped;
  for (const hf::ProblemGroup& group : hf::group_over_layers(problems)) {
    Problem problem = group.first;
    if (group.count > 1)
      problem.what += " (" + std::to_string(group.count) + " linears, the first:)";
    grouped.add(std::move(problem));
  }
  grouped.throw_if_any(ErrorCode::kUnsupported);
  return tensors;
}

std::vector<FusedConflict> find_fused_conflicts(const hf::Config& config,
                                                const std::vector<OutputLinear>& linears) {
  std::map<std::string, std::string> label_of;
  for (const OutputLinear& linear : linears) label_of[linear.name] = label_text(linear);

  std::vector<FusedConflict> conflicts;
  for (const OutputLinear& linear : linears)
    for (const std::vector<std::string>& group : hf::fused_groups(config)) {
      if (!linear.name.ends_with("." + group.front())) continue;
      FusedConflict conflict{
          linear.name.substr(0, linear.name.size() - group.front().size() - 1), group, {}};
      for (const std::string& member : group) {
        const auto found = label_of.find(conflict.layer + "." + member);
        conflict.labels.push_back(found == label_of.end() ? "none" : found->second);
      }
      const auto& labels = conflict.labels;
      if (!std::equal(labels.begin() + 1, labels.end(), labels.begin()))
        conflicts.push_back(std::move(conflict));
    }
  return conflicts;
}

int64_t max_shard_bytes(const AscendV1Options& options) {
  constexpr int kGiBShift = 30;
  const int64_t most = std::numeric_limits<int64_t>::max() >> kGiBShift;
  return std::clamp<int64_t>(options.part_file_size, 0, most) << kGiBShift;
}

std::string description_json(const AscendV1Job& job) {
  OrderedJson description = OrderedJson::object();
  std::vector<std::string> labels;
  int64_t group_size = 0;
  for (const OutputTensor& tensor : job.tensors) {
    if (tensor.label.empty()) continue;
    description[tensor.spec.name] = tensor.label;
    labels.push_back(tensor.label);
    const bool is_scale = tensor.spec.name.ends_with(".weight_scale");
    if (is_scale && tensor.spec.shape[1] > 1) {
      // The weight stands in front of its scales.
      const OutputTensor& weight = *(&tensor - 1);
      group_size = weight.spec.shape[1] / tensor.spec.shape[1];
    }
  }
  description["version"] = "1.0.0";
  description["model_quant_type"] = scheme::model_quant_type(labels);
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

std::string exported_config(const std::string& text, const fs::path& path) {
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
  return config == original ? text : config.dump(2) + "\n";
}

// --- checks before the work ----------------------------------------------------------------------

int64_t planned_bytes(const AscendV1Job& job) {
  const io::ShardPlan plan = shard_plan(job);
  int64_t bytes = plan.file_bytes() + std::ssize(description_json(job)) +
                  std::ssize(job.recipe_yaml) + std::ssize(read_exported_config(job));
  if (job.global_rotation > 0) bytes += rotation_plan(job).file_bytes();
  // Index: a line a tensor, of name, file name, indent and quotes; and its frame. Manifest: a line
  // a file, of checksum and name.
  bytes += 100 + 5 * 120;
  for (const io::ShardPlan::Shard& shard : plan.shards)
    for (const io::TensorSpec& tensor : shard.tensors)
      bytes += std::ssize(tensor.name) + std::ssize(shard.file_name) + 12;
  bytes += std::ssize(plan.shards) * 120;
  for (const std::string& name : copied_files(job.model_directory)) {
    std::error_code error;
    const uintmax_t size = fs::file_size(job.model_directory / name, error);
    if (error) fail_io("cannot read", job.model_directory / name, error.value());
    if (size > static_cast<uintmax_t>(kMaxCopyBytes))
      throw Error(ErrorCode::kIo, {.what = "the file is too large to be part of a model's settings",
                                   .where = (job.model_directory / name).string(),
                                   .fix = "move it out of the model directory"});
    bytes += static_cast<int64_t>(size) + 68 + std::ssize(name);
  }
  return bytes;
}

int64_t planned_work_bytes(const AscendV1Job& job) {
  int64_t bytes = job.work.other_bytes;  // then each tensor once more, and its place in a header
  for (const OutputTensor& tensor : job.tensors)
    if (tensor.spec.name.starts_with("model.layers."))
      bytes += tensor.spec.size_bytes() + std::ssize(tensor.spec.name) + 100;
  return job.work.parts.empty() ? 0 : bytes;
}

void check_output_path(const AscendV1Job& job, int64_t bytes_needed) {
  check_model_type(job.model_type);
  if (job.save_path.empty())
    refuse_usage("the save path is empty", "--save_path", "name a directory");
  const fs::path save_path = real_path(job.save_path);
  const fs::path existing = nearest_existing(save_path);
  const fs::file_status status = status_of(existing);
  std::error_code error;
  if (existing != save_path && fs::is_symlink(save_path, error))
    refuse_usage("the save path is a link to nothing", save_path, "choose another save path");
  if (!fs::is_directory(status))
    refuse_usage("not a directory", existing, "choose another save path");
  check_not_in_model_directory(save_path, job.model_directory);

  std::vector<std::string> names = copied_files(job.model_directory);
  names.insert(names.end(), {kConfigFile, kManifestFile, hf::kDescriptionFile,
                             hf::kAscendV1IndexFile, recipe_file(job.model_type)});
  read_exported_config(job);
  if (existing == save_path) {
    check_no_foreign_weights(save_path);
    for (const std::string& name : names)
      if (fs::is_directory(save_path / name, error))
        refuse_usage("a directory is in the place of an output file", save_path / name,
                     "choose an empty directory");
    if (job.global_rotation > 0 && fs::exists(save_path / kOptionalDirectory, error) &&
        !fs::is_directory(save_path / kOptionalDirectory, error))
      refuse_usage("a file is in the place of an output directory", save_path / kOptionalDirectory,
                   "choose an empty directory");
  }

  if (::access(existing.c_str(), W_OK | X_OK) != 0)
    fail_io("cannot write into the directory", existing, errno);
  check_work(save_path, job.work);
  const fs::space_info space = fs::space(existing, error);
  if (error) return;
  const auto left_there = static_cast<uintmax_t>(work_bytes(save_path));
  if (static_cast<uintmax_t>(std::max<int64_t>(bytes_needed, 0)) > space.available + left_there)
    throw Error(ErrorCode::kResource,
                {.what = "the output, and what is kept of the run until it is done, need " +
                         bytes_text(bytes_needed) + ", the disk has " +
                         bytes_text(static_cast<double>(space.available + left_there)) + " free",
                 .where = existing.string(),
                 .fix = "free disk space, or write to another disk"});
}

// --- the writer ----------------------------------------------------------------------------------

AscendV1Writer::AscendV1Writer(AscendV1Job job) : job_(std::move(job)) {
  check_output_path(job_, planned_bytes(job_) + planned_work_bytes(job_));
  index_tensors();
  work_ = std::make_unique<WorkDirectory>(job_.save_path, job_.work);
  weights_ = std::make_unique<io::ShardedWriter>(work_->directory(), shard_plan(job_));
  if (job_.global_rotation > 0) {
    const fs::path directory = work_->directory() / kOptionalDirectory;
    std::error_code error;
    fs::create_directory(directory, error);
    if (error) fail_io("cannot create the directory", directory, error.value());
    rotation_ = std::make_unique<io::ShardedWriter>(directory, rotation_plan(job_));
  }
}

AscendV1Writer::AscendV1Writer(AscendV1Job job, const std::string& state)
    : job_(std::move(job)), work_(WorkDirectory::join(job_.save_path, state)) {
  index_tensors();
}

AscendV1Writer::~AscendV1Writer() = default;

void AscendV1Writer::index_tensors() {
  for (size_t i = 0; i < job_.tensors.size(); ++i) {
    const bool is_new = index_of_.emplace(job_.tensors[i].spec.name, i).second;
    LAOS_ASSERT(is_new);
  }
}

std::vector<io::TensorSpec> AscendV1Writer::tensors_of(int64_t layer_idx) const {
  const std::string prefix = "model.layers." + std::to_string(layer_idx) + ".";
  std::vector<io::TensorSpec> specs;
  for (const OutputTensor& tensor : job_.tensors)
    if (tensor.spec.name.starts_with(prefix)) specs.push_back(tensor.spec);
  return specs;
}

void AscendV1Writer::write_part(const std::string& name, int64_t offset,
                                std::span<const std::byte> bytes) {
  LAOS_ASSERT(weights_ || layer_);
  if (weights_) weights_->write_part(name, offset, bytes);
  if (layer_) layer_->write_part(name, offset, bytes);
}

void AscendV1Writer::begin_layer(int64_t layer_idx) {
  LAOS_ASSERT(layer_ == nullptr);
  layer_idx_ = layer_idx;
  layer_ = std::make_unique<io::ShardedWriter>(
      work_->create(part_name(kLayerPart, layer_idx), tensors_of(layer_idx)));
}

void AscendV1Writer::finish_layer(const std::string& note) {
  LAOS_ASSERT(layer_ != nullptr);
  work_->finish(part_name(kLayerPart, layer_idx_), std::move(*layer_), note);
  layer_.reset();
}

std::optional<std::string> AscendV1Writer::restore_layer(int64_t layer_idx) {
  const std::string part = part_name(kLayerPart, layer_idx);
  const std::string* note = work_->find(part);
  if (note == nullptr) return std::nullopt;
  const io::TensorFiles files = io::TensorFiles::open_files({work_->file_of(part)});
  const std::vector<io::TensorSpec> specs = tensors_of(layer_idx);
  // Same identity, same tensors.
  LAOS_ASSERT(files.tensors().size() == specs.size());
  for (const io::TensorSpec& spec : specs) {
    const TensorView& tensor = files.at(spec.name);
    LAOS_ASSERT(tensor.dtype == spec.dtype && tensor.shape == spec.shape);
    weights_->write(spec.name, std::span(tensor.data, static_cast<size_t>(tensor.size_bytes())));
  }
  return *note;
}

const OutputTensor& AscendV1Writer::find(const std::string& name) const {
  const auto found = index_of_.find(name);
  LAOS_ASSERT(found != index_of_.end());
  return job_.tensors[found->second];
}

void AscendV1Writer::write_float(const std::string& name, MatView<const float> values) {
  LAOS_ASSERT(values.rows * values.cols == num_elements(find(name).spec.shape));
  write_float_rows(name, 0, values);
}

void AscendV1Writer::write_float_rows(const std::string& name, int64_t row_begin,
                                      MatView<const float> values) {
  const OutputTensor& tensor = find(name);
  const Shape& shape = tensor.spec.shape;
  LAOS_ASSERT(tensor.label == scheme::kFloatLabel && !shape.empty() && shape.size() <= 2);
  const int64_t rows = shape.size() == 2 ? shape[0] : 1;
  LAOS_ASSERT(values.cols == shape.back() && row_begin >= 0 && row_begin + values.rows <= rows);
  if (values.cols == 0) return;

  const int64_t row_bytes = values.cols * size_of(tensor.spec.dtype);
  const int64_t piece_rows =
      std::clamp<int64_t>(kPieceBytes / row_bytes, 1, std::max<int64_t>(values.rows, 1));
  std::vector<std::byte> piece(static_cast<size_t>(piece_rows * row_bytes));
  for (int64_t begin = 0; begin < values.rows; begin += piece_rows) {
    const int64_t count = std::min(piece_rows, values.rows - begin);
    parallel_for_ranges(count, 16, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        convert_row(tensor.spec, row_begin + begin + row, values.row(begin + row), values.cols,
                    piece.data() + row * row_bytes);
    });
    write_part(name, (row_begin + begin) * row_bytes,
               std::span(piece).first(static_cast<size_t>(count * row_bytes)));
  }
}

void AscendV1Writer::write_f32(const std::string& name, MatView<const float> values) {
  const OutputTensor& tensor = find(name);
  LAOS_ASSERT(tensor.label.empty() && tensor.spec.dtype == DType::kF32);
  LAOS_ASSERT((tensor.spec.shape == Shape{values.rows, values.cols}) &&
              values.stride == values.cols);
  write_part(name, 0,
             std::as_bytes(std::span(values.data, static_cast<size_t>(values.rows * values.cols))));
}

void AscendV1Writer::write_global_rotation(MatView<const float> rotation) {
  LAOS_ASSERT(rotation_ != nullptr && rotation.rows == job_.global_rotation &&
              rotation.cols == rotation.rows && rotation.stride == rotation.cols);
  rotation_->write(
      kRotationTensor,
      std::as_bytes(std::span(rotation.data, static_cast<size_t>(rotation.rows * rotation.cols))));
}

void AscendV1Writer::write_linear(const std::string& linear_name, const quant::IntWeight& weight,
                                  const quant::StaticRange* input, const Mat<float>& bias) {
  const std::string weight_name = linear_name + ".weight";
  const scheme::Scheme& scheme = *scheme::find(find(weight_name).label);
  const int64_t rows = weight.q.rows(), cols = weight.q.cols();
  LAOS_ASSERT((scheme.activations == scheme::Activations::kStatic) == (input != nullptr));
  for (const float scale : weight.scale) LAOS_ASSERT(std::isfinite(scale) && scale > 0);
  if (scheme.weight_bits == 4) {
    const auto [low, high] = std::minmax_element(weight.q.data(), weight.q.data() + rows * cols);
    LAOS_ASSERT(rows * cols == 0 || (*low >= -8 && *high <= 7));
  }
  const auto write = [&](const char* suffix, const auto& values) {
    const auto bytes = std::as_bytes(std::span(values.data(), static_cast<size_t>(values.size())));
    LAOS_ASSERT(std::ssize(bytes) == find(linear_name + suffix).spec.size_bytes());
    write_part(linear_name + suffix, 0, bytes);
  };
  if (scheme.packs_rows())
    write(".weight", packed_rows(weight.q));
  else
    write(".weight", weight.q);
  if (input != nullptr) {
    const quant::StaticParts parts = quant::static_parts(
        weight, *input, std::span(bias.data(), static_cast<size_t>(bias.size())));
    write(".input_scale", std::vector<float>{input->scale});
    write(".input_offset", std::vector<float>{input->offset});
    if (find(linear_name + ".deq_scale").spec.dtype == DType::kI64) {
      std::vector<int64_t> bits;
      for (const float scale : parts.deq_scale) bits.push_back(std::bit_cast<uint32_t>(scale));
      write(".deq_scale", bits);
    } else {
      write(".deq_scale", parts.deq_scale);
    }
    write(".quant_bias", parts.quant_bias);
    return;
  }
  write(".weight_scale", weight.scale);
  write(".weight_offset", std::vector<float>(weight.scale.size(), 0.0f));
  if (scheme.packs_rows()) write(".scale_bias", scale_bias(weight, hf::num_slices(linear_name)));
}

void AscendV1Writer::commit() {
  LAOS_ASSERT(work_ != nullptr && layer_ == nullptr);  // once only
  const fs::path& staging = work_->directory();
  const fs::path& save_path = work_->save_path();

  // In order of appearance; the description is not among them in the end: it comes last of all.
  std::vector<std::string> names;
  weights_->commit();
  for (const io::ShardPlan::Shard& shard : weights_->plan().shards)
    names.push_back(shard.file_name);
  if (job_.max_shard_bytes > 0) {
    io::write_text_atomically(staging / hf::kAscendV1IndexFile, weights_->index_json());
    names.emplace_back(hf::kAscendV1IndexFile);
  }
  for (const std::string& name : copied_files(job_.model_directory)) {
    io::write_text_atomically(staging / name,
                              io::read_text(job_.model_directory / name, kMaxCopyBytes));
    names.push_back(name);
  }
  io::write_text_atomically(staging / kConfigFile, read_exported_config(job_));
  names.emplace_back(kConfigFile);
  io::write_text_atomically(staging / recipe_file(job_.model_type), job_.recipe_yaml);
  names.push_back(recipe_file(job_.model_type));
  if (rotation_) {
    rotation_->commit();
    names.emplace_back(kRotationFile);
  }
  io::write_text_atomically(staging / hf::kDescriptionFile, description_json(job_));
  names.emplace_back(hf::kDescriptionFile);
  io::write_text_atomically(staging / kManifestFile, manifest_of(staging, names));
  names.back() = kManifestFile;

  check_no_foreign_weights(save_path);
  work_->keep_save_path();
  remove_file(save_path / hf::kDescriptionFile);
  sync_directory(save_path);
  remove_file(save_path / kManifestFile);
  for (const fs::path& file : hf::top_level_safetensors(save_path)) remove_file(file);
  remove_file(save_path / hf::kAscendV1IndexFile);
  remove_file(save_path / kRotationFile);
  if (rotation_) {
    std::error_code error;
    fs::create_directory(save_path / kOptionalDirectory, error);
    if (error)
      fail_io("cannot create the directory", save_path / kOptionalDirectory, error.value());
  }

  for (const std::string& name : names) rename_file(staging / name, save_path / name);
  if (rotation_) sync_directory(save_path / kOptionalDirectory);
  sync_directory(save_path);
  rename_file(staging / hf::kDescriptionFile, save_path / hf::kDescriptionFile);
  sync_directory(save_path);
  weights_.reset();
  rotation_.reset();
  work_->finish_all();
  work_.reset();
}

}  // namespace laos::save
