// What cluster/mpi.cpp, the only part that needs MPI, gives to the program that loads it at run
// time: MPI is no library that every machine has.
#pragma once

#include <functional>

#include "cluster/cluster.h"

namespace laos::cluster {

// The library, beside the program or in ../lib/laos.
inline constexpr const char* kModule = "liblaos_mpi.so";

// Joins the ranks of the launcher, whose losses `on_lost` hears of after `timeout` seconds. Null
// when MPI finds one rank only. The caller owns the result. Throws as join() does.
using JoinRanks = Cluster* (*)(std::function<void(Cluster&, const Error&)> on_lost, int timeout);
inline constexpr const char* kJoinRanks = "laos_mpi_join";
// The version of laos that the module belongs to, a const char[].
inline constexpr const char* kModuleVersion = "laos_mpi_version";

}  // namespace laos::cluster
