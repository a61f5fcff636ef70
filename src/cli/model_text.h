// Text of a model or a checkpoint on the terminal: it must not steer it.
#pragma once

#include <string>

namespace laos::cli {

inline bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// `text` with its lines and tabs, every other control character shown as `?`.
inline std::string harmless(std::string text) {
  for (char& c : text)
    if (is_control(c) && c != '\n' && c != '\t') c = '?';
  return text;
}

// `text` in one line: control characters are spaces.
inline std::string one_line(std::string text) {
  for (char& c : text)
    if (is_control(c)) c = ' ';
  return text;
}

}  // namespace laos::cli
