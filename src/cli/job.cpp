#include "cli/job.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "cli/exit_codes.h"

namespace laos::cli {
namespace {

std::unique_ptr<cluster::Cluster>& joined() {
  static std::unique_ptr<cluster::Cluster> cluster;
  return cluster;
}

// From the cluster's own thread: the work may never come back.
void end_for_lost(cluster::Cluster& cluster, const Error& error) {
  std::fprintf(stderr, "\nlaos: error: %s\n", error.what());
  std::fflush(stderr);
  cluster.abort(kFailed);
}

}  // namespace

cluster::Cluster& job() {
  if (!joined()) joined() = cluster::join(end_for_lost);
  return *joined();
}

bool is_first_rank() { return job().rank() == 0; }

int end_in_error(const std::string& text, int exit_code) {
  cluster::Cluster* cluster = joined().get();
  if (cluster == nullptr || cluster->size() == 1) {
    std::fputs(text.c_str(), stderr);
    return exit_code;
  }
  if (!cluster->claim_failure()) {
    // Another rank tells, and ends this one.
    std::this_thread::sleep_for(std::chrono::seconds(60));
    std::_Exit(exit_code);
  }
  std::string all = text;
  if (cluster->rank() != 0)
    all += "  on:  rank " + std::to_string(cluster->rank()) + ", " +
           cluster->hosts()[static_cast<size_t>(cluster->rank())] + "\n";
  std::fputs(all.c_str(), stderr);
  std::fflush(stderr);
  std::fflush(stdout);
  cluster->abort(exit_code);
  return exit_code;  // not reached: a virtual function is not known not to return
}

void leave_job() { joined().reset(); }

}  // namespace laos::cli
