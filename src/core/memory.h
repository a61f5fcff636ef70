// The machine's memory and this process's share.
#pragma once

#include <cstdint>

namespace laos {

// Bytes that this process can still take without swapping, by what Linux says: the system's
// MemAvailable and what the limits of the control group leave. The largest number when nothing
// says.
int64_t available_memory_bytes();

// The most bytes of memory that this program has had at once, mapped files included. Not
// getrusage's figure, which begins with that of the program that started this one. 0 when nothing
// says.
int64_t peak_rss_bytes();

}  // namespace laos
