#include "hf/data_file.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "core/error.h"
#include "io/lfs.h"

namespace laos::hf {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxDatasetBytes = size_t{1} << 30;

constexpr std::array<std::pair<std::string_view, DataKind>, 6> kEndings = {{
    {".jsonl", DataKind::kJsonLines},
    {".ndjson", DataKind::kJsonLines},
    {".json", DataKind::kJson},
    {".csv", DataKind::kCsv},
    {".tsv", DataKind::kCsv},
    {".parquet", DataKind::kParquet},
}};

[[noreturn]] void refuse_size(const std::string& name) {
  throw Error(
      ErrorCode::kData,
      {.what = "the file has more than 1 GiB of text", .where = name, .fix = "use a part of it"});
}

// In lower case.
std::string ending_of(const fs::path& file) {
  std::string ending = file.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return ending;
}

std::string read_stdin() {
  std::string text;
  std::array<char, 1 << 16> piece;
  for (;;) {
    const ssize_t count = ::read(STDIN_FILENO, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0)
      throw Error(ErrorCode::kIo, {.what = "cannot read: " + std::generic_category().message(errno),
                                   .where = "standard input",
                                   .fix = "give data to it, as in `cat FILE | laos ...`"});
    if (count == 0) return text;
    text.append(piece.data(), static_cast<size_t>(count));
    if (text.size() > kMaxDatasetBytes) refuse_size("standard input");
  }
}

// What gzip has packed, in one member or several.
std::string unpack(std::string_view packed, const std::string& name) {
  constexpr int kGzip = 16 + MAX_WBITS;
  z_stream stream = {};
  if (inflateInit2(&stream, kGzip) != Z_OK)
    throw Error(ErrorCode::kResource,
                {.what = "no memory to unpack the file", .where = name, .fix = ""});
  std::string text;
  std::array<char, 1 << 16> piece;
  int result = Z_OK;
  while (!packed.empty() && text.size() <= kMaxDatasetBytes) {
    // zlib counts in 32 bits, and never writes to its input.
    const size_t offered = std::min<size_t>(packed.size(), size_t{1} << 30);
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = static_cast<uInt>(offered);
    stream.next_out = reinterpret_cast<Bytef*>(piece.data());
    stream.avail_out = static_cast<uInt>(piece.size());
    result = inflate(&stream, Z_NO_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END) break;
    packed.remove_prefix(offered - stream.avail_in);
    text.append(piece.data(), piece.size() - stream.avail_out);
    if (result == Z_STREAM_END && !packed.empty()) inflateReset(&stream);
  }
  inflateEnd(&stream);
  if (text.size() > kMaxDatasetBytes) refuse_size(name);
  if (result != Z_STREAM_END)
    throw Error(ErrorCode::kData, {.what = "the packed file is damaged or cut short",
                                   .where = name,
                                   .fix = "pack it again with gzip, or use it unpacked"});
  return text;
}

bool is_gzip(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }

char first_character(std::string_view bytes) {
  const size_t at = bytes.find_first_not_of(" \t\r\n");
  return at == std::string_view::npos ? '\0' : bytes[at];
}

DataKind kind_of_input(std::string_view bytes) {
  if (bytes.starts_with("PAR1")) return DataKind::kParquet;
  const char first = first_character(bytes);
  if (first == '{') return DataKind::kJsonLines;
  // A text may begin with a bracket too.
  return first == '[' && nlohmann::json::accept(bytes) ? DataKind::kJson : DataKind::kText;
}

bool is_file(const fs::path& path) {
  std::error_code ignored;  // what cannot be looked at is no file to us
  return fs::is_regular_file(path, ignored);
}

}  // namespace

DataSource data_source_of(const fs::path& name) {
  const std::string text = name.string();
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || is_file(name)) return {name, ""};
  const fs::path file = text.substr(0, colon);
  if (file != "-" && !is_file(file)) return {name, ""};
  return {file, text.substr(colon + 1)};
}

DataFile::DataFile(const fs::path& name) : source_(data_source_of(name)) {
  if (source_.is_stdin()) {
    unpacked_ = read_stdin();
    bytes_ = unpacked_;
  } else {
    mapped_.emplace(source_.file);
    bytes_ = {reinterpret_cast<const char*>(mapped_->bytes().data()), mapped_->bytes().size()};
    if (bytes_.size() > kMaxDatasetBytes) refuse_size(source_.file.string());
  }
  fs::path unpacked_name = source_.file;
  if (io::is_lfs_pointer(bytes_))
    throw Error(ErrorCode::kData,
                {.what = io::kLfsPointer, .where = this->name(), .fix = io::kFetchLfs});
  if (is_gzip(bytes_)) {
    unpacked_ = unpack(bytes_, this->name());
    bytes_ = unpacked_;
  }
  // Some downloads are unpacked on the way and keep their name.
  if (ending_of(unpacked_name) == ".gz") unpacked_name = unpacked_name.stem();
  if (bytes_.starts_with("\xEF\xBB\xBF")) bytes_.remove_prefix(3);
  if (source_.is_stdin()) {
    kind_ = kind_of_input(bytes_);
  } else {
    const std::string ending = ending_of(unpacked_name);
    for (const auto& [known, kind] : kEndings)
      if (ending == known) kind_ = kind;
    // Data sets often have lines of objects in a file that is named .json, or a list in .jsonl.
    const char first = first_character(bytes_);
    if (kind_ == DataKind::kJson && first == '{') kind_ = DataKind::kJsonLines;
    if (kind_ == DataKind::kJsonLines && first == '[' && nlohmann::json::accept(bytes_))
      kind_ = DataKind::kJson;
  }
}

std::string DataFile::name() const {
  return source_.is_stdin() ? "standard input" : source_.file.string();
}

}  // namespace laos::hf
