// The machine's memory.
#pragma once

#include <cstdint>

namespace laos {

// Bytes that this process can still take without swapping, by what Linux says: the system's
// MemAvailable and what the limit of the control group leaves. The largest number when nothing
// says.
int64_t available_memory_bytes();

}  // namespace laos
