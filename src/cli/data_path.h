// Where the files that come with laos are: recipes and calibration texts.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace laos::cli {

// Directories that hold `name` ("recipes", "calib"), best first: $LAOS_DATA_DIR/name,
// share/laos/name beside the installed program's bin, and the source tree that built it.
std::vector<std::filesystem::path> data_directories(const std::string& name);

}  // namespace laos::cli
