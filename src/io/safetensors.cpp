#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "core/collapse.h"
#include "core/error.h"
#include "io/large_json.h"
#include "io/lfs.h"
#include "io/own_file.h"
#include "io/paged_memory.h"

namespace laos::io {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxJsonBytes = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxTensors = 1'000'000;  // of one header or index; the largest known have 100,000
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxDims = 8;
constexpr int64_t kPrefixBytes = 8;  // the header's length, little-endian

const char* const kDownloadAgain = "the file is damaged: download or convert it again";

// A name out of a file, fit for a terminal: control characters escaped, and not endless.
std::string printable(const std::string& name) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (const char c : name) {
    if (text.size() >= 200) return text + "...";
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f)
      text += c;
    else
      text += std::string("\\x") + kHex[byte >> 4] + kHex[byte & 15];
  }
  return text;
}

// What is wrong with a set of files.
class Findings {
 public:
  void add(ErrorCode code, Problem problem) {
    if (count() == 0 || code == ErrorCode::kIo) code_ = code;
    problems_.add(std::move(problem));
  }
  void add_format(std::string what, std::string where, std::string fix = kDownloadAgain) {
    add(ErrorCode::kFormat,
        {.what = std::move(what), .where = std::move(where), .fix = std::move(fix)});
  }
  int64_t count() const noexcept { return problems_.count(); }
  void throw_if_any() {
    if (count() != 0) throw Error(code_, problems_.list());
  }

 private:
  ErrorCode code_ = ErrorCode::kFormat;  // kIo as soon as one problem is
  CollapsedProblems problems_;
};

// Walks JSON without building a tree of it (whose size a file could choose). Derived classes see
// keys, scalars and the opening of containers, each with the depth of the container they stand in
// (0: top level), and refuse what they do not expect: that ends the parse with error() set.
class JsonWalk : public nlohmann::json_sax<Json> {
 public:
  // Returns "" or what is wrong with `text`.
  std::string parse(std::string_view text) {
    // nlohmann takes NUL for the end of its input, which would hide what follows.
    if (text.find('\0') != std::string_view::npos) return "the JSON holds a NUL byte";
    Json::sax_parse(text.data(), text.data() + text.size(), this);
    return error_;
  }

  bool null() final { return on_scalar({"null", nullptr, std::nullopt, true}, depth_); }
  bool boolean(bool) final { return scalar("a boolean", nullptr, std::nullopt); }
  bool number_integer(int64_t) final { return scalar("a negative number", nullptr, std::nullopt); }
  bool number_unsigned(uint64_t value) final { return scalar("a number", nullptr, value); }
  bool number_float(double, const std::string&) final {
    return scalar("a fraction", nullptr, std::nullopt);
  }
  bool string(std::string& value) final { return scalar("a string", &value, std::nullopt); }
  bool binary(Json::binary_t&) final { return refuse("binary data in JSON"); }
  bool start_object(size_t) final { return on_open('{', depth_++); }
  bool start_array(size_t) final { return on_open('[', depth_++); }
  bool end_object() final { return on_close(--depth_); }
  bool end_array() final { return on_close(--depth_); }
  bool key(std::string& name) final { return on_key(name, depth_); }
  bool parse_error(size_t position, const std::string&, const Json::exception&) final {
    return refuse("the JSON is malformed at byte " + std::to_string(position));
  }

 protected:
  struct Scalar {
    const char* kind;                // for messages
    std::string* text;               // null unless a string
    std::optional<uint64_t> number;  // only for integers from 0
    bool is_null = false;
  };
  virtual bool on_key(std::string& name, int depth) = 0;
  virtual bool on_scalar(const Scalar& value, int depth) = 0;
  virtual bool on_open(char kind, int depth) = 0;
  virtual bool on_close(int depth) = 0;

  bool refuse(std::string error) {
    if (error_.empty()) error_ = std::move(error);
    return false;
  }

 private:
  bool scalar(const char* kind, std::string* text, std::optional<uint64_t> number) {
    return on_scalar({kind, text, number}, depth_);
  }

  int depth_ = 0;
  std::string error_;
};

