// Files: read-only mappings, and writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace laos::io {

// A read-only memory mapping of a whole file, which may be empty or be deleted later. Pages are the
// system's to drop. Throws Error(kIo), also for what is not a regular file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// The whole file as text. Throws Error(kIo) when it cannot be read or holds more than `max_bytes`.
std::string read_text(const std::filesystem::path& path, int64_t max_bytes);

// The file's first `max_bytes` bytes, or all of a smaller one. Throws Error(kIo).
std::string read_head(const std::filesystem::path& path, int64_t max_bytes);
// Likewise the last.
std::string read_tail(const std::filesystem::path& path, int64_t max_bytes);

// Calls `take` with the file's bytes from front to back, some at a time. Throws Error(kIo).
void read_pieces(const std::filesystem::path& path,
                 const std::function<void(std::span<const std::byte>)>& take);

// Writes `text` to a temporary name beside `path`, syncs it and renames it to `path`. Throws
// Error(kIo), Error(kResource) on a full disk, and leaves no temporary file behind.
void write_text_atomically(const std::filesystem::path& path, std::string_view text);

// A file written front to back or at offsets, not visible under its final name before commit().
// Destroyed without commit(), it removes what it wrote.
class PendingFile {
 public:
  // Creates `path` + ".partial" of exactly `size` bytes. Throws Error(kIo), Error(kResource) on a
  // full disk.
  PendingFile(std::filesystem::path path, int64_t size);
  ~PendingFile();
  PendingFile(PendingFile&& other) noexcept;
  PendingFile& operator=(PendingFile&&) = delete;

  // `bytes` at `offset`, all inside the file. Several threads may write different ranges at once.
  // Throws Error(kIo), Error(kResource).
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  void sync();    // contents durable, still under the partial name
  void commit();  // sync, then rename to the final name; the directory is synced too

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  int64_t size_ = 0;
  int fd_ = -1;  // -1 once committed or moved from
};

}  // namespace laos::io
