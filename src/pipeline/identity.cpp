#include "pipeline/identity.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "core/isa.h"
#include "core/threads.h"
#include "io/checksum.h"
#include "io/file.h"
#include "linalg/onednn.h"
#include "pipeline/division.h"
#include "pipeline/float_pass.h"

namespace laos::pipeline {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kHeadBytes = int64_t{1} << 20;

// The executable itself: a program built again may round differently under the same version.
const std::string& program() {
  static const std::string text =
      std::string("laos ") + LAOS_VERSION + ", sha256 " + io::sha256_of_file("/proc/self/exe");
  return text;
}

std::string checksum_of(const Samples& samples) {
  return std::to_string(samples.size()) + " samples, sha256 " + sha256_of(samples);
}

}  // namespace

std::string sha256_of(const Samples& samples) {
  io::Sha256 sum;
  for (const std::vector<int32_t>& sample : samples) {
    const int64_t size = std::ssize(sample);
    sum.update(std::as_bytes(std::span(&size, 1)));
    sum.update(std::as_bytes(std::span(sample)));
  }
  return sum.hex();
}

Identity program_identity() {
  return {{"program", program()},
          {"instruction set", active_isa_name() + ", " + linalg::onednn_description()}};
}

namespace {

// Regular files and links to them, by name.
std::vector<fs::path> files_of(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code skipped;  // a link to nothing, a pipe: not part of the model
    if (fs::is_regular_file(entry->path(), skipped)) files.push_back(entry->path());
  }
  if (error)
    throw Error(ErrorCode::kIo, {.what = "cannot look at the model's files: " + error.message(),
                                 .where = directory.string(),
                                 .fix = "check the path and its permissions"});
  std::sort(files.begin(), files.end());
  return files;
}

struct stat look_at(const fs::path& path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0)
    throw Error(ErrorCode::kIo,
                {.what = "cannot look at the file: " + std::generic_category().message(errno),
                 .where = path.string(),
                 .fix = "check the path and its permissions"});
  return status;
}

std::string name_of(const fs::path& file) { return "model file " + file.filename().string(); }

std::string text_of(const timespec& time) {
  return std::to_string(time.tv_sec) + " s, " + std::to_string(time.tv_nsec) + " ns";
}

// A file that was written to since looks otherwise, even where its time was set back.
std::string stamp_of(const struct stat& status) {
  return std::to_string(status.st_size) + " bytes, inode " + std::to_string(status.st_ino) +
         ", modified " + text_of(status.st_mtim) + ", changed " + text_of(status.st_ctim);
}

}  // namespace

// Copies differ in their times of change; their ends are compared instead.
void add_model_files(const fs::path& directory, bool is_copy, Identity& identity) {
  for (const fs::path& path : files_of(directory)) {
    const struct stat status = look_at(path);
    std::string& text = identity[name_of(path)];
    text = std::to_string(status.st_size) + " bytes, sha256 of the first MiB " +
           io::sha256(io::read_head(path, kHeadBytes));
    if (is_copy)
      text += ", of the last " + io::sha256(io::read_tail(path, kHeadBytes));
    else
      text += ", modified " + text_of(status.st_mtim);
  }
}

void add_model_content(const Plan& plan, save::WorkPlan& work, Progress* progress) {
  if (!work.stamps.empty()) return;
  const std::vector<fs::path> files = files_of(plan.options.model_path);
  const save::WorkStatus earlier =
      plan.options.restart ? save::WorkStatus{} : save::work_status(plan.options.save_path);
  std::vector<fs::path> unknown;
  for (const fs::path& file : files) {
    const std::string name = name_of(file), stamp = stamp_of(look_at(file));
    work.stamps[name] = stamp;
    const auto seen = earlier.stamps.find(name);
    const auto known = earlier.identity.find(name);
    if (seen != earlier.stamps.end() && seen->second == stamp && known != earlier.identity.end())
      work.identity[name] = known->second;
    else
      unknown.push_back(file);
  }
  if (unknown.empty()) return;
  if (progress != nullptr) progress->begin("read the model", std::ssize(unknown));
  // Some files at a time, a thread each.
  std::vector<std::string> sums(unknown.size());
  const int64_t at_once = std::max(1, num_threads());
  for (int64_t first = 0; first < std::ssize(unknown); first += at_once) {
    const int64_t count = std::min(at_once, std::ssize(unknown) - first);
    parallel_for(count, [&](int64_t i) {
      sums[static_cast<size_t>(first + i)] =
          io::sha256_of_file(unknown[static_cast<size_t>(first + i)]);
    });
    if (progress == nullptr) continue;
    progress->step(first + count, "");
    stop_if_asked(*progress);
  }
  for (size_t i = 0; i < unknown.size(); ++i)
    work.identity[name_of(unknown[i])] = "sha256 " + sums[i];
}

Identity plan_identity(const Plan& plan) {
  Identity identity = program_identity();
  identity["recipe"] = "sha256 " + io::sha256(plan.recipe.yaml);
  identity["compute dtype"] = linalg::to_string(plan.options.compute);
  identity["seed"] = std::to_string(plan.options.seed);
  for (size_t i = 0; i < plan.fits.size(); ++i)
    identity["calibration data of stage " + std::to_string(i + 1)] =
        checksum_of(*plan.fits[i].samples);
  identity["calibration data"] = checksum_of(*plan.samples);
  return identity;
}

save::WorkPlan work_plan(const Plan& plan) {
  save::WorkPlan work;
  work.restart = plan.options.restart;
  work.parts[kLayerPart] = plan.checkpoint.config().num_hidden_layers;
  if (!plan.fits.empty()) work.parts[kRotationPart] = std::ssize(plan.fits);
  const int64_t hidden_size = plan.checkpoint.config().hidden_size;
  const int64_t tokens = lengths_of(*plan.samples).num_tokens();
  work.other_bytes =
      std::ssize(plan.fits) * (4 * hidden_size * hidden_size + 4096) +
      int64_t{2} * 4 * tokens * hidden_size;  // the states of two layers for a moment
  if (plan.options.scratch_path.empty()) work.other_bytes += scratch_bytes(plan);

  work.identity = plan_identity(plan);
  return work;
}

}  // namespace laos::pipeline
