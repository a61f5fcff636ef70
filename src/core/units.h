// Sizes and times as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace laos {

// "512 B", "10.0 MB", "6.4 GB": powers of 1000.
std::string bytes_text(double bytes);
inline std::string bytes_text(int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

// "42.3 s", "12 min 05 s", "3 h 05 min", rounded: parts of a time add up to it as far as is shown.
std::string duration_text(double seconds);

// "42 s", "12 min", "3 h 05 min": of a time that is a guess.
std::string rough_duration_text(double seconds);

}  // namespace laos
