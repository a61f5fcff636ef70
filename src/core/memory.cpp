#include "core/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace laos {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();

// The number behind `key` in lines of "key number"; `otherwise` without one.
int64_t value_of(const char* path, const std::string& key, int64_t otherwise) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    int64_t value = 0;
    if (word == key && file >> value) return value;
  }
  return otherwise;
}

int64_t number_in(const char* path, int64_t otherwise) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : otherwise;  // "max": no limit
}

}  // namespace

int64_t available_memory_bytes() {
  constexpr int64_t kKibibyte = 1024;
  int64_t available = kUnknown;
  if (const int64_t system = value_of("/proc/meminfo", "MemAvailable:", -1); system >= 0)
    available = system * kKibibyte;
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max", kUnknown);
  if (limit != kUnknown) {
    const char* stat = "/sys/fs/cgroup/memory.stat";
    const int64_t used = number_in("/sys/fs/cgroup/memory.current", 0),
                  files = value_of(stat, "inactive_file", 0) + value_of(stat, "active_file", 0);
    available = std::min(available, std::max<int64_t>(0, limit - used + files));
  }
  return available;
}

}  // namespace laos
