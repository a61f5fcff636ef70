// What a process has of the system's memory.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>

namespace laos::test {

// Bytes of the process's own: mapped files are a cache, which the system takes back when it likes.
// 0 when nothing says.
inline int64_t own_memory(pid_t process) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  int64_t kibibytes = 0;
  for (std::string word; status >> word;)
    if (word == "RssAnon:" && status >> kibibytes) break;
  return kibibytes * 1024;
}

}  // namespace laos::test