struct HeaderEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> data_offsets;
};

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"k":
// "v"}}
class HeaderWalk final : public JsonWalk {
 public:
  std::vector<HeaderEntry> entries;
  std::vector<std::string> duplicates;  // names that stand more than once

 private:
  bool on_key(std::string& name, int depth) override {
    if (depth == 1) {
      if (name.size() > kMaxNameBytes)
        return refuse("a tensor's name is longer than " + std::to_string(kMaxNameBytes) + " bytes");
      if (entries.size() == kMaxTensors) return refuse("more tensors than any model has");
      in_metadata_ = name == "__metadata__";
      if (!names_.insert(name).second) duplicates.push_back(name);
      if (!in_metadata_)
        entries.push_back({.name = name, .dtype = {}, .shape = {}, .data_offsets = {}});
      current_ = name;
    } else if (!in_metadata_) {
      field_ = name;
      const HeaderEntry& entry = entries.back();
      if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets")
        return refuse(printable(current_) + ": unknown field \"" + printable(field_) + "\"");
      if ((field_ == "dtype" && entry.dtype) || (field_ == "shape" && entry.shape) ||
          (field_ == "data_offsets" && entry.data_offsets))
        return refuse(printable(current_) + ": " + field_ + " stands twice");
    }
    return true;
  }

  bool on_scalar(const Scalar& value, int depth) override {
    if (depth == 0) return refuse("the header is not a JSON object");
    if (depth == 2 && in_metadata_ && value.text != nullptr) return true;
    if (depth == 1 && in_metadata_ && value.is_null) return true;  // as if it were not there
    if (depth == 2 && !in_metadata_ && field_ == "dtype" && value.text != nullptr) {
      entries.back().dtype = *value.text;
      return true;
    }
    if (depth == 3 && value.number) {
      std::vector<uint64_t>& list =
          *(field_ == "shape" ? entries.back().shape : entries.back().data_offsets);
      if (list.size() == kMaxDims)
        return refuse(printable(current_) + ": " + field_ + " has more than " +
                      std::to_string(kMaxDims) + " numbers");
      list.push_back(*value.number);
      return true;
    }
    return unexpected(value.kind, depth);
  }

  bool on_open(char kind, int depth) override {
    if (depth == 0) return kind == '{' || refuse("the header is not a JSON object");
    if (depth == 1 && kind == '{') return true;
    if (depth == 2 && kind == '[' && !in_metadata_ && field_ == "shape")
      return entries.back().shape.emplace(), true;
    if (depth == 2 && kind == '[' && !in_metadata_ && field_ == "data_offsets")
      return entries.back().data_offsets.emplace(), true;
    return unexpected(kind == '{' ? "an object" : "a list", depth);
  }

  bool on_close(int) override { return true; }

  bool unexpected(const std::string& kind, int depth) {
    const std::string what =
        printable(current_) + (depth >= 2 && !in_metadata_ ? "." + field_ : "");
    if (in_metadata_) return refuse("__metadata__ must be an object of strings");
    const char* wanted = depth == 1          ? "an object"
                         : field_ == "dtype" ? "a string"
                                             : "a list of integers from 0";
    return refuse(what + " must be " + wanted + ", here is " + kind);
  }

  std::set<std::string> names_;
  std::string current_;
  std::string field_;
  bool in_metadata_ = false;
};

// {"metadata": anything, "weight_map": {"tensor": "file", ...}}
class IndexWalk final : public JsonWalk {
 public:
  bool has_weight_map = false;
  std::vector<std::pair<std::string, std::string>> weight_map;  // in file order

 private:
  bool on_key(std::string& name, int depth) override {
    if (depth == 1) {
      in_weight_map_ = name == "weight_map";
      if (in_weight_map_ && std::exchange(has_weight_map, true))
        return refuse("weight_map stands twice");
    } else if (in_weight_map_) {
      if (weight_map.size() == kMaxTensors) return refuse("more tensors than any model has");
      if (name.size() > kMaxNameBytes)
        return refuse("a tensor's name is longer than " + std::to_string(kMaxNameBytes) + " bytes");
      weight_map.emplace_back(name, "");
    }
    return true;
  }
  bool on_scalar(const Scalar& value, int depth) override {
    if (depth == 0) return refuse("the index is not a JSON object");
    if (!in_weight_map_) return true;
    if (depth == 1 || value.text == nullptr)
      return refuse("weight_map must be an object of strings");
    weight_map.back().second = *value.text;
    return true;
  }
  bool on_open(char kind, int depth) override {
    if (depth == 0) return kind == '{' || refuse("the index is not a JSON object");
    if (in_weight_map_)
      return (depth == 1 && kind == '{') || refuse("weight_map must be an object of strings");
    return depth < 16 || refuse("the JSON is nested too deeply");
  }
  bool on_close(int) override { return true; }

