#include "core/units.h"

#include <cmath>
#include <cstdio>

namespace laos {
namespace {

// Two counts of units, the second below 60.
std::string two(long long first, const char* unit, long long second, const char* second_unit) {
  char text[64];
  std::snprintf(text, sizeof text, "%lld %s %02lld %s", first, unit, second, second_unit);
  return text;
}

std::string one(const char* format, double value) {
  char text[48];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string hours_text(double seconds) {
  const long long minutes = std::llround(seconds / 60);
  return two(minutes / 60, "h", minutes % 60, "min");
}

}  // namespace

std::string bytes_text(double bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  // What would be shown as 1000.0 of a unit is 1.0 of the next.
  for (; bytes >= (unit == 0 ? 999.5 : 999.95) && unit < 4; ++unit) bytes /= 1000;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
  return text;
}

std::string duration_text(double seconds) {
  if (seconds < 99.95) return one("%.1f s", seconds);
  if (seconds >= 90 * 60 - 0.5) return hours_text(seconds);
  const long long whole = std::llround(seconds);
  return two(whole / 60, "min", whole % 60, "s");
}

std::string rough_duration_text(double seconds) {
  if (seconds < 89.5) return one("%.0f s", seconds);
  return seconds < 89.5 * 60 ? one("%.0f min", seconds / 60) : hours_text(seconds);
}

}  // namespace laos
