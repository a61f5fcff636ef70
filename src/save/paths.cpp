#include "save/paths.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/error.h"

namespace laos::save {

namespace fs = std::filesystem;

void fail_io(const std::string& what, const fs::path& where, int error) {
  throw Error(ErrorCode::kIo, {.what = what + ": " + std::generic_category().message(error),
                               .where = where.string(),
                               .fix = "check the path and its permissions"});
}

fs::file_status status_of(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::none) fail_io("cannot use the path", path, error.value());
  return status;
}

fs::path real_path(const fs::path& path) {
  std::error_code error;
  const fs::path real = fs::weakly_canonical(fs::absolute(path), error);
  if (error) fail_io("cannot use the path", path, error.value());
  return real.has_filename() || !real.has_relative_path() ? real : real.parent_path();
}

fs::path nearest_existing(fs::path path) {
  while (!fs::exists(status_of(path))) path = path.parent_path();
  return path;
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  if (error) fail_io("cannot remove the older file", path, error.value());
}

void sync_directory(const fs::path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_io("cannot open", directory, errno);
  const int error = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  // Some file systems cannot sync a directory and say EINVAL; there is nothing more to do there.
  if (error != 0 && error != EINVAL) fail_io("cannot sync", directory, error);
}

}  // namespace laos::save