  bool in_weight_map_ = false;
};

// Where a tensor's bytes lie in its file's data.
struct Extent {
  int64_t begin;
  int64_t end;
  std::string name;
};

// Bytes of a tensor of `shape`, or nothing when no file could hold it.
std::optional<int64_t> checked_bytes(const std::vector<uint64_t>& shape, DType dtype) {
  int64_t bytes = size_of(dtype);
  for (const uint64_t dim : shape) {
    if (dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    if (__builtin_mul_overflow(bytes, static_cast<int64_t>(dim), &bytes)) return std::nullopt;
  }
  return bytes;
}

// One header entry, checked by itself. Whether it lies inside the file is checked with all the
// others.
std::optional<std::pair<TensorView, Extent>> check_entry(const HeaderEntry& entry,
                                                         const std::string& file,
                                                         Findings& findings) {
  const std::string where = file + ": " + printable(entry.name);
  for (const auto& [present, field] :
       {std::pair(entry.dtype.has_value(), "dtype"), std::pair(entry.shape.has_value(), "shape"),
        std::pair(entry.data_offsets.has_value(), "data_offsets")}) {
    if (present) continue;
    findings.add_format(std::string(field) + " is missing", where);
    return std::nullopt;
  }
  DType dtype;
  try {
    dtype = dtype_from_string(printable(*entry.dtype));
  } catch (const Error& error) {
    const Problem& problem = error.problems().front();
    findings.add_format(problem.what, where, problem.fix);
    return std::nullopt;
  }
  const std::optional<int64_t> bytes = checked_bytes(*entry.shape, dtype);
  if (!bytes) {
    findings.add_format("the shape is too large for any file", where);
    return std::nullopt;
  }
  const std::vector<uint64_t>& offsets = *entry.data_offsets;
  if (offsets.size() != 2 || offsets[0] > offsets[1] ||
      offsets[1] > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    findings.add_format("data_offsets are not a begin and an end", where);
    return std::nullopt;
  }
  const Shape shape(entry.shape->begin(), entry.shape->end());
  const auto begin = static_cast<int64_t>(offsets[0]), end = static_cast<int64_t>(offsets[1]);
  if (end - begin != *bytes) {
    findings.add_format("data_offsets span " + std::to_string(end - begin) + " bytes; " +
                            *entry.dtype + " " + to_string(shape) + " needs " +
                            std::to_string(*bytes),
                        where);
    return std::nullopt;
  }
  TensorView view{.name = entry.name, .dtype = dtype, .shape = shape, .data = nullptr};
  return std::pair(std::move(view), Extent{begin, end, entry.name});
}

// Tensors must lie one after another and end where the file ends.
void check_layout(std::vector<Extent> extents, int64_t data_begin, int64_t data_bytes,
                  const std::string& file, Findings& findings) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  std::string before = "the header";
  for (const Extent& extent : extents) {
    if (extent.begin > covered)
      findings.add_format("bytes " + std::to_string(covered) + " to " +
                              std::to_string(extent.begin) + " of the data, after " + before +
                              ", belong to no tensor",
                          file + ": " + printable(extent.name));
    if (extent.begin < covered)
      findings.add_format("overlaps " + before, file + ": " + printable(extent.name));
    if (extent.end > covered || before == "the header") before = printable(extent.name);
    covered = std::max(covered, extent.end);
  }
  if (covered > data_bytes) {
    int64_t expected = 0;
    const bool fits = !__builtin_add_overflow(data_begin, covered, &expected);
    findings.add_format("the file is truncated: its header describes " +
                            (fits ? std::to_string(expected) : std::string("more than 2^63")) +
                            " bytes, the file has " + std::to_string(data_begin + data_bytes),
                        file + ": " + before,
                        "download the file again, or wait until it is written");
  } else if (covered < data_bytes) {
    findings.add_format("the last " + std::to_string(data_bytes - covered) +
                            " bytes of the file belong to no tensor",
                        file);
  }
}

