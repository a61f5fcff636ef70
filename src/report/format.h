// Text by a printf pattern, for pages and charts.
#pragma once

#include <cstdio>
#include <string>

namespace laos::report {

// At most 511 bytes; what is longer is cut.
template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

}  // namespace laos::report
