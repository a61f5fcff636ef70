// A file of texts as people have it, unpacked, and what kind of file it is.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "io/file.h"

namespace laos::hf {

// Texts come from a file, from standard input (`-`), or from one key or column of a file
// (`FILE:KEY`).
struct DataSource {
  std::filesystem::path file;  // "-": standard input
  std::string key;             // of the objects or the column that has the text; "": laos's choice
  bool is_stdin() const { return file == "-"; }
};

// A name that is a file is that file; else what stands behind its last `:` is the key.
DataSource data_source_of(const std::filesystem::path& name);

enum class DataKind {
  kJsonLines,
  kJson,  // a list
  kCsv,   // the first line names the columns, between commas, semicolons or tabs
  kParquet,
  kText
};

class DataFile {
 public:
  // Reads standard input to its end; what begins like a file of gzip is unpacked. The kind is the
  // ending's (that before .gz), in any case of letters, and text where laos does not know it; that
  // of standard input, of a .json file that holds lines of objects, and of a .jsonl file that holds
  // a list, is told from what is there. A byte order mark is left out. Throws Error(kIo),
  // Error(kData) when there is more than 1 GiB or the packed data is damaged.
  explicit DataFile(const std::filesystem::path& name);
  DataFile(const DataFile&) = delete;
  DataFile& operator=(const DataFile&) = delete;

  const DataSource& source() const noexcept { return source_; }
  DataKind kind() const noexcept { return kind_; }
  std::string_view bytes() const noexcept { return bytes_; }
  std::string name() const;  // for messages

 private:
  DataSource source_;
  DataKind kind_ = DataKind::kText;
  std::optional<io::MappedFile> mapped_;
  std::string unpacked_;
  std::string_view bytes_;
};

}  // namespace laos::hf
