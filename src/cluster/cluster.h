// The ranks of a job: processes, on one machine or many, that do one command together. MPI appears
// in this folder only, and here only in mpi.cpp, a library of its own (module.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace laos::cluster {

// Bytes to or from another rank. Between two ranks they arrive in the order they were sent.
struct Send {
  int to;
  std::span<const std::byte> bytes;
};
struct Receive {
  int from;
  std::span<std::byte> bytes;
};

// Of this rank so far. What a rank keeps to itself is no traffic.
struct Traffic {
  int64_t sent_bytes = 0;
  int64_t received_bytes = 0;
  double wait_seconds = 0;  // for other ranks and for bytes to arrive
};

// This rank among the others. Waiting costs no processor time. For the thread that joined, but for
// what is said to be for any.
class Cluster {
 public:
  virtual ~Cluster() = default;  // waits for the other ranks
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  // Of every rank.
  virtual const std::vector<std::string>& hosts() const noexcept = 0;

  // --- every rank calls these, in the same order
  virtual void barrier() = 0;
  // Rank 0's bytes are everybody's.
  virtual void broadcast(std::span<std::byte> bytes) = 0;
  // Every rank's text, in order, at rank 0; empty elsewhere.
  virtual std::vector<std::string> gather(const std::string& text) = 0;
  // Rank 0's text.
  std::string broadcast(const std::string& text);

  // Returns when all has been sent and received. Each Send needs its Receive of the same size in
  // an exchange that the other rank calls, and no rank sends to itself.
  virtual void exchange(const std::vector<Send>& sends, const std::vector<Receive>& receives) = 0;
  virtual Traffic traffic() const noexcept = 0;

  // --- at any time
  // Tells rank 0, which finds it in take_notices() whatever it is doing. For ranks other than 0.
  virtual void notify(const std::string& text) = 0;
  // What other ranks told rank 0 since it last looked.
  virtual std::vector<std::string> take_notices() = 0;
  // Whether this rank is the first in which something failed, so that it should tell the user; the
  // answer stays. For any thread.
  virtual bool claim_failure() = 0;
  // Ends every rank with this exit code; does not return. For any thread.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

// Joins the ranks that mpirun, srun or the like started with this process; alone when none did.
// `on_lost` is called from a thread of the cluster's own when a rank has shown no sign of life for
// LAOS_RANK_TIMEOUT seconds (environment; 40 unless set), with what to tell the user; it should end
// in abort(1), and what it leaves running is aborted so. A rank whose process ended is the
// launcher's to notice. Throws Error: kUnsupported when several ranks were started and this
// laos, or this MPI, cannot join them; kUsage for a timeout that is no number.
std::unique_ptr<Cluster> join(std::function<void(Cluster&, const Error&)> on_lost);

// Processes that the launcher says it started for this job; 1 without a launcher.
int started_ranks();
// Seconds without a sign of life after which a rank is lost.
int rank_timeout_seconds();

}  // namespace laos::cluster