// Every tensor of one file; only what is wrong, in `findings`, when something is.
std::vector<TensorView> read_file(const MappedFile& mapped, Findings& findings) {
  const std::string file = mapped.path().string();
  const std::span<const std::byte> bytes = mapped.bytes();
  const auto file_bytes = static_cast<int64_t>(bytes.size());
  if (is_lfs_pointer({reinterpret_cast<const char*>(bytes.data()), bytes.size()})) {
    findings.add_format(kLfsPointer, file, kFetchLfs);
    return {};
  }
  if (file_bytes < kPrefixBytes) {
    findings.add_format(
        "a safetensors file has at least 8 bytes, this has " + std::to_string(file_bytes), file);
    return {};
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < 8; ++i) header_bytes |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  if (header_bytes > static_cast<uint64_t>(kMaxJsonBytes)) {
    findings.add_format("the header's length of " + std::to_string(header_bytes) +
                            " bytes is more than " + std::to_string(kMaxJsonBytes) +
                            ": not a safetensors file",
                        file, "check that this is a safetensors file, or download it again");
    return {};
  }
  if (static_cast<int64_t>(header_bytes) > file_bytes - kPrefixBytes) {
    findings.add_format("the file is truncated: its header alone ends at byte " +
                            std::to_string(header_bytes + kPrefixBytes) + ", the file has " +
                            std::to_string(file_bytes),
                        file, "download the file again, or wait until it is written");
    return {};
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kPrefixBytes,
                                header_bytes);
  if (header.empty() || header.front() != '{') {
    findings.add_format("the header does not begin with '{'", file);
    return {};
  }
  HeaderWalk walk;
  if (const std::string error = walk.parse(header); !error.empty()) {
    findings.add_format("bad header: " + error, file);
    return {};
  }
  for (const std::string& name : walk.duplicates)
    findings.add_format("the tensor stands twice in the header", file + ": " + printable(name));

  const int64_t data_begin = kPrefixBytes + static_cast<int64_t>(header_bytes);
  std::vector<TensorView> views;
  std::vector<Extent> extents;
  bool every_entry_good = walk.duplicates.empty();
  for (const HeaderEntry& entry : walk.entries) {
    auto checked = check_entry(entry, file, findings);
    if (!checked) {
      every_entry_good = false;
      continue;
    }
    views.push_back(std::move(checked->first));
    extents.push_back(std::move(checked->second));
  }
  if (!every_entry_good) return {};  // gaps would only repeat what was said
  const std::vector<Extent> in_header_order = extents;
  check_layout(std::move(extents), data_begin, file_bytes - data_begin, file, findings);
  for (size_t i = 0; i < views.size(); ++i)
    if (in_header_order[i].end <= file_bytes - data_begin)
      views[i].data = bytes.data() + data_begin + in_header_order[i].begin;
  return views;
}

std::string index_name(const std::string& stem) { return stem + ".safetensors.index.json"; }

// The first file, by name, that looks like one of several shards; "" without one.
std::string first_shard(const std::filesystem::path& directory) {
  std::string first;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".safetensors") && name.find("-of-") != std::string::npos &&
        (first.empty() || name < first))
      first = name;
  }
  return first;
}

constexpr std::string_view kUnfinished = ".incomplete";  // what the hub's downloads end in

// The first file of weights that are unfinished or of another form; "" if there is none.
std::string other_weights(const std::filesystem::path& directory) {
  std::string first;
  std::error_code ignored;
  for (std::filesystem::directory_iterator entry(directory, ignored), end; entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    const bool is_other = name.ends_with(kUnfinished) || name.ends_with(".bin") ||
                          name.ends_with(".gguf") || name.ends_with(".pth");
    if (is_other && (first.empty() || name < first)) first = name;
  }
  return first;
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

}  // namespace

