// Where the files that come with laos are: recipes, calibration texts, tasks.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace laos::cli {

// Directories that hold `name` ("recipes", "calib", "tasks"), best first: share/laos/name
// beside the installed program's bin, $LAOS_DATA_DIR/name, and the source tree that built it.
std::vector<std::filesystem::path> data_directories(const std::string& name);

// Where that looks, for messages: "A, B".
std::string data_candidates(const std::string& name);

// Directories of recipes: `custom` unless it is empty, $MSMODELSLIM_CUSTOM_PRACTICE_REPO if it is
// set, then data_directories. Throws Error(kUsage) when one of the first two is no directory,
// Error(kIo) when there is none at all.
std::vector<std::filesystem::path> recipe_directories(const std::string& custom);

}  // namespace laos::cli
