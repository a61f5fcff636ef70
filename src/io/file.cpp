#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "core/error.h"

namespace laos::io {
namespace {

bool is_out_of_space(int error) noexcept {
  return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

[[noreturn]] void fail(const std::string& verb, const std::filesystem::path& path, int error) {
  const std::string reason = std::generic_category().message(error);
  if (is_out_of_space(error))
    throw Error(ErrorCode::kResource, {.what = "no space left to " + verb + ": " + reason,
                                       .where = path.string(),
                                       .fix = "free disk space, or write to another disk"});
  std::string fix;
  if (error == ENOENT) fix = "check the path";
  if (error == EACCES || error == EPERM || error == EROFS) fix = "check the permissions";
  throw Error(ErrorCode::kIo,
              {.what = "cannot " + verb + ": " + reason, .where = path.string(), .fix = fix});
}

// Calls a system call until it is not interrupted by a signal; its result otherwise.
template <class F>
auto without_interrupts(F&& call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

struct RegularFile {
  int fd;
  int64_t size;
};

// O_NONBLOCK: a pipe in place of a file must be refused, not waited for.
RegularFile open_regular(const std::filesystem::path& path) {
  const int fd =
      without_interrupts([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); });
  if (fd < 0) fail("open", path, errno);
  struct stat status = {};
  if (::fstat(fd, &status) != 0) {
    const int error = errno;
    ::close(fd);
    fail("open", path, error);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(fd);
    throw Error(ErrorCode::kIo, {.what = S_ISDIR(status.st_mode) ? "a directory is not a file"
                                                                 : "not a regular file",
                                 .where = path.string(),
                                 .fix = "give the path of a file"});
  }
  return {fd, static_cast<int64_t>(status.st_size)};
}

void write_all(int fd, int64_t offset, std::span<const std::byte> bytes,
               const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t count = without_interrupts(
        [&] { return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    if (count < 0) fail("write", path, errno);
    if (count == 0) fail("write", path, ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += count;
  }
}

void sync_file(int fd, const std::filesystem::path& path) {
  if (without_interrupts([&] { return ::fsync(fd); }) != 0) fail("sync", path, errno);
}

// Makes a rename in `path`'s directory durable.
void sync_directory_of(const std::filesystem::path& path) {
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : ".";
  const Descriptor directory(without_interrupts(
      [&] { return ::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (directory.get() < 0) fail("open", parent, errno);
  // Some file systems cannot sync a directory and say EINVAL; there is nothing more to do there.
  if (without_interrupts([&] { return ::fsync(directory.get()); }) != 0 && errno != EINVAL)
    fail("sync", parent, errno);
}

void rename_to(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail("rename " + from.string() + " to", to, errno);
}

std::filesystem::path partial_name(const std::filesystem::path& path) {
  std::filesystem::path partial = path;
  partial += ".partial";
  return partial;
}

// Disk blocks for `size` bytes, so that a full disk is noticed before the work and not after it.
// Returns the errno, 0 for success.
int reserve(int fd, int64_t size) {
  if (size == 0) return 0;
  if (without_interrupts([&] { return ::fallocate(fd, 0, 0, static_cast<off_t>(size)); }) == 0)
    return 0;
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) return errno;
  return without_interrupts([&] { return ::ftruncate(fd, static_cast<off_t>(size)); }) == 0 ? 0
                                                                                            : errno;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const RegularFile file = open_regular(path);
  const Descriptor descriptor(file.fd);
  size_ = static_cast<size_t>(file.size);
  if (size_ == 0) return;  // the system cannot map nothing
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (address == MAP_FAILED) fail("map", path, errno);
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::string read_text(const std::filesystem::path& path, int64_t max_bytes) {
  const RegularFile file = open_regular(path);
  const Descriptor descriptor(file.fd);
  const auto refuse_size = [&] {
    throw Error(ErrorCode::kIo, {.what = "the file holds more than " + std::to_string(max_bytes) +
                                         " bytes, the most that is read here",
                                 .where = path.string(),
                                 .fix = "check that this is the right file"});
  };
  if (file.size > max_bytes) refuse_size();
  std::string text;
  // One byte more than the file said: a file that grows meanwhile is read on, up to the limit.
  // (Files of /proc and /sys say 0.)
  text.resize(static_cast<size_t>(file.size) + 1);
  size_t filled = 0;
  while (true) {
    const ssize_t count = without_interrupts(
        [&] { return ::read(file.fd, text.data() + filled, text.size() - filled); });
    if (count < 0) fail("read", path, errno);
    if (count == 0) break;
    filled += static_cast<size_t>(count);
    if (static_cast<int64_t>(filled) > max_bytes) refuse_size();
    if (filled == text.size()) text.resize(text.size() * 2);
  }
  text.resize(filled);
  return text;
}

namespace {

std::string read_some(const std::filesystem::path& path, int64_t max_bytes, bool from_end) {
  const RegularFile file = open_regular(path);
  const Descriptor descriptor(file.fd);
  std::string text(static_cast<size_t>(std::min(file.size, max_bytes)), '\0');
  const int64_t begin = from_end ? file.size - std::ssize(text) : 0;
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t count = without_interrupts([&] {
      return ::pread(file.fd, text.data() + filled, text.size() - filled,
                     begin + static_cast<int64_t>(filled));
    });
    if (count < 0) fail("read", path, errno);
    if (count == 0) break;  // shorter by now
    filled += static_cast<size_t>(count);
  }
  text.resize(filled);
  return text;
}

}  // namespace

std::string read_head(const std::filesystem::path& path, int64_t max_bytes) {
  return read_some(path, max_bytes, false);
}

std::string read_tail(const std::filesystem::path& path, int64_t max_bytes) {
  return read_some(path, max_bytes, true);
}

void read_pieces(const std::filesystem::path& path,
                 const std::function<void(std::span<const std::byte>)>& take) {
  const RegularFile file = open_regular(path);
  const Descriptor descriptor(file.fd);
  std::vector<std::byte> piece(size_t{1} << 20);
  while (true) {
    const ssize_t count =
        without_interrupts([&] { return ::read(file.fd, piece.data(), piece.size()); });
    if (count < 0) fail("read", path, errno);
    if (count == 0) return;
    take(std::span(piece).first(static_cast<size_t>(count)));
  }
}

void write_text_atomically(const std::filesystem::path& path, std::string_view text) {
  static std::atomic<uint64_t> counter{0};
  std::filesystem::path temporary;
  int fd = -1;
  do {
    temporary = path;
    temporary += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
    fd = without_interrupts(
        [&] { return ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  } while (fd < 0 && errno == EEXIST);
  if (fd < 0) fail("create", path, errno);
  try {
    const Descriptor descriptor(fd);
    write_all(fd, 0, std::as_bytes(std::span(text)), path);
    sync_file(fd, path);
    rename_to(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory_of(path);
}

PendingFile::PendingFile(std::filesystem::path path, int64_t size)
    : path_(std::move(path)), size_(size) {
  LAOS_ASSERT(size >= 0);
  const std::filesystem::path partial = partial_name(path_);
  ::unlink(partial.c_str());  // of a run that was killed
  fd_ = without_interrupts(
      [&] { return ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666); });
  if (fd_ < 0) fail("create", path_, errno);
  if (const int error = reserve(fd_, size); error != 0) {
    ::close(fd_);
    ::unlink(partial.c_str());
    fail("create a file of " + std::to_string(size) + " bytes", path_, error);
  }
}

PendingFile::~PendingFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_name(path_).c_str());
}

PendingFile::PendingFile(PendingFile&& other) noexcept
    : path_(std::move(other.path_)), size_(other.size_), fd_(std::exchange(other.fd_, -1)) {}

void PendingFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  LAOS_ASSERT(fd_ >= 0);
  LAOS_ASSERT(offset >= 0 && offset <= size_ && std::ssize(bytes) <= size_ - offset);
  write_all(fd_, offset, bytes, path_);
}

void PendingFile::sync() {
  LAOS_ASSERT(fd_ >= 0);
  sync_file(fd_, path_);
}

void PendingFile::commit() {
  sync();
  rename_to(partial_name(path_), path_);
  ::close(std::exchange(fd_, -1));  // nothing left to lose: the contents are synced
  sync_directory_of(path_);
}

}  // namespace laos::io