// Maps and checks the files of `paths`, all problems into `findings`.
class TensorFiles::Loader {
 public:
  explicit Loader(TensorFiles& target) : target_(target) {}

  // Adds a file. Returns false, with findings, when its tensors are not known.
  bool add(const std::filesystem::path& path) {
    try {
      require_own_file(path);
      target_.files_.push_back(std::make_unique<MappedFile>(path));
    } catch (const Error& error) {
      for (const Problem& problem : error.problems()) findings.add(error.code(), problem);
      return false;
    }
    const int64_t count_before = findings.count();
    const std::string file_name = path.filename().string();
    const std::vector<TensorView> views = read_file(*target_.files_.back(), findings);
    const bool good = findings.count() == count_before;
    for (const TensorView& view : views) {
      if (target_.tensors_.contains(view.name)) {
        findings.add_format("the tensor is also in " + target_.file_of_.at(view.name),
                            path.string() + ": " + printable(view.name),
                            "remove the file that does not belong to this checkpoint");
        continue;
      }
      target_.file_of_.emplace(view.name, file_name);
      target_.tensors_.emplace(view.name, view);
    }
    return good;
  }

  Findings findings;

 private:
  TensorFiles& target_;
};

TensorFiles TensorFiles::open_files(const std::vector<std::filesystem::path>& files) {
  TensorFiles result;
  Loader loader(result);
  for (const std::filesystem::path& file : files) loader.add(file);
  loader.findings.throw_if_any();
  return result;
}

TensorFiles TensorFiles::open(const std::filesystem::path& directory, const std::string& stem,
                              const std::set<std::string>& may_be_absent) {
  const std::filesystem::path single = directory / (stem + ".safetensors");
  const std::filesystem::path index = directory / index_name(stem);
  std::error_code ignored;
  if (!std::filesystem::exists(index, ignored)) {
    if (std::filesystem::exists(single, ignored)) return open_files({single});
    if (const std::string shard = first_shard(directory); !shard.empty())
      throw Error(
          ErrorCode::kIo,
          {.what = "shards are here (" + printable(shard) + "), and " + index.filename().string() +
                   ", which says what they hold, is missing",
           .where = directory.string(),
           .fix = "download " + index.filename().string() + " from where the shards are from"});
    const std::string other = other_weights(directory);
    throw Error(ErrorCode::kIo,
                {.what = "there is neither " + single.filename().string() + " nor " +
                         index.filename().string() +
                         (other.empty() ? "" : "; the weights are in " + printable(other)),
                 .where = directory.string(),
                 .fix = other.ends_with(kUnfinished)
                            ? "wait until the download is done, or begin it again"
                            : "give the directory of a checkpoint in safetensors format"});
  }

  IndexWalk walk;
  std::string error = walk.parse(read_text(index, kMaxJsonBytes));
  if (error.empty() && !walk.has_weight_map) error = "there is no weight_map";
  if (!error.empty())
    throw Error(ErrorCode::kFormat,
                {.what = "bad index: " + error, .where = index.string(), .fix = kDownloadAgain});

  // Beside an index of other files a single file is what transformers loads.
  if (std::filesystem::exists(single, ignored) &&
      std::none_of(walk.weight_map.begin(), walk.weight_map.end(),
                   [&](const auto& entry) { return entry.second == single.filename(); }))
    return open_files({single});

  TensorFiles result;
  Loader loader(result);
  Findings& findings = loader.findings;
  std::map<std::string, std::string> file_of;
  std::map<std::string, bool> files;  // name -> its tensors are known
  for (const auto& [tensor, file] : walk.weight_map) {
    const std::string where = index.string() + ": " + printable(tensor);
    if (!file_of.emplace(tensor, file).second)
      findings.add_format("the tensor stands twice in weight_map", where);
    if (is_plain_file_name(file))
      files.emplace(file, false);
    else
      findings.add_format("\"" + printable(file) + "\" is not the name of a file in this directory",
                          where, "use only indexes whose shards lie beside them");
  }
  for (auto& [file, known] : files) {
    if (std::filesystem::exists(std::filesystem::symlink_status(directory / file, ignored)))
      known = loader.add(directory / file);
    else
      findings.add(
          ErrorCode::kIo,
          {.what = "the index names a shard that is not here",
           .where = (directory / file).string(),
           .fix = "download it; where all tensors are in the other shards, the index is an "
                  "older one"});
  }

  for (const auto& [tensor, file] : file_of) {
    const auto known = files.find(file);
    if (known == files.end() || !known->second) continue;  // said already
    const auto found = result.file_of_.find(tensor);
    if (found == result.file_of_.end() && may_be_absent.contains(tensor)) continue;
    if (found == result.file_of_.end() || found->second != file)
      findings.add_format("the index names a tensor that is not in this shard",
                          (directory / file).string() + ": " + printable(tensor));
  }
  for (const auto& [tensor, file] : result.file_of_)
    if (!file_of.contains(tensor))
      findings.add_format("the shard holds a tensor that the index does not name",
                          (directory / file).string() + ": " + printable(tensor));
  findings.throw_if_any();
  return result;
}

