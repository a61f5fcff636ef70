#include "cli/threads.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "core/threads.h"

namespace laos::cli {

void bound_spinning(char** argv) {
  // Some ten microseconds: what threads of one loop come apart by on idle processors. OpenMP's own
  // 300000 are milliseconds, in which a waiting thread keeps its processor from the one that has the
  // work (docs/performance.md).
  constexpr const char* kSpins = "1000";
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error || ::setenv("GOMP_SPINCOUNT", kSpins, 1) != 0) return;
  ::execv(program.c_str(), argv);  // comes back only where it failed: slower, and right
}

void heed_quota() {
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return;
  const double usable = std::ceil(usable_processors());
  set_num_threads(std::max(1, static_cast<int>(std::min<double>(num_threads(), usable))));
}

}  // namespace laos::cli
