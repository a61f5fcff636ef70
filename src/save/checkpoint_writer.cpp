#include "save/checkpoint_writer.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/threads.h"
#include "core/units.h"
#include "hf/ascendv1.h"
#include "hf/config.h"
#include "hf/json_file.h"
#include "io/file.h"
#include "io/own_file.h"
#include "save/format.h"
#include "save/manifest.h"
#include "save/paths.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxCopyBytes = int64_t{256} << 20;
constexpr int64_t kPieceBytes = int64_t{16} << 20;  // of converted floats in memory at a time

constexpr const char* kLayerPart = "layer";
constexpr const char* kOptionalDirectory = "optional";
constexpr const char* kRotationStem = "quarot";

[[noreturn]] void refuse_usage(const std::string& what, const fs::path& where,
                               const std::string& fix) {
  throw Error(ErrorCode::kUsage, {.what = what, .where = where.string(), .fix = fix});
}

std::string recipe_file(const std::string& model_type) {
  return model_type + "_best_practice.yaml";
}

io::ShardPlan rotation_plan(const CheckpointJob& job) {
  return io::plan_shards(
      {{kRotationTensor, DType::kF32, {job.global_rotation, job.global_rotation}}}, kRotationStem,
      0);
}

io::ShardPlan shard_plan(const CheckpointJob& job) {
  std::vector<io::TensorSpec> specs;
  specs.reserve(job.tensors.size());
  for (const OutputTensor& tensor : job.tensors) specs.push_back(tensor.spec);
  return io::plan_shards(specs, std::string(job.format->weights_stem()), job.max_shard_bytes);
}

// --- the model directory -------------------------------------------------------------------------

// Whether the directory entry is a file of this model. Throws Error(kIo) for a link to elsewhere.
bool is_file_of_model(const fs::path& path) {
  std::error_code error;
  const bool is_other = fs::exists(path, error) && !fs::is_regular_file(path, error);
  if (!is_other) io::require_own_file(path);
  return !is_other;
}

