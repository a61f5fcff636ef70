// Paths of the output directory, for this folder's own use.
#pragma once

#include <filesystem>
#include <string>

namespace laos::save {

// Throws Error(kIo): `what` and the system's words for `error`, an errno.
[[noreturn]] void fail_io(const std::string& what, const std::filesystem::path& where, int error);

// As std::filesystem::status, but throws Error(kIo) when the path cannot be looked at.
std::filesystem::file_status status_of(const std::filesystem::path& path);
// Absolute, links resolved as far as the path exists, without a trailing slash, so that
// parent_path() leads up one directory.
std::filesystem::path real_path(const std::filesystem::path& path);
// `path` or the first directory above it that is there.
std::filesystem::path nearest_existing(std::filesystem::path path);
// Throws Error(kIo) unless the file is gone afterwards.
void remove_file(const std::filesystem::path& path);
// Makes renames in the directory durable. Throws Error(kIo).
void sync_directory(const std::filesystem::path& directory);

}  // namespace laos::save
