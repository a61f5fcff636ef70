// What git-LFS leaves in place of a file that was not fetched.
#pragma once

#include <string_view>

namespace laos::io {

inline bool is_lfs_pointer(std::string_view bytes) {
  return bytes.starts_with("version https://git-lfs");
}
inline constexpr const char* kLfsPointer = "a git-LFS pointer stands in place of the file";
inline constexpr const char* kFetchLfs =
    "run `git lfs pull` in the directory, or download the file";

}  // namespace laos::io
