#include "core/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "core/control_group.h"

namespace laos {
namespace {

// The number of kibibytes behind `key`, in bytes; `otherwise` without one.
int64_t bytes_of(const char* path, const std::string& key, int64_t otherwise) {
  std::ifstream file(path);
  for (std::string word; file >> word;) {
    int64_t value = 0;
    if (word == key && file >> value) return value * 1024;
  }
  return otherwise;
}

}  // namespace

int64_t available_memory_bytes() {
  return std::min(
      bytes_of("/proc/meminfo", "MemAvailable:", std::numeric_limits<int64_t>::max()),
      control_group_memory_left());
}

int64_t peak_rss_bytes() { return bytes_of("/proc/self/status", "VmHWM:", 0); }

}  // namespace laos
