// SHA256SUMS: the checksums of all files of a checkpoint, as sha256sum writes and checks them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"

namespace laos::save {

inline constexpr const char* kManifestFile = "SHA256SUMS";

// The lines for `names`, paths below `directory`, sorted. Reads every file. Throws Error(kIo).
std::string manifest_of(const std::filesystem::path& directory, std::vector<std::string> names);

// The names that the directory's manifest lists; lines that are none are left out. None without one.
// Throws Error(kIo).
std::vector<std::string> names_in_manifest(const std::filesystem::path& directory);

struct Verified {
  int64_t files = 0, bytes = 0;  // that are those which were written
  bool has_manifest = true;      // else nothing was verified
  std::vector<Problem> problems;
};
// Holds the files of `directory` against its manifest: a problem for each that is missing, changed
// or, being *.safetensors, not listed, and for a manifest that is missing or damaged.
Verified verify(const std::filesystem::path& directory);

}  // namespace laos::save
