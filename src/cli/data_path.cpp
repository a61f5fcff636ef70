#include "cli/data_path.h"

#include <cstdlib>
#include <string>
#include <system_error>

namespace laos::cli {

std::vector<std::filesystem::path> data_directories(const std::string& name) {
  std::vector<std::filesystem::path> candidates;
  if (const char* data_dir = std::getenv("LAOS_DATA_DIR"); data_dir != nullptr && *data_dir != '\0')
    candidates.push_back(std::filesystem::path(data_dir) / name);
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) candidates.push_back(program.parent_path().parent_path() / "share" / "laos" / name);
  candidates.push_back(std::filesystem::path(LAOS_SOURCE_DIR) / name);
  std::vector<std::filesystem::path> found;
  for (const std::filesystem::path& candidate : candidates)
    if (std::filesystem::is_directory(candidate, error)) found.push_back(candidate);
  return found;
}

}  // namespace laos::cli
