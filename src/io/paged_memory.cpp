#include "io/paged_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <string>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace laos::io {
namespace {

[[noreturn]] void fail(const std::filesystem::path& directory, int64_t size, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG || error == ENOMEM;
  throw Error(full ? ErrorCode::kResource : ErrorCode::kIo,
              {.what = "cannot make a temporary file of " + std::to_string(size) +
                       " bytes: " + std::generic_category().message(error),
               .where = directory.string(),
               .fix = full ? "free disk space, or name another directory with --tmp"
                           : "check the directory and its permissions"});
}

// A file that no name leads to. O_TMPFILE is not there on every file system.
int open_nameless(const std::filesystem::path& directory) {
  const int fd = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  std::string name = (directory / ".laos-XXXXXX").string();
  const int named = ::mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(name.c_str());
  return named;
}

int reserve(int fd, int64_t size) {
  while (::fallocate(fd, 0, 0, static_cast<off_t>(size)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return errno;
    return ::ftruncate(fd, static_cast<off_t>(size)) == 0 ? 0 : errno;
  }
  return 0;
}

// madvise of the pages that hold `mapped`. What fails costs time or memory and nothing else.
void advise(std::span<const std::byte> mapped, int advice) noexcept {
  if (mapped.empty()) return;
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t lead = reinterpret_cast<uintptr_t>(mapped.data()) % page;
  (void)::madvise(const_cast<std::byte*>(mapped.data()) - lead, mapped.size() + lead, advice);
}

}  // namespace

PagedMemory::PagedMemory(const std::filesystem::path& directory, int64_t size_bytes)
    : size_(size_bytes) {
  if (size_ == 0) return;  // the system cannot map nothing
  const int fd = open_nameless(directory);
  if (fd < 0) fail(directory, size_, errno);
  int error = reserve(fd, size_);
  void* address = MAP_FAILED;
  if (error == 0) {
    address =
        ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (address == MAP_FAILED) error = errno;
  }
  ::close(fd);
  if (error != 0) fail(directory, size_, error);
  data_ = static_cast<std::byte*>(address);
}

PagedMemory::~PagedMemory() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(size_));
}

PagedMemory::PagedMemory(PagedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PagedMemory& PagedMemory::operator=(PagedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

// Shared mappings of files lose nothing by this, on the pages at either end neither.
void drop_pages(std::span<const std::byte> mapped) noexcept { advise(mapped, MADV_DONTNEED); }

void ReadAhead::start(std::vector<std::span<const std::byte>> parts) noexcept {
  try {
    thread_ = std::jthread([parts = std::move(parts)](const std::stop_token& stop) {
      // The system fetches no more at once than a device takes at a time.
      constexpr size_t kMost = size_t{128} << 10;
      for (const std::span<const std::byte> part : parts)
        for (size_t begin = 0; begin < part.size() && !stop.stop_requested(); begin += kMost)
          advise(part.subspan(begin, std::min<size_t>(kMost, part.size() - begin)), MADV_WILLNEED);
    });
  } catch (const std::exception&) {  // no thread to be had, or no memory for one
  }
}

}  // namespace laos::io
