// What the control group of this process (a container, a batch job) leaves it of the machine.
#pragma once

#include <cstdint>
#include <filesystem>

namespace laos {

// Reads version 1 and version 2, of the group and of all groups above it: the tightest limit holds.
// `root`: where /proc and /sys are, for tests.

// Bytes that the memory limits leave; what the page cache holds of the group's memory counts as
// left, since Linux drops it first. The largest number without a limit.
int64_t control_group_memory_left(const std::filesystem::path& root = "/");

// Processors that the CPU quotas allow, as time per time: 1.5 is one and a half. Infinity without
// one.
double control_group_processors(const std::filesystem::path& root = "/");

}  // namespace laos
