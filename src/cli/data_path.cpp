#include "cli/data_path.h"

#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace laos::cli {

namespace {

// Where data of that name may be: beside the program, where a user says, the build's own source.
std::vector<std::filesystem::path> candidates_for(const std::string& name) {
  std::vector<std::filesystem::path> candidates;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) candidates.push_back(program.parent_path().parent_path() / "share" / "laos" / name);
  if (const char* data_dir = std::getenv("LAOS_DATA_DIR"); data_dir != nullptr && *data_dir != '\0')
    candidates.push_back(std::filesystem::path(data_dir) / name);
  if (constexpr std::string_view kSource = LAOS_SOURCE_DIR; !kSource.empty())
    candidates.push_back(std::filesystem::path(kSource) / name);
  return candidates;
}

}  // namespace

std::vector<std::filesystem::path> data_directories(const std::string& name) {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const std::filesystem::path& candidate : candidates_for(name))
    if (std::filesystem::is_directory(candidate, error)) found.push_back(candidate);
  return found;
}

std::string data_candidates(const std::string& name) {
  std::string text;
  for (const std::filesystem::path& candidate : candidates_for(name))
    text += (text.empty() ? "" : ", ") + candidate.string();
  return text;
}

std::vector<std::filesystem::path> recipe_directories(const std::string& custom) {
  constexpr const char* kVariable = "MSMODELSLIM_CUSTOM_PRACTICE_REPO";
  std::vector<std::filesystem::path> found;
  const auto add = [&](const std::string& directory, const std::string& where) {
    std::error_code error;
    if (!std::filesystem::is_directory(directory, error))
      throw Error(ErrorCode::kUsage, {.what = "`" + directory + "` is not a directory of recipes",
                                      .where = where,
                                      .fix = "name an existing directory of *.yaml files"});
    found.emplace_back(directory);
  };
  if (!custom.empty()) add(custom, "--recipes");
  const char* variable = std::getenv(kVariable);
  if (variable != nullptr && *variable != '\0') add(variable, kVariable);
  for (std::filesystem::path& directory : data_directories("recipes"))
    found.push_back(std::move(directory));
  if (found.empty())
    throw Error(
        ErrorCode::kIo,
        {.what = "laos finds no recipes: the program was moved away from them",
         .where = data_candidates("recipes"),
         .fix = "set LAOS_DATA_DIR to the directory that holds recipes and calib, or name a "
                "directory of recipes with --recipes or a recipe with --config-path"});
  return found;
}

}  // namespace laos::cli
