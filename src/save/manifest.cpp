#include "save/manifest.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "hf/ascendv1.h"
#include "io/checksum.h"
#include "io/file.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigits = 64;
constexpr const char* kSeparator = "  ";
constexpr int64_t kMaxManifestBytes = int64_t{16} << 20;
constexpr const char* kCopyAgain = "copy it again from where it was written, or quantize again";

bool is_sum(const std::string& text) {
  return text.size() == kDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// A name that stays inside the directory.
bool is_inner(const std::string& name) {
  const fs::path path(name);
  return !name.empty() && path.is_relative() &&
         std::find(path.begin(), path.end(), fs::path("..")) == path.end();
}

// Of a line; no name where it is none.
struct Entry {
  std::string sum, name;
};
Entry entry_of(const std::string& line) {
  const std::string sum = line.substr(0, kDigits);
  if (!is_sum(sum) || line.compare(kDigits, 2, kSeparator) != 0) return {};
  const std::string name = line.substr(kDigits + 2);
  return is_inner(name) ? Entry{sum, name} : Entry{};
}

}  // namespace

std::string manifest_of(const fs::path& directory, std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::string text;
  for (const std::string& name : names)
    text += io::sha256_of_file(directory / name) + kSeparator + name + "\n";
  return text;
}

std::vector<std::string> names_in_manifest(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code ignored;
  const fs::path path = directory / kManifestFile;
  if (!fs::is_regular_file(path, ignored)) return names;
  std::istringstream lines(io::read_text(path, kMaxManifestBytes));
  for (std::string line; std::getline(lines, line);)
    if (std::string name = entry_of(line).name; !name.empty()) names.push_back(std::move(name));
  return names;
}

Verified verify(const fs::path& directory) {
  Verified result;
  std::vector<Problem>& problems = result.problems;
  const fs::path path = directory / kManifestFile;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    result.has_manifest = false;
    problems.push_back({"there is no manifest to verify the files with", path.string(),
                        "quantize again; checkpoints of other programs have none"});
    return result;
  }
  std::set<std::string> listed;
  try {
    std::istringstream lines(io::read_text(path, kMaxManifestBytes));
    int64_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      const auto [sum, name] = entry_of(line);
      if (name.empty()) {
        problems.push_back(
            {"not a line of a manifest", path.string() + ":" + std::to_string(number), kCopyAgain});
        continue;
      }
      listed.insert(name);
      const fs::path file = directory / name;
      try {
        if (!fs::exists(file, ignored))
          problems.push_back({"the file is missing", file.string(), kCopyAgain});
        else if (io::sha256_of_file(file) != sum)
          problems.push_back(
              {"the file is not the one that was written", file.string(), kCopyAgain});
        else {
          ++result.files;
          result.bytes += static_cast<int64_t>(fs::file_size(file, ignored));
        }
      } catch (const Error& e) {
        problems.insert(problems.end(), e.problems().begin(), e.problems().end());
      }
    }
    if (number == 0) problems.push_back({"the manifest is empty", path.string(), kCopyAgain});
    for (const fs::path& file : hf::top_level_safetensors(directory))
      if (!listed.contains(file.filename().string()))
        problems.push_back({"not in the manifest; an engine would load it too", file.string(),
                            "remove it, or copy the checkpoint again"});
  } catch (const Error& e) {
    problems.insert(problems.end(), e.problems().begin(), e.problems().end());
  }
  return result;
}

}  // namespace laos::save
