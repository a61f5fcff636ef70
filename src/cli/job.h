// The ranks with which this process does its command, and how a command of several ends.
#pragma once

#include <string>

#include "cluster/cluster.h"

namespace laos::cli {

// Joined at the first call, alone unless a launcher started several. Throws Error as
// cluster::join.
cluster::Cluster& job();

// Whether this process is the one that talks: rank 0.
bool is_first_rank();

// Prints an error, once for the whole job, and returns the exit code for this process, or ends all
// ranks with it when there are others.
int end_in_error(const std::string& text, int exit_code);

// To be called when a command has done its work: the ranks leave together.
void leave_job();

}  // namespace laos::cli
