// Data-parallel loops on OpenMP. The number of threads is OpenMP's own setting (OMP_NUM_THREADS or
// set_num_threads); it never changes a result: work is cut by shape alone and no task shares a sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <type_traits>

#include "core/error.h"

namespace laos {

// Threads that parallel_for will use. set_num_threads: at least 1, for the calling thread's loops.
int num_threads() noexcept;
void set_num_threads(int count);

// Processors that this process may use, as time per time: those that its affinity (a cpuset, taskset)
// names, and no more than the CPU quota of its control group.
double usable_processors();

namespace detail {
using Task = void (*)(void* context, int64_t index);
void run_tasks(int64_t count, Task task, void* context);
}  // namespace detail

// Calls f(i) for every i in [0, count), in any order, on any thread; returns when all are done.
// Inside a task everything runs on one thread. If tasks throw, the exception of the lowest index is
// rethrown.
template <class F>
void parallel_for(int64_t count, F&& f) {
  detail::run_tasks(
      count,
      [](void* context, int64_t i) { (*static_cast<std::remove_reference_t<F>*>(context))(i); },
      &f);
}

// Calls f(begin, end) over pieces of [0, count) of at most `grain`.
template <class F>
void parallel_for_ranges(int64_t count, int64_t grain, F&& f) {
  parallel_for((count + grain - 1) / grain,
               [&](int64_t i) { f(i * grain, std::min(count, (i + 1) * grain)); });
}

}  // namespace laos
