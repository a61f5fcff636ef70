// The machine's memory and this process's share.
#pragma once

#include <cstdint>
#include <functional>

namespace laos {

// Bytes that this process can still take without swapping, by what Linux says: the system's
// MemAvailable and what the limits of the control group leave. The largest number when nothing
// says. It is the figure of a moment: while another program's peak leaves less than `wanted`, it is
// read again, for up to two seconds.
int64_t available_memory_bytes(int64_t wanted = 0);

// The first of `read`'s figures, a tenth of a second apart, that is at least `wanted`; the last one
// after 20 more.
int64_t wait_for_memory(int64_t wanted, const std::function<int64_t()>& read);

// The most bytes of memory that this program has had at once, mapped files included. Not
// getrusage's figure, which begins with that of the program that started this one. 0 when nothing
// says.
int64_t peak_rss_bytes();

// Gives the system what was freed and the allocator still holds: after work in many small blocks,
// which none of the large ones that follow can use.
void give_back_freed() noexcept;

}  // namespace laos
