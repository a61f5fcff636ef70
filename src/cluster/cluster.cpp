#include "cluster/cluster.h"

#include <algorithm>
#include <cstdlib>
#include <string>

namespace laos::cluster {

std::string Cluster::broadcast(const std::string& text) {
  if (size() == 1) return text;
  auto bytes = static_cast<int64_t>(text.size());
  broadcast(std::as_writable_bytes(std::span(&bytes, 1)));
  std::string result = rank() == 0 ? text : std::string(static_cast<size_t>(bytes), '\0');
  broadcast(std::as_writable_bytes(std::span(result)));
  return result;
}

int started_ranks() {
  // Open MPI's mpirun; PMI launchers; srun, whatever its --mpi.
  int most = 1;
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* value = std::getenv(name)) most = std::max(most, std::atoi(value));
  return most;
}

int rank_timeout_seconds() {
  const char* text = std::getenv("LAOS_RANK_TIMEOUT");
  if (text == nullptr || *text == '\0') return 40;
  char* end = nullptr;
  const long seconds = std::strtol(text, &end, 10);
  if (*end != '\0' || seconds < 5 || seconds > 86'400)
    throw Error(ErrorCode::kUsage, {.what = "LAOS_RANK_TIMEOUT=" + std::string(text) +
                                            " is not a number of seconds from 5 to 86400",
                                    .where = "environment",
                                    .fix = "set one, or unset it"});
  return static_cast<int>(seconds);
}

}  // namespace laos::cluster
