#include "core/threads.h"

#include <omp.h>

#include <algorithm>
#include <mutex>

#include "core/control_group.h"

namespace laos {

int num_threads() noexcept { return omp_get_max_threads(); }

void set_num_threads(int count) {
  LAOS_ASSERT(count >= 1);
  omp_set_num_threads(count);
}

double usable_processors() {
  return std::min<double>(omp_get_num_procs(), control_group_processors());
}

namespace detail {

void run_tasks(int64_t count, Task task, void* context) {
  if (count <= 0) return;
  std::mutex mutex;
  std::exception_ptr first;
  int64_t first_index = count;
  // Unused where a compiler or an analyzer reads no OpenMP.
  [[maybe_unused]] const int team =
      static_cast<int>(std::min<int64_t>(omp_get_max_threads(), count));
#pragma omp parallel num_threads(team)
  {
    // A library called from a task (oneDNN) asks OpenMP how many threads it may use. The answer
    // must be one even in a team of one, or the same task would be cut differently by thread count.
    const int outer = omp_get_max_threads();
    omp_set_num_threads(1);
#pragma omp for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i) {
      try {
        task(context, i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (i < first_index) {
          first_index = i;
          first = std::current_exception();
        }
      }
    }
    omp_set_num_threads(outer);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace detail
}  // namespace laos
