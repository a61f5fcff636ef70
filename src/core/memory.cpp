#include "core/memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

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

int64_t available_memory_bytes(int64_t wanted) {
  return wait_for_memory(wanted, [] {
    return std::min(
        bytes_of("/proc/meminfo", "MemAvailable:", std::numeric_limits<int64_t>::max()),
        control_group_memory_left());
  });
}

int64_t wait_for_memory(int64_t wanted, const std::function<int64_t()>& read) {
  int64_t available = read();
  for (int again = 0; again < 20 && available < wanted; ++again) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    available = read();
  }
  return available;
}

int64_t peak_rss_bytes() { return bytes_of("/proc/self/status", "VmHWM:", 0); }

void give_back_freed() noexcept {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

}  // namespace laos