const TensorView* TensorFiles::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const TensorView& TensorFiles::at(const std::string& name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [known, unused] : tensors_) names.push_back(known);
  const std::string nearest = nearest_name(name, names);
  throw Error(ErrorCode::kFormat,
              {.what = "there is no tensor \"" + name + "\"",
               .where = files_.empty() ? "" : files_.front()->path().parent_path().string(),
               .fix = nearest.empty() ? "" : "the nearest name there is " + printable(nearest)});
}

const std::string& TensorFiles::file_of(const std::string& name) const {
  at(name);
  return file_of_.find(name)->second;
}

void TensorFiles::rename(const std::map<std::string, std::string>& names) {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> file_of;
  for (auto& [name, tensor] : tensors_) {
    const auto found = names.find(name);
    const std::string& renamed = found == names.end() ? name : found->second;
    tensor.name = renamed;
    file_of.emplace(renamed, std::move(file_of_.at(name)));
    LAOS_ASSERT(tensors.emplace(renamed, std::move(tensor)).second);
  }
  tensors_ = std::move(tensors);
  file_of_ = std::move(file_of);
}

void TensorFiles::split(const std::string& name, const std::vector<std::string>& names,
                        const Shape& shape) {
  const TensorView whole = tensors_.at(name);
  const std::string file = file_of_.at(name);
  tensors_.erase(name);
  file_of_.erase(name);
  const int64_t bytes = num_elements(shape) * size_of(whole.dtype);
  LAOS_ASSERT(bytes * std::ssize(names) == whole.size_bytes());
  for (size_t i = 0; i < names.size(); ++i) {
    TensorView part = whole;
    part.name = names[i];
    part.shape = shape;
    part.data += static_cast<int64_t>(i) * bytes;
    LAOS_ASSERT(tensors_.emplace(names[i], part).second);
    file_of_.emplace(names[i], file);
  }
}

namespace {

// A shard's header and where each of its tensors lies in the file.
struct ShardLayout {
  std::string header;          // the length's 8 bytes included
  std::vector<int64_t> begin;  // in the file, of each tensor in the shard's order
  int64_t file_bytes = 0;
};

// Tensors of larger elements come first, else in the shard's order: every tensor then begins at a
// multiple of its element size, without which PyTorch cannot view its bytes.
ShardLayout lay_out(const std::vector<TensorSpec>& tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return size_of(tensors[a].dtype) > size_of(tensors[b].dtype);
  });

  ShardLayout layout;
  layout.begin.resize(tensors.size());
  LargeJson<nlohmann::ordered_json> header{nlohmann::ordered_json::object()};
  int64_t offset = 0;
  for (const size_t i : order) {
    const TensorSpec& tensor = tensors[i];
    const int64_t end = offset + tensor.size_bytes();
    nlohmann::ordered_json entry;
    entry["dtype"] = to_string(tensor.dtype);
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, end};
    add_member(header.value, tensor.name, std::move(entry));
    layout.begin[i] = offset;
    offset = end;
  }
  std::string text = header.value.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  for (size_t i = 0; i < 8; ++i) layout.header += static_cast<char>(text.size() >> (8 * i) & 0xff);
  layout.header += text;
  const auto header_bytes = static_cast<int64_t>(layout.header.size());
  for (int64_t& begin : layout.begin) begin += header_bytes;
  layout.file_bytes = header_bytes + offset;
  return layout;
}

