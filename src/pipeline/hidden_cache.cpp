#include "pipeline/hidden_cache.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "io/checksum.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "pipeline/identity.h"

namespace laos::pipeline {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "hidden-";
constexpr const char* kSuffix = ".safetensors";
// Tensors of a file.
constexpr const char* kRows = "rows";          // F32 [num_scored, hidden_size]
constexpr const char* kIdentity = "identity";  // U8, text: what the rows depend on
constexpr const char* kChecksum = "checksum";  // U8 [64], SHA-256 of rows

std::string checksum_of(const eval::Windows& windows) {
  io::Sha256 sum;
  for (const eval::Window& window : windows) {
    const int64_t sizes[] = {std::ssize(window.ids), window.num_context};
    sum.update(std::as_bytes(std::span(sizes)));
    sum.update(std::as_bytes(std::span(window.ids)));
  }
  return sum.hex();
}

std::string identity_of(const fs::path& directory, const eval::Windows& windows) {
  std::map<std::string, std::string> identity = program_identity();
  add_model_files(directory, /*is_copy=*/false, identity);
  identity["windows"] = std::to_string(windows.size()) + ", sha256 " + checksum_of(windows);
  std::string text;
  for (const auto& [key, value] : identity) text += key + ": " + value + "\n";
  return text;
}

std::string checksum_of(const Mat<float>& rows) {
  io::Sha256 sum;
  sum.update(std::as_bytes(std::span(rows.data(), static_cast<size_t>(rows.size()))));
  return sum.hex();
}

std::string text_of(const TensorView& tensor) {
  return {reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.size_bytes())};
}

// The rows of `file`. Throws Error(kFormat) when it is not whole or not of `identity`.
Mat<float> read(const fs::path& file, const std::string& identity, int64_t num_rows, int64_t cols) {
  const io::TensorFiles files = io::TensorFiles::open_files({file});
  const TensorView &rows = files.at(kRows), &stored = files.at(kIdentity),
                   &checksum = files.at(kChecksum);
  const auto refuse = [&](const char* what) {
    throw Error(ErrorCode::kFormat, {.what = what, .where = file.string(), .fix = ""});
  };
  if (text_of(stored) != identity) refuse("it belongs to something else");
  if (rows.dtype != DType::kF32 || rows.shape != Shape{num_rows, cols})
    refuse("its rows have another shape");
  Mat<float> result = to_f32(rows);
  if (text_of(checksum) != checksum_of(result)) refuse("its checksum does not fit");
  return result;
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

void write(const fs::path& file, const std::string& identity, const Mat<float>& rows) {
  const std::string checksum = checksum_of(rows);
  const auto text_spec = [](const char* name, const std::string& text) {
    return io::TensorSpec{.name = name, .dtype = DType::kU8, .shape = {std::ssize(text)}};
  };
  io::ShardedWriter writer(
      file.parent_path(),
      io::plan_shards({{.name = kRows, .dtype = DType::kF32, .shape = {rows.rows(), rows.cols()}},
                       text_spec(kIdentity, identity),
                       text_spec(kChecksum, checksum)},
                      file.stem().string(), 0));
  writer.write(kRows, std::as_bytes(std::span(rows.data(), static_cast<size_t>(rows.size()))));
  writer.write(kIdentity, bytes_of(identity));
  writer.write(kChecksum, bytes_of(checksum));
  writer.commit();
}

// Removes the files longest unused until `bytes` more fit into `max_bytes`.
void make_room(const fs::path& directory, int64_t bytes, int64_t max_bytes) {
  struct Entry {
    fs::file_time_type used;
    fs::path path;
    int64_t size;
  };
  std::vector<Entry> entries;
  int64_t total = bytes;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix) || !entry.is_regular_file())
      continue;
    entries.push_back(
        {entry.last_write_time(), entry.path(), static_cast<int64_t>(entry.file_size())});
    total += entries.back().size;
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.used != b.used ? a.used < b.used : a.path < b.path;
  });
  for (const Entry& entry : entries) {
    if (total <= max_bytes) return;
    std::error_code ignored;  // another process may be faster
    fs::remove(entry.path, ignored);
    total -= entry.size;
  }
}

}  // namespace

fs::path default_cache_directory() {
  const auto value = [](const char* name) -> std::string {
    const char* text = std::getenv(name);
    return text == nullptr ? "" : text;
  };
  if (const std::string own = value("LAOS_CACHE_DIR"); !own.empty()) return own;
  if (const std::string cache = value("XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "laos";
  if (const std::string home = value("HOME"); !home.empty())
    return fs::path(home) / ".cache" / "laos";
  return {};
}

HiddenCache::Result HiddenCache::scored_hidden(const eval::EvalModel& model,
                                               const fs::path& directory,
                                               const eval::Windows& windows,
                                               const eval::LayersDone& progress) const {
  const std::string identity = identity_of(directory, windows);
  const fs::path file =
      options_.directory / (kPrefix + io::sha256(identity).substr(0, 32) + kSuffix);
  const int64_t num_rows = eval::num_scored(windows), cols = model.config().hidden_size;
  Result result;
  if (std::error_code error; fs::exists(file, error)) {
    try {
      result.hidden = {read(file, identity, num_rows, cols), model.lm_head()};
      result.found = true;
      fs::last_write_time(file, fs::file_time_type::clock::now(), error);  // used now
      return result;
    } catch (const Error& problem) {
      result.problem = problem.problems().front().what;
    }
  }
  result.hidden = eval::scored_hidden(model, windows, progress);
  const int64_t bytes = 4 * num_rows * cols;
  if (bytes > options_.max_bytes) {
    result.problem = "it is larger than the cache may be";
    return result;
  }
  try {
    fs::create_directories(options_.directory);
    make_room(options_.directory, bytes, options_.max_bytes);
    write(file, identity, result.hidden.rows);
  } catch (const Error& problem) {
    result.problem = problem.problems().front().what;
  } catch (const fs::filesystem_error& problem) {
    result.problem = problem.code().message();
  }
  return result;
}

}  // namespace laos::pipeline
