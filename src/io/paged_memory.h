// Memory that the system may write out to disk, for what is large and read a little at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <thread>
#include <vector>

namespace laos::io {

// Zeroed memory behind a private file without a name, which is gone with this object or with the
// process. Its disk blocks are reserved at the start, so that a full disk is noticed here and not
// on a write.
class PagedMemory {
 public:
  PagedMemory() = default;
  // Throws Error(kIo), Error(kResource) on a full disk.
  PagedMemory(const std::filesystem::path& directory, int64_t size_bytes);
  ~PagedMemory();
  PagedMemory(PagedMemory&& other) noexcept;
  PagedMemory& operator=(PagedMemory&& other) noexcept;
  PagedMemory(const PagedMemory&) = delete;
  PagedMemory& operator=(const PagedMemory&) = delete;

  std::byte* data() const noexcept { return data_; }
  int64_t size_bytes() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// Takes the pages that hold `mapped` out of the process, which then no longer counts them as its
// own; the contents stay and come back when they are next touched. Only for memory of PagedMemory
// or MappedFile.
void drop_pages(std::span<const std::byte> mapped) noexcept;

// Has the system fetch parts of MappedFiles from disk on a thread of its own, so that whoever reads
// them later does not wait. They count as the process's only once they are read. What fails costs
// time and nothing else. The files must outlive this.
class ReadAhead {
 public:
  // Ends what it does for parts before. Throws nothing.
  void start(std::vector<std::span<const std::byte>> parts) noexcept;

 private:
  std::jthread thread_;
};

}  // namespace laos::io
