#include "cluster/alone.h"

namespace laos::cluster {

// NOLINTNEXTLINE(performance-unnecessary-value-param): the other definition, in mpi.cpp, keeps it
std::unique_ptr<Cluster> join(std::function<void(Cluster&, const Error&)>) {
  if (const int ranks = started_ranks(); ranks > 1)
    throw Error(ErrorCode::kUnsupported,
                {.what = std::to_string(ranks) +
                         " ranks were started, and this laos was built without MPI: each would do "
                         "the whole job",
                 .where = "launcher",
                 .fix = "build with -DLAOS_MPI=ON (Debian: libopenmpi-dev), or start one"});
  return std::make_unique<Alone>();
}

}  // namespace laos::cluster