// Files of the model directory that stay behind: config.json is written and not copied, the others
// tell how other weights are quantized, adapted or what came of it, and readers believe them.
constexpr std::array<std::string_view, 8> kNotCopied = {kConfigFile,
                                                        hf::kDescriptionFile,
                                                        "adapter_config.json",
                                                        "quantize_config.json",
                                                        "hf_quant_config.json",
                                                        "quant_config.json",
                                                        "run.json",
                                                        "check.json"};

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
    if (std::ranges::find(kNotCopied, name) != kNotCopied.end()) continue;
    if (is_file_of_model(entries->path())) names.push_back(name);
  }
  if (error) fail_io("cannot list the model directory", model_directory, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

std::string config_text(const CheckpointJob& job) {
  const fs::path path = job.model_directory / kConfigFile;
  io::require_own_file(path);
  return exported_config(io::read_text(path, hf::kMaxConfigBytes), path, job);
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

void check_no_foreign_weights(const fs::path& save_path, const Format& format) {
  for (const fs::path& file : hf::top_level_safetensors(save_path))
    if (!format.owns(file))
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

}  // namespace

// --- checks before the work ----------------------------------------------------------------------

int64_t planned_bytes(const CheckpointJob& job) {
  const io::ShardPlan plan = shard_plan(job);
  int64_t bytes = plan.file_bytes() + std::ssize(job.recipe_yaml) + std::ssize(config_text(job));
  for (const TextFile& file : job.format->side_files(job)) bytes += std::ssize(file.text);
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

int64_t planned_work_bytes(const CheckpointJob& job) {
  int64_t bytes = job.work.other_bytes;  // then each tensor once more, and its place in a header
  for (const OutputTensor& tensor : job.tensors)
    if (tensor.spec.name.starts_with("model.layers."))
      bytes += tensor.spec.size_bytes() + std::ssize(tensor.spec.name) + 100;
  return job.work.parts.empty() ? 0 : bytes;
}

void check_output_path(const CheckpointJob& job, int64_t bytes_needed) {
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
  names.insert(names.end(), {kConfigFile, kManifestFile, std::string(job.format->mark_file()),
                             std::string(job.format->index_file()), recipe_file(job.model_type)});
  config_text(job);
  if (existing == save_path) {
    check_no_foreign_weights(save_path, *job.format);
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

CheckpointWriter::CheckpointWriter(CheckpointJob job) : job_(std::move(job)) {
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

CheckpointWriter::CheckpointWriter(CheckpointJob job, const std::string& state)
    : job_(std::move(job)), work_(WorkDirectory::join(job_.save_path, state)) {
  index_tensors();
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::index_tensors() {
  for (size_t i = 0; i < job_.tensors.size(); ++i) {
    const bool is_new = index_of_.emplace(job_.tensors[i].spec.name, i).second;
    LAOS_ASSERT(is_new);
    if (!job_.tensors[i].linear.empty()) label_of_[job_.tensors[i].linear] = job_.tensors[i].label;
  }
}

std::vector<io::TensorSpec> CheckpointWriter::tensors_of(int64_t layer_idx) const {
  const std::string prefix = "model.layers." + std::to_string(layer_idx) + ".";
  std::vector<io::TensorSpec> specs;
  for (const OutputTensor& tensor : job_.tensors)
    if (tensor.spec.name.starts_with(prefix)) specs.push_back(tensor.spec);
  return specs;
}

void CheckpointWriter::write_part(const std::string& name, int64_t offset,
                                  std::span<const std::byte> bytes) {
  LAOS_ASSERT(weights_ || layer_);
  if (weights_) weights_->write_part(name, offset, bytes);
  if (layer_) layer_->write_part(name, offset, bytes);
}

void CheckpointWriter::begin_layer(int64_t layer_idx) {
  LAOS_ASSERT(layer_ == nullptr);
  layer_idx_ = layer_idx;
  layer_ = std::make_unique<io::ShardedWriter>(
      work_->create(part_name(kLayerPart, layer_idx), tensors_of(layer_idx)));
}

void CheckpointWriter::finish_layer(const std::string& note) {
  LAOS_ASSERT(layer_ != nullptr);
  work_->finish(part_name(kLayerPart, layer_idx_), std::move(*layer_), note);
  layer_.reset();
}

std::optional<std::string> CheckpointWriter::restore_layer(int64_t layer_idx) {
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

const OutputTensor& CheckpointWriter::find(const std::string& name) const {
  const auto found = index_of_.find(name);
  LAOS_ASSERT(found != index_of_.end());
  return job_.tensors[found->second];
}

void CheckpointWriter::write_float(const std::string& name, MatView<const float> values) {
  LAOS_ASSERT(values.rows * values.cols == num_elements(find(name).spec.shape));
  write_float_rows(name, 0, values);
}

void CheckpointWriter::write_float_rows(const std::string& name, int64_t row_begin,
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
        convert_row(name, tensor.spec.dtype, row_begin + begin + row, values.row(begin + row),
                    values.cols, piece.data() + row * row_bytes);
    });
    write_part(name, (row_begin + begin) * row_bytes,
               std::span(piece).first(static_cast<size_t>(count * row_bytes)));
  }
}

void CheckpointWriter::write_f32(const std::string& name, MatView<const float> values) {
  const OutputTensor& tensor = find(name);
  LAOS_ASSERT(tensor.label.empty() && tensor.spec.dtype == DType::kF32);
  LAOS_ASSERT((tensor.spec.shape == Shape{values.rows, values.cols}) &&
              values.stride == values.cols);
  write_part(name, 0,
             std::as_bytes(std::span(values.data, static_cast<size_t>(values.rows * values.cols))));
}

void CheckpointWriter::write_global_rotation(MatView<const float> rotation) {
  LAOS_ASSERT(rotation_ != nullptr && rotation.rows == job_.global_rotation &&
              rotation.cols == rotation.rows && rotation.stride == rotation.cols);
  rotation_->write(
      kRotationTensor,
      std::as_bytes(std::span(rotation.data, static_cast<size_t>(rotation.rows * rotation.cols))));
}

void CheckpointWriter::write_linear(const std::string& linear_name, const quant::IntWeight& weight,
                                    const quant::StaticRange* input, std::span<const float> bias) {
  const auto found = label_of_.find(linear_name);
  LAOS_ASSERT(found != label_of_.end());
  const scheme::Scheme& scheme = *scheme::find(found->second);
  const int64_t rows = weight.q.rows(), cols = weight.q.cols();
  LAOS_ASSERT((scheme.activations == scheme::Activations::kStatic) == (input != nullptr));
  LAOS_ASSERT(bias.empty() || std::ssize(bias) == rows);
  for (const float scale : weight.scale) LAOS_ASSERT(std::isfinite(scale) && scale > 0);
  if (scheme.weight_bits == 4) {
    const auto [low, high] = std::minmax_element(weight.q.data(), weight.q.data() + rows * cols);
    LAOS_ASSERT(rows * cols == 0 || (*low >= -8 && *high <= 7));
  }
  const auto spec_of = [&](const std::string& suffix) -> const io::TensorSpec& {
    return find(linear_name + "." + suffix).spec;
  };
  const auto has = [&](const std::string& suffix) {
    return index_of_.contains(linear_name + "." + suffix);
  };
  const auto write = [&](const std::string& suffix, std::span<const std::byte> bytes) {
    LAOS_ASSERT(std::ssize(bytes) == spec_of(suffix).size_bytes());
    write_part(linear_name + "." + suffix, 0, bytes);
  };
  job_.format->encode({.weight = weight, .input = input, .bias = bias}, {.name = linear_name,
                                                                         .scheme = scheme,
                                                                         .has = has,
                                                                         .spec_of = spec_of,
                                                                         .write_bytes = write});
}

void CheckpointWriter::commit() {
  LAOS_ASSERT(work_ != nullptr && layer_ == nullptr);  // once only
  const fs::path& staging = work_->directory();
  const fs::path& save_path = work_->save_path();

  // In order of appearance.
  std::vector<std::string> names;
  weights_->commit();
  for (const io::ShardPlan::Shard& shard : weights_->plan().shards)
    names.push_back(shard.file_name);
  const fs::path index = job_.format->index_file(), mark = job_.format->mark_file();
  if (job_.max_shard_bytes > 0) {
    io::write_text_atomically(staging / index, weights_->index_json());
    names.push_back(index.string());
  }
  for (const std::string& name : copied_files(job_.model_directory)) {
    io::write_text_atomically(staging / name,
                              io::read_text(job_.model_directory / name, kMaxCopyBytes));
    names.push_back(name);
  }
  io::write_text_atomically(staging / kConfigFile, config_text(job_));
  names.emplace_back(kConfigFile);
  io::write_text_atomically(staging / recipe_file(job_.model_type), job_.recipe_yaml);
  names.push_back(recipe_file(job_.model_type));
  if (rotation_) {
    rotation_->commit();
    names.emplace_back(kRotationFile);
  }
  for (const TextFile& file : job_.format->side_files(job_)) {
    io::write_text_atomically(staging / file.name, file.text);
    names.push_back(file.name);
  }
  io::write_text_atomically(staging / kManifestFile, manifest_of(staging, names));
  std::erase(names, mark.string());  // comes last of all
  names.emplace_back(kManifestFile);

  check_no_foreign_weights(save_path, *job_.format);
  work_->keep_save_path();
  remove_file(save_path / mark);
  sync_directory(save_path);
  remove_file(save_path / kManifestFile);
  for (const fs::path& file : hf::top_level_safetensors(save_path)) remove_file(file);
  remove_file(save_path / index);
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
  rename_file(staging / mark, save_path / mark);
  sync_directory(save_path);
  weights_.reset();
  rotation_.reset();
  work_->finish_all();
  work_.reset();
}

}  // namespace laos::save
