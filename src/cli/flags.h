// Spelling of command-line flags.
#pragma once

#include <algorithm>
#include <string>

namespace laos::cli {

// The names under which CLI11 is to know the long flag `name`, given with dashes: "--model-path"
// becomes "--model-path,--model_path". A name of one word stays as it is.
inline std::string both_spellings(const std::string& name) {
  std::string underscored = name;
  std::replace(underscored.begin() + 2, underscored.end(), '-', '_');
  return underscored == name ? name : name + "," + underscored;
}

}  // namespace laos::cli
