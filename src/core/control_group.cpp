#include "core/control_group.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace laos {
namespace {

namespace fs = std::filesystem;

// Directories of the group that has a controller, innermost first, and of those above it.
struct Hierarchy {
  std::vector<fs::path> version1, version2;
};

// Lines of /proc/self/cgroup are "4:cpu,cpuacct:/path" (version 1) and "0::/path" (version 2).
// Within a container the path may be the host's, which is not mounted there; the group itself then
// stands at the top.
Hierarchy groups_with(const fs::path& root, const std::string& controller) {
  const fs::path mounts = root / "sys/fs/cgroup";
  Hierarchy found;
  const auto add = [](std::vector<fs::path>& groups, const fs::path& top, fs::path path) {
    for (; path.has_relative_path(); path = path.parent_path())
      groups.push_back(top / path.relative_path());
    groups.push_back(top);
  };
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path path = line.substr(second + 1);
    if (controllers.empty()) {
      add(found.version2, mounts, path);
      add(found.version2, mounts / "unified", path);
    }
    std::stringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');) {
      if (name != controller) continue;
      add(found.version1, mounts / controllers, path);
      add(found.version1, mounts / controller, path);
    }
  }
  return found;
}

// The first number of a file; nothing where there is none, as in "max".
std::optional<int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return {};
}

// The number behind `key` in lines of "key number".
int64_t value_of(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  int64_t value = 0;
  for (std::string word; file >> word >> value;)
    if (word == key) return value;
  return 0;
}

int64_t left(std::optional<int64_t> limit, const fs::path& used, const fs::path& stat,
             const std::string& prefix) {
  if (!limit) return std::numeric_limits<int64_t>::max();
  int64_t reclaimable = 0;
  for (const char* key : {"inactive_file", "active_file", "slab_reclaimable"})
    reclaimable += value_of(stat, prefix + key);
  return std::max<int64_t>(0, *limit - number_in(used).value_or(0) + reclaimable);
}

}  // namespace

int64_t control_group_memory_left(const fs::path& root) {
  const Hierarchy groups = groups_with(root, "memory");
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const fs::path& group : groups.version2)
    least = std::min(least, left(number_in(group / "memory.max"), group / "memory.current",
                                 group / "memory.stat", ""));
  for (const fs::path& group : groups.version1)
    least = std::min(least,
                     left(number_in(group / "memory.limit_in_bytes"),
                          group / "memory.usage_in_bytes", group / "memory.stat", "total_"));
  return least;
}

double control_group_processors(const fs::path& root) {
  const Hierarchy groups = groups_with(root, "cpu");
  double least = std::numeric_limits<double>::infinity();
  const auto limit = [&](std::optional<int64_t> quota, std::optional<int64_t> period) {
    if (quota && period && *quota > 0 && *period > 0)
      least = std::min(least, static_cast<double>(*quota) / static_cast<double>(*period));
  };
  for (const fs::path& group : groups.version2) {  // "150000 100000", "max 100000"
    std::ifstream file(group / "cpu.max");
    int64_t quota = 0, period = 0;
    if (file >> quota >> period) limit(quota, period);
  }
  for (const fs::path& group : groups.version1)  // a quota of -1 is none
    limit(number_in(group / "cpu.cfs_quota_us"), number_in(group / "cpu.cfs_period_us"));
  return least;
}

}  // namespace laos
