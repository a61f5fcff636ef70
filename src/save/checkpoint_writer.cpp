#include "save/checkpoint_writer.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <map>
#include <set>
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
constexpr const char* kTemplatesDirectory = "additional_chat_templates";  // transformers' name

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

// Whether `path` is a file of this model. Throws Error(kIo) for a link to elsewhere.
bool is_file_of_model(const fs::path& path, const fs::path& model_directory) {
  std::error_code error;
  const bool is_other = fs::exists(path, error) && !fs::is_regular_file(path, error);
  if (!is_other) io::require_own_file(path, model_directory);
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

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> paths;
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error))
    paths.push_back(entries->path());
  if (error) fail_io("cannot list the model directory", directory, error.value());
  return paths;
}

// Names of the files that go with the weights unchanged, sorted: tokenizer, configuration, code. An
// index of the float shards does not, since it names files that are not there.
std::vector<std::string> copied_files(const fs::path& model_directory) {
  std::vector<std::string> names;
  for (const fs::path& path : entries_of(model_directory)) {
    const std::string name = path.filename().string();
    const bool has_suffix = name.ends_with(".json") || name.ends_with(".py") ||
                            name.ends_with(".txt") || name.ends_with(".jinja");
    if (!has_suffix || name.ends_with("index.json")) continue;
    if (std::ranges::find(kNotCopied, name) != kNotCopied.end()) continue;
    if (is_file_of_model(path, model_directory)) names.push_back(name);
  }
  std::error_code error;
  const fs::path templates = model_directory / kTemplatesDirectory;
  if (fs::is_directory(templates, error)) {
    io::require_own_file(templates);
    for (const fs::path& path : entries_of(templates))
      if (path.extension() == ".jinja" && is_file_of_model(path, model_directory))
        names.push_back((kTemplatesDirectory / path.filename()).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string config_text(const CheckpointJob& job) {
  const fs::path path = job.model_directory / kConfigFile;
  io::require_own_file(path);
  return exported_config(io::read_text(path, hf::kMaxConfigBytes), path, job);
}

// Files that an earlier run wrote here and this one does not: readers would take them for this
// one's, as the chat template of another model.
void remove_older(const fs::path& save_path, const std::vector<std::string>& names) {
  std::error_code ignored;
  for (const std::string& name : names_in_manifest(save_path)) {
    const fs::path file = save_path / name, inner = fs::path(name).parent_path();
    if (std::ranges::find(names, name) != names.end() ||
        !fs::is_regular_file(fs::symlink_status(file, ignored)) ||
        (!inner.empty() && fs::is_symlink(fs::symlink_status(save_path / inner, ignored))))
      continue;
    remove_file(file);
    if (!inner.empty()) fs::remove(save_path / inner, ignored);  // if empty
  }
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
                 "--model-type", "write for example Qwen3-8B");
}

// Below the output directory, that files of these names stand in.
std::set<fs::path> directories_of(const std::vector<std::string>& names) {
  std::set<fs::path> directories;
  for (const fs::path name : names)
    if (name.has_parent_path()) directories.insert(name.parent_path());
  return directories;
}

void make_directory(const fs::path& path) {
  std::error_code error;
  fs::create_directory(path, error);
  if (error) fail_io("cannot create the directory", path, error.value());
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

int64_t planned_bytes_of_all(const CheckpointJob& job) {
  int64_t bytes = job.work.parts.empty() ? 0 : job.work.other_bytes;
  for (const CheckpointJob* each : all_jobs(job)) {
    bytes += planned_bytes(*each);
    if (job.work.parts.empty()) continue;
    // Each tensor once more, and its place in a header.
    for (const OutputTensor& tensor : each->tensors)
      if (tensor.layer_idx >= 0)
        bytes += tensor.spec.size_bytes() + std::ssize(tensor.spec.name) + 100;
  }
  return bytes;
}

namespace {

// Of a directory beside others: it is put together there, and no part is kept.
WorkPlan staging_plan(const CheckpointJob& job) {
  WorkPlan plan;
  plan.restart = job.work.restart;
  return plan;
}

const fs::path& work_path(const CheckpointJob& job) {
  return job.work_path.empty() ? job.save_path : job.work_path;
}

// Throws what check_output_path does of one directory, but for the space on its disk.
void check_directory(const CheckpointJob& job, const WorkPlan& work) {
  check_model_type(job.model_type);
  if (job.save_path.empty())
    refuse_usage("the save path is empty", "--save-path", "name a directory");
  if (*job.save_path.begin() == "~")
    refuse_usage("the save path begins with ~, which the shell has not expanded", job.save_path,
                 "write the path out: a shell expands ~ only where a word begins with it");
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
  if (job.global_rotation > 0) names.emplace_back(kRotationFile);
  config_text(job);
  if (existing == save_path) {
    check_no_foreign_weights(save_path, *job.format);
    for (const std::string& name : names)
      if (fs::is_directory(save_path / name, error))
        refuse_usage("a directory is in the place of an output file", save_path / name,
                     "choose an empty directory");
    for (const fs::path& directory : directories_of(names))
      if (fs::exists(save_path / directory, error) &&
          !fs::is_directory(save_path / directory, error))
        refuse_usage("a file is in the place of an output directory", save_path / directory,
                     "choose an empty directory");
  }

  if (::access(existing.c_str(), W_OK | X_OK) != 0)
    fail_io("cannot write into the directory", existing, errno);
  check_work(save_path, work);
}

}  // namespace

void check_output_path(const CheckpointJob& job, int64_t bytes_needed) {
  const std::vector<const CheckpointJob*> jobs = all_jobs(job);
  const bool is_one = work_path(job) == job.save_path;
  int64_t kept_bytes = 0;
  for (const CheckpointJob* each : jobs) {
    check_directory(*each, is_one ? job.work : staging_plan(job));
    kept_bytes += work_bytes(each->save_path);
  }
  if (!is_one) {
    check_work(work_path(job), job.work);
    kept_bytes += work_bytes(work_path(job));
    const fs::path above = real_path(work_path(job));
    if (fs::exists(status_of(above)) && !hf::top_level_safetensors(above).empty())
      refuse_usage("each format gets a directory in the save path, which holds weights itself",
                   hf::top_level_safetensors(above).front(), "choose an empty directory");
  }
  const fs::path existing = nearest_existing(real_path(work_path(job)));
  std::error_code error;
  const fs::space_info space = fs::space(existing, error);
  if (error) return;
  const auto left_there = static_cast<uintmax_t>(kept_bytes);
  if (static_cast<uintmax_t>(std::max<int64_t>(bytes_needed, 0)) > space.available + left_there)
    throw Error(ErrorCode::kResource,
                {.what = "the output, and what is kept of the run until it is done, need " +
                         bytes_text(bytes_needed) + ", the disk has " +
                         bytes_text(static_cast<double>(space.available + left_there)) + " free",
                 .where = existing.string(),
                 .fix = "free disk space, or write to another disk"});
}

// --- the writer ----------------------------------------------------------------------------------

// One directory of a job. Its tensors stand in the files of finished layers with `prefix` before
// their names.
class CheckpointWriter::Directory {
 public:
  Directory(const CheckpointJob& job, std::string prefix) : job_(job), prefix_(std::move(prefix)) {
    for (size_t i = 0; i < job_.tensors.size(); ++i) {
      const OutputTensor& tensor = job_.tensors[i];
      const bool is_new = index_of_.emplace(tensor.spec.name, i).second;
      LAOS_ASSERT(is_new);
      if (!tensor.linear.empty()) label_of_[tensor.linear] = tensor.label;
    }
  }

  const CheckpointJob& job() const noexcept { return job_; }

  // From here on what is written goes into the checkpoint, which is put together beside the parts
  // of `work` or, where that is null, in a work directory of its own.
  void stage(WorkDirectory* work, const WorkPlan& own_plan) {
    if (work == nullptr) {
      own_work_ = std::make_unique<WorkDirectory>(job_.save_path, own_plan);
      work = own_work_.get();
    }
    work_ = work;
    weights_ = std::make_unique<io::ShardedWriter>(work_->directory(), shard_plan(job_));
    if (job_.global_rotation == 0) return;
    const fs::path directory = work_->directory() / kOptionalDirectory;
    make_directory(directory);
    rotation_ = std::make_unique<io::ShardedWriter>(directory, rotation_plan(job_));
  }

  // Appends the tensors of a layer as they stand in its file.
  void append_tensors_of(int64_t layer_idx, std::vector<io::TensorSpec>& specs) const {
    for (const OutputTensor& tensor : job_.tensors)
      if (tensor.layer_idx == layer_idx)
        specs.push_back({prefix_ + tensor.spec.name, tensor.spec.dtype, tensor.spec.shape});
  }
  // From here on what is written goes into this file as well; null: no longer.
  void set_layer(io::ShardedWriter* layer) noexcept { layer_ = layer; }
  // Writes what append_tensors_of names.
  void restore(int64_t layer_idx, const io::TensorFiles& files) {
    for (const OutputTensor& output : job_.tensors) {
      if (output.layer_idx != layer_idx) continue;
      const TensorView& tensor = files.at(prefix_ + output.spec.name);
      // Same identity, same tensors.
      LAOS_ASSERT(tensor.dtype == output.spec.dtype && tensor.shape == output.spec.shape);
      weights_->write(output.spec.name,
                      std::span(tensor.data, static_cast<size_t>(tensor.size_bytes())));
    }
  }

  void write_float_rows(const std::string& name, int64_t row_begin, MatView<const float> values);
  void write_f32(const std::string& name, MatView<const float> values);
  void write_as_is(const std::string& name, std::span<const std::byte> bytes) {
    LAOS_ASSERT(std::ssize(bytes) == find(name).spec.size_bytes());
    write_part(name, 0, bytes);
  }
  void write_cache_scales(const std::string& linear_name, std::span<const float> scales);
  void write_global_rotation(MatView<const float> rotation);
  void write_linear(const std::string& linear_name, const LinearValues& values);
  const Shape& shape_of(const std::string& name) const { return find(name).spec.shape; }

  // Writes and syncs all files where they are put together, in names_.
  void complete();
  // The files appear. Only after complete().
  void publish();
  // What publish() has made stays, and nothing else.
  void close() {
    weights_.reset();
    rotation_.reset();
    if (own_work_) own_work_->finish_all();
    own_work_.reset();
  }

 private:
  const OutputTensor& find(const std::string& name) const {
    const auto found = index_of_.find(name);
    LAOS_ASSERT(found != index_of_.end());
    return job_.tensors[found->second];
  }
  void write_part(const std::string& name, int64_t offset, std::span<const std::byte> bytes) {
    LAOS_ASSERT(weights_ || layer_ != nullptr);
    if (weights_) weights_->write_part(name, offset, bytes);
    if (layer_ != nullptr) layer_->write_part(prefix_ + name, offset, bytes);
  }

  const CheckpointJob& job_;
  std::string prefix_;
  WorkDirectory* work_ = nullptr;  // null in a process that joined
  std::unique_ptr<WorkDirectory> own_work_;
  // Destroyed before own_work_, whose directory they are in.
  std::unique_ptr<io::ShardedWriter> weights_;   // null in a process that joined
  std::unique_ptr<io::ShardedWriter> rotation_;  // null when the job has none
  io::ShardedWriter* layer_ = nullptr;
  std::map<std::string, size_t> index_of_;       // tensor name -> job_.tensors
  std::map<std::string, std::string> label_of_;  // quantized linear -> its scheme's
  std::vector<std::string> names_;               // of the files to publish, in order of appearance
};

void CheckpointWriter::Directory::write_float_rows(const std::string& name, int64_t row_begin,
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

void CheckpointWriter::Directory::write_f32(const std::string& name, MatView<const float> values) {
  const OutputTensor& tensor = find(name);
  LAOS_ASSERT(tensor.label.empty() && tensor.spec.dtype == DType::kF32);
  LAOS_ASSERT((tensor.spec.shape == Shape{values.rows, values.cols}) &&
              values.stride == values.cols);
  write_part(name, 0,
             std::as_bytes(std::span(values.data, static_cast<size_t>(values.rows * values.cols))));
}

void CheckpointWriter::Directory::write_cache_scales(const std::string& linear_name,
                                                     std::span<const float> scales) {
  const std::vector<float> offsets(scales.size(), 0.0f);
  for (const float scale : scales) LAOS_ASSERT(std::isfinite(scale) && scale > 0);
  for (const auto& [suffix, values] :
       {std::pair(hf::kCacheScaleSuffix, scales), {hf::kCacheOffsetSuffix, std::span(offsets)}}) {
    const std::string name = linear_name + "." + suffix;
    LAOS_ASSERT((find(name).spec.shape == Shape{std::ssize(values)}));
    write_part(name, 0, std::as_bytes(values));
  }
}

void CheckpointWriter::Directory::write_global_rotation(MatView<const float> rotation) {
  LAOS_ASSERT(rotation_ != nullptr && rotation.rows == job_.global_rotation &&
              rotation.cols == rotation.rows && rotation.stride == rotation.cols);
  rotation_->write(
      kRotationTensor,
      std::as_bytes(std::span(rotation.data, static_cast<size_t>(rotation.rows * rotation.cols))));
}

void CheckpointWriter::Directory::write_linear(const std::string& linear_name,
                                               const LinearValues& values) {
  const auto found = label_of_.find(linear_name);
  LAOS_ASSERT(found != label_of_.end());
  const scheme::Scheme& scheme = *scheme::find(found->second);
  const quant::IntWeight& weight = values.weight;
  const int64_t rows = weight.q.rows(), cols = weight.q.cols();
  LAOS_ASSERT((scheme.activations == scheme::Activations::kStatic) == (values.input != nullptr));
  LAOS_ASSERT(scheme.transforms == (values.transform != nullptr));
  LAOS_ASSERT(values.bias.empty() || std::ssize(values.bias) == rows);
  for (const float scale : weight.scale) LAOS_ASSERT(scheme.takes_scale(scale));
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
  job_.format->encode(values, {.name = linear_name,
                               .scheme = scheme,
                               .has = has,
                               .spec_of = spec_of,
                               .write_bytes = write});
}

void CheckpointWriter::Directory::complete() {
  const fs::path& staging = work_->directory();
  weights_->commit();
  for (const io::ShardPlan::Shard& shard : weights_->plan().shards)
    names_.push_back(shard.file_name);
  const fs::path index = job_.format->index_file();
  if (job_.max_shard_bytes > 0) {
    io::write_text_atomically(staging / index, weights_->index_json());
    names_.push_back(index.string());
  }
  const std::vector<std::string> copied = copied_files(job_.model_directory);
  for (const fs::path& directory : directories_of(copied)) make_directory(staging / directory);
  for (const std::string& name : copied) {
    io::write_text_atomically(staging / name,
                              io::read_text(job_.model_directory / name, kMaxCopyBytes));
    names_.push_back(name);
  }
  io::write_text_atomically(staging / kConfigFile, config_text(job_));
  names_.emplace_back(kConfigFile);
  io::write_text_atomically(staging / recipe_file(job_.model_type), job_.recipe_yaml);
  names_.push_back(recipe_file(job_.model_type));
  if (rotation_) {
    rotation_->commit();
    names_.emplace_back(kRotationFile);
  }
  for (const TextFile& file : job_.format->side_files(job_)) {
    io::write_text_atomically(staging / file.name, file.text);
    names_.push_back(file.name);
  }
  io::write_text_atomically(staging / kManifestFile, manifest_of(staging, names_));
  names_.emplace_back(kManifestFile);
  check_no_foreign_weights(work_->save_path(), *job_.format);
}

void CheckpointWriter::Directory::publish() {
  const fs::path &staging = work_->directory(), &save_path = work_->save_path();
  const fs::path index = job_.format->index_file(), mark = job_.format->mark_file();
  work_->keep_save_path();
  // Weights without a config.json would belong to nobody.
  if (mark == kConfigFile)
    io::write_text_atomically(save_path / mark, unfinished_config(*job_.format));
  else
    remove_file(save_path / mark);
  sync_directory(save_path);
  remove_older(save_path, names_);
  std::erase(names_, mark.string());  // comes last of all
  remove_file(save_path / kManifestFile);
  for (const fs::path& file : hf::top_level_safetensors(save_path)) remove_file(file);
  remove_file(save_path / index);
  remove_file(save_path / kRotationFile);
  const std::set<fs::path> directories = directories_of(names_);
  for (const fs::path& directory : directories) make_directory(save_path / directory);

  for (const std::string& name : names_) rename_file(staging / name, save_path / name);
  for (const fs::path& directory : directories) sync_directory(save_path / directory);
  sync_directory(save_path);
  rename_file(staging / mark, save_path / mark);
  sync_directory(save_path);
}

CheckpointWriter::CheckpointWriter(CheckpointJob job) : job_(std::move(job)) {
  check_output_path(job_, planned_bytes_of_all(job_));
  make_directories();
  work_ = std::make_unique<WorkDirectory>(work_path(job_), job_.work);
  for (const auto& directory : directories_)
    directory->stage(job_.work_path.empty() ? work_.get() : nullptr, staging_plan(job_));
}

CheckpointWriter::CheckpointWriter(CheckpointJob job, const std::string& state)
    : job_(std::move(job)), work_(WorkDirectory::join(work_path(job_), state)) {
  make_directories();
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::make_directories() {
  for (const CheckpointJob* each : all_jobs(job_))
    directories_.push_back(std::make_unique<Directory>(
        *each, directories_.empty() ? "" : std::string(each->format->name()) + "/"));
}

void CheckpointWriter::begin_layer(int64_t layer_idx) {
  LAOS_ASSERT(layer_ == nullptr);
  layer_idx_ = layer_idx;
  layer_ = std::make_unique<io::ShardedWriter>(
      work_->create(part_name(kLayerPart, layer_idx), tensors_of(layer_idx)));
  for (const auto& directory : directories_) directory->set_layer(layer_.get());
}

std::vector<io::TensorSpec> CheckpointWriter::tensors_of(int64_t layer_idx) const {
  std::vector<io::TensorSpec> specs;
  for (const auto& directory : directories_) directory->append_tensors_of(layer_idx, specs);
  return specs;
}

void CheckpointWriter::finish_layer(const std::string& note) {
  LAOS_ASSERT(layer_ != nullptr);
  for (const auto& directory : directories_) directory->set_layer(nullptr);
  work_->finish(part_name(kLayerPart, layer_idx_), std::move(*layer_), note);
  layer_.reset();
}

std::optional<std::string> CheckpointWriter::restore_layer(int64_t layer_idx) {
  const std::string part = part_name(kLayerPart, layer_idx);
  const std::string* note = work_->find(part);
  if (note == nullptr) return std::nullopt;
  const io::TensorFiles files = io::TensorFiles::open_files({work_->file_of(part)});
  LAOS_ASSERT(files.tensors().size() == tensors_of(layer_idx).size());
  for (const auto& directory : directories_) directory->restore(layer_idx, files);
  return *note;
}

void CheckpointWriter::write_float(const std::string& name, MatView<const float> values) {
  for (const auto& directory : directories_)
    LAOS_ASSERT(values.rows * values.cols == num_elements(directory->shape_of(name)));
  write_float_rows(name, 0, values);
}

void CheckpointWriter::write_float_rows(const std::string& name, int64_t row_begin,
                                        MatView<const float> values) {
  for (const auto& directory : directories_) directory->write_float_rows(name, row_begin, values);
}

void CheckpointWriter::write_f32(const std::string& name, MatView<const float> values) {
  for (const auto& directory : directories_) directory->write_f32(name, values);
}

void CheckpointWriter::write_as_is(const std::string& name, std::span<const std::byte> bytes) {
  for (const auto& directory : directories_) directory->write_as_is(name, bytes);
}

void CheckpointWriter::write_cache_scales(const std::string& linear_name,
                                          std::span<const float> scales) {
  for (const auto& directory : directories_) directory->write_cache_scales(linear_name, scales);
}

void CheckpointWriter::write_global_rotation(MatView<const float> rotation) {
  for (const auto& directory : directories_) directory->write_global_rotation(rotation);
}

void CheckpointWriter::write_linear(const std::string& linear_name, const quant::IntWeight& weight,
                                    const quant::StaticRange* input, std::span<const float> bias,
                                    const InputTransform* transform) {
  for (const auto& directory : directories_)
    directory->write_linear(
        linear_name, {.weight = weight, .input = input, .bias = bias, .transform = transform});
}

void CheckpointWriter::commit() {
  LAOS_ASSERT(work_ != nullptr && layer_ == nullptr);  // once only
  for (const auto& directory : directories_) directory->complete();
  // Stopped from here on, the next run finds all parts and makes every directory appear.
  for (const auto& directory : directories_) directory->publish();
  for (const auto& directory : directories_) directory->close();
  work_->finish_all();
  work_.reset();
}

}  // namespace laos::save