std::string shard_name(const std::string& stem, size_t k, size_t count) {
  const auto five_digits = [](size_t number) {
    const std::string digits = std::to_string(number);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return stem + "-" + five_digits(k) + "-of-" + five_digits(count) + ".safetensors";
}

}  // namespace

int64_t ShardPlan::file_bytes() const {
  int64_t bytes = 0;
  for (const Shard& shard : shards) bytes += lay_out(shard.tensors).file_bytes;
  return bytes;
}

ShardPlan plan_shards(const std::vector<TensorSpec>& tensors, const std::string& stem,
                      int64_t max_shard_bytes) {
  LAOS_ASSERT(max_shard_bytes >= 0);
  ShardPlan plan;
  plan.shards.emplace_back();
  int64_t pending = 0;
  std::set<std::string> names;
  for (const TensorSpec& tensor : tensors) {
    LAOS_ASSERT(names.insert(tensor.name).second);
    const int64_t bytes = tensor.size_bytes();
    if (max_shard_bytes > 0 && !plan.shards.back().tensors.empty() &&
        pending + bytes >= max_shard_bytes) {
      plan.shards.emplace_back();
      pending = 0;
    }
    plan.shards.back().tensors.push_back(tensor);
    pending += bytes;
    plan.total_size += bytes;
  }
  for (size_t k = 0; k < plan.shards.size(); ++k)
    plan.shards[k].file_name =
        max_shard_bytes == 0 ? stem + ".safetensors" : shard_name(stem, k + 1, plan.shards.size());
  return plan;
}

ShardedWriter::ShardedWriter(const std::filesystem::path& directory, ShardPlan plan)
    : plan_(std::move(plan)) {
  files_.reserve(plan_.shards.size());
  for (size_t k = 0; k < plan_.shards.size(); ++k) {
    const ShardPlan::Shard& shard = plan_.shards[k];
    const ShardLayout layout = lay_out(shard.tensors);
    files_.emplace_back(directory / shard.file_name, layout.file_bytes);
    files_.back().write_at(0, std::as_bytes(std::span(layout.header)));
    for (size_t i = 0; i < shard.tensors.size(); ++i)
      slots_.emplace(
          shard.tensors[i].name,
          Slot{.shard = k, .begin = layout.begin[i], .size = shard.tensors[i].size_bytes()});
  }
}

void TensorFiles::drop_pages() const noexcept {
  for (const std::unique_ptr<MappedFile>& file : files_) io::drop_pages(file->bytes());
}

void ShardedWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  LAOS_ASSERT(slots_.contains(name) && slots_.at(name).size == std::ssize(bytes));
  write_part(name, 0, bytes);
}

void ShardedWriter::write_part(const std::string& name, int64_t offset,
                               std::span<const std::byte> bytes) {
  const auto found = slots_.find(name);
  LAOS_ASSERT(found != slots_.end());
  Slot& slot = found->second;
  LAOS_ASSERT(offset >= 0 && offset <= slot.size && std::ssize(bytes) <= slot.size - offset);
  files_[slot.shard].write_at(slot.begin + offset, bytes);
  slot.written += std::ssize(bytes);
}

void ShardedWriter::commit() {
  for (const auto& [name, slot] : slots_) LAOS_ASSERT(slot.written == slot.size);
  for (PendingFile& file : files_) file.sync();  // all durable before the first becomes visible
  for (PendingFile& file : files_) file.commit();
}

std::string ShardedWriter::index_json() const {
  LargeJson<nlohmann::ordered_json> file{};
  nlohmann::ordered_json& index = file.value;
  index["metadata"]["total_size"] = plan_.total_size;
  nlohmann::ordered_json& weight_map = index["weight_map"] = nlohmann::ordered_json::object();
  for (const ShardPlan::Shard& shard : plan_.shards)
    for (const TensorSpec& tensor : shard.tensors)
      add_member(weight_map, tensor.name, shard.file_name);
  return index.dump(2);
}

}  // namespace laos::io
