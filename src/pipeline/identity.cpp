#include "pipeline/identity.h"

#include <algorithm>
#include <system_error>

#include "core/isa.h"
#include "io/checksum.h"
#include "io/file.h"
#include "linalg/onednn.h"

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
  io::Sha256 sum;
  for (const std::vector<int32_t>& sample : samples) {
    const int64_t size = std::ssize(sample);
    sum.update(std::as_bytes(std::span(&size, 1)));
    sum.update(std::as_bytes(std::span(sample)));
  }
  return std::to_string(samples.size()) + " samples, sha256 " + sum.hex();
}

}  // namespace

Identity program_identity() {
  return {{"program", program()},
          {"instruction set", active_isa_name() + ", " + linalg::onednn_description()}};
}

// Copies differ in their times of change; their ends are compared instead.
void add_model_files(const fs::path& directory, bool is_copy, Identity& identity) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code skipped;  // a link to nothing, a pipe: not part of the model
    if (!fs::is_regular_file(entry->path(), skipped)) continue;
    const fs::path& path = entry->path();
    const auto changed = fs::last_write_time(path, error).time_since_epoch().count();
    if (error) break;
    std::string& text = identity["model file " + path.filename().string()];
    text = std::to_string(fs::file_size(path, error)) + " bytes, sha256 of the first MiB " +
           io::sha256(io::read_head(path, kHeadBytes));
    if (is_copy)
      text += ", of the last " + io::sha256(io::read_tail(path, kHeadBytes));
    else
      text += ", changed " + std::to_string(changed);
  }
  if (error)
    throw Error(ErrorCode::kIo, {.what = "cannot look at the model's files: " + error.message(),
                                 .where = directory.string(),
                                 .fix = "check the path and its permissions"});
}

save::WorkPlan work_plan(const Plan& plan) {
  save::WorkPlan work;
  work.restart = plan.options.restart;
  work.parts[kLayerPart] = plan.checkpoint.config().num_hidden_layers;
  if (!plan.fits.empty()) work.parts[kRotationPart] = std::ssize(plan.fits);
  const int64_t hidden_size = plan.checkpoint.config().hidden_size;
  int64_t tokens = 0;
  for (const std::vector<int32_t>& sample : *plan.samples) tokens += std::ssize(sample);
  work.other_bytes =
      std::ssize(plan.fits) * (4 * hidden_size * hidden_size + 4096) +
      int64_t{2} * 4 * tokens * hidden_size;  // the states of two layers for a moment
  if (plan.options.scratch_path.empty()) work.other_bytes += scratch_bytes(plan);

  work.identity = program_identity();
  work.identity["recipe"] = "sha256 " + io::sha256(plan.recipe.yaml);
  work.identity["model type"] = plan.options.model_type;
  work.identity["compute dtype"] =
      plan.options.compute == linalg::ComputeType::kBf16 ? "bf16" : "f32";
  work.identity["seed"] = std::to_string(plan.options.seed);
  for (size_t i = 0; i < plan.fits.size(); ++i)
    work.identity["calibration data of stage " + std::to_string(i + 1)] =
        checksum_of(*plan.fits[i].samples);
  work.identity["calibration data"] = checksum_of(*plan.samples);
  add_model_files(plan.options.model_path, plan.options.local_model, work.identity);
  return work;
}

}  // namespace laos::pipeline
