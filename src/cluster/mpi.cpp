#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "cluster/alone.h"
#include "cluster/module.h"

namespace laos::cluster {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int64_t kChunkBytes = int64_t{64} << 20;  // of one message; MPI counts in int
constexpr int kHostBytes = 256;
constexpr seconds kBeatInterval{1};
constexpr milliseconds kLookInterval{10};

enum Tag { kData = 1, kBeat, kNotice, kClaim, kAnswer };

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(ErrorCode::kIo, {.what = std::string(what) + " failed: " + text,
                               .where = "MPI",
                               .fix = "look at the network between the machines"});
}

// Shows that this rank lives and looks whether the others do, takes notices, and decides which of
// the ranks that failed is the first. All of it beside the work, on a communicator of its own.
class Watch {
 public:
  Watch(Cluster& cluster, int timeout, std::function<void(Cluster&, const Error&)> on_lost)
      : cluster_(cluster),
        rank_(cluster.rank()),
        size_(cluster.size()),
        timeout_(timeout),
        on_lost_(std::move(on_lost)),
        heard_(static_cast<size_t>(size_), Clock::now()) {
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    thread_ = std::thread([this] { run(); });
  }
  ~Watch() {
    done_ = true;
    thread_.join();
    MPI_Comm_free(&comm_);
  }

  void notify(const std::string& text) { post(0, kNotice, text); }
  std::vector<std::string> take_notices() {
    const std::lock_guard lock(mutex_);
    return std::exchange(notices_, {});
  }

  bool claim() {
    std::unique_lock lock(mutex_);
    if (is_first_) return *is_first_;
    if (rank_ == 0) {
      is_first_ = !std::exchange(is_claimed_, true);
      return *is_first_;
    }
    if (!std::exchange(has_asked_, true)) {
      lock.unlock();
      post(0, kClaim, "");
      lock.lock();
    }
    // A rank 0 that does not answer will not tell the user either.
    answered_.wait_for(lock, seconds(10), [&] { return is_first_.has_value(); });
    if (!is_first_) is_first_ = true;
    return *is_first_;
  }

 private:
  struct Posted {
    std::string text;
    MPI_Request request;
  };

  void post(int to, Tag tag, std::string text) {
    const std::lock_guard lock(posted_mutex_);
    auto& posted =
        posted_.emplace_back(std::make_unique<Posted>(Posted{std::move(text), MPI_REQUEST_NULL}));
    MPI_Isend(posted->text.data(), static_cast<int>(posted->text.size()), MPI_BYTE, to, tag, comm_,
              &posted->request);
  }

  void run() {
    Clock::time_point last_look = Clock::now(), last_beat{};
    while (!done_) {
      const Clock::time_point now = Clock::now();
      // Who was stopped itself cannot judge by how long it has heard nothing.
      if (now - last_look > seconds(3)) std::fill(heard_.begin(), heard_.end(), now);
      last_look = now;
      receive_all();
      if (now - last_beat >= kBeatInterval) {
        last_beat = now;
        for (int r = 0; r < size_; ++r)
          if (r != rank_ && (rank_ == 0 || r == 0)) post(r, kBeat, "");
      }
      {
        const std::lock_guard lock(posted_mutex_);
        std::erase_if(posted_, [](const std::unique_ptr<Posted>& posted) {
          int sent = 0;
          MPI_Test(&posted->request, &sent, MPI_STATUS_IGNORE);
          return sent != 0;
        });
      }
      if (!look_for_lost(now)) return;
      std::this_thread::sleep_for(kLookInterval);
    }
    receive_all();  // beats that came last are nobody's
  }

  void receive_all() {
    for (;;) {
      int found = 0;
      MPI_Status status;
      if (MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &found, &status) != MPI_SUCCESS || !found)
        return;
      int size = 0;
      MPI_Get_count(&status, MPI_BYTE, &size);
      std::string text(static_cast<size_t>(size), '\0');
      MPI_Recv(text.data(), size, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, comm_,
               MPI_STATUS_IGNORE);
      heard_[static_cast<size_t>(status.MPI_SOURCE)] = Clock::now();
      if (status.MPI_TAG == kNotice) {
        const std::lock_guard lock(mutex_);
        notices_.push_back(std::move(text));
      } else if (status.MPI_TAG == kClaim) {
        bool is_first = false;
        {
          const std::lock_guard lock(mutex_);
          is_first = !std::exchange(is_claimed_, true);
        }
        post(status.MPI_SOURCE, kAnswer, is_first ? "1" : "0");
      } else if (status.MPI_TAG == kAnswer) {
        const std::lock_guard lock(mutex_);
        if (!is_first_) is_first_ = text == "1";
        answered_.notify_all();
      }
    }
  }

  // Rank 0 listens to all others and they to it; the lowest of those that miss it speaks first.
  bool look_for_lost(Clock::time_point now) {
    for (int r = 0; r < size_; ++r) {
      if (r == rank_ || (rank_ != 0 && r != 0)) continue;
      const seconds patience(timeout_ + (r == 0 ? std::min(2 * (rank_ - 1), 10) : 0));
      if (now - heard_[static_cast<size_t>(r)] < patience) continue;
      {
        const std::lock_guard lock(mutex_);
        if (rank_ == 0 && std::exchange(is_claimed_, true)) continue;
        is_first_ = true;
      }
      on_lost_(cluster_,
               Error(ErrorCode::kIo,
                     {.what = "rank " + std::to_string(r) + " on " +
                              cluster_.hosts()[static_cast<size_t>(r)] +
                              " has shown no sign of life for " + std::to_string(timeout_) +
                              " seconds: it was stopped, or its machine or network hangs",
                      .where = "rank " + std::to_string(r),
                      .fix = "look at that machine; the same command, with any number of ranks, "
                             "goes on from the layers that are finished"}));
      cluster_.abort(1);
    }
    return true;
  }

  Cluster& cluster_;
  const int rank_, size_, timeout_;
  const std::function<void(Cluster&, const Error&)> on_lost_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  std::vector<Clock::time_point> heard_;  // of the thread alone

  std::mutex mutex_;
  std::condition_variable answered_;
  std::vector<std::string> notices_;
  bool is_claimed_ = false;       // rank 0: by any rank
  bool has_asked_ = false;        // others
  std::optional<bool> is_first_;  // the answer to this rank

  std::mutex posted_mutex_;
  std::vector<std::unique_ptr<Posted>> posted_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

class MpiCluster final : public Cluster {
 public:
  MpiCluster(std::function<void(Cluster&, const Error&)> on_lost, int timeout) {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    std::string own = Alone().hosts().front();
    own.resize(kHostBytes);
    std::string all(static_cast<size_t>(size_) * kHostBytes, '\0');
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Iallgather(own.data(), kHostBytes, MPI_BYTE, all.data(), kHostBytes, MPI_BYTE,
                         MPI_COMM_WORLD, &request),
          "MPI_Iallgather");
    wait({&request, 1});
    for (int64_t r = 0; r < size_; ++r) hosts_.emplace_back(all.data() + r * kHostBytes);
    watch_ = std::make_unique<Watch>(*this, timeout, std::move(on_lost));
  }
  ~MpiCluster() override {
    try {
      barrier();
    } catch (const Error&) {
    }
    watch_.reset();
    MPI_Finalize();
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  const std::vector<std::string>& hosts() const noexcept override { return hosts_; }

  void barrier() override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "MPI_Ibarrier");
    wait({&request, 1});
  }

  void broadcast(std::span<std::byte> bytes) override {
    for (size_t begin = 0; begin < bytes.size(); begin += kChunkBytes) {
      const auto piece = bytes.subspan(begin, std::min<size_t>(kChunkBytes, bytes.size() - begin));
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Ibcast(piece.data(), static_cast<int>(piece.size()), MPI_BYTE, 0, MPI_COMM_WORLD,
                       &request),
            "MPI_Ibcast");
      wait({&request, 1});
    }
    // A tree shares the sending; each rank but the root receives once.
    (rank_ == 0 ? traffic_.sent_bytes : traffic_.received_bytes) +=
        static_cast<int64_t>(bytes.size()) * (rank_ == 0 ? size_ - 1 : 1);
  }

  std::vector<std::string> gather(const std::string& text) override {
    std::vector<int64_t> sizes(static_cast<size_t>(size_), std::ssize(text));
    std::vector<std::string> texts;
    if (rank_ != 0) {
      exchange({{0, std::as_bytes(std::span(sizes).first(1))}}, {});
      exchange({{0, std::as_bytes(std::span(text))}}, {});
      return texts;
    }
    std::vector<Receive> receives;
    for (int r = 1; r < size_; ++r)
      receives.push_back(
          {r, std::as_writable_bytes(std::span(sizes).subspan(static_cast<size_t>(r), 1))});
    exchange({}, receives);
    receives.clear();
    for (const int64_t size : sizes) texts.emplace_back(static_cast<size_t>(size), '\0');
    texts[0] = text;
    for (int r = 1; r < size_; ++r)
      receives.push_back({r, std::as_writable_bytes(std::span(texts[static_cast<size_t>(r)]))});
    exchange({}, receives);
    return texts;
  }

  void exchange(const std::vector<Send>& sends, const std::vector<Receive>& receives) override {
    std::vector<MPI_Request> requests;
    for (const Receive& receive : receives) {
      LAOS_ASSERT(receive.from != rank_);
      for (size_t begin = 0; begin < receive.bytes.size(); begin += kChunkBytes) {
        const size_t count = std::min<size_t>(kChunkBytes, receive.bytes.size() - begin);
        check(MPI_Irecv(receive.bytes.data() + begin, static_cast<int>(count), MPI_BYTE,
                        receive.from, kData, MPI_COMM_WORLD, &requests.emplace_back()),
              "MPI_Irecv");
      }
      traffic_.received_bytes += static_cast<int64_t>(receive.bytes.size());
    }
    for (const Send& send : sends) {
      LAOS_ASSERT(send.to != rank_);
      for (size_t begin = 0; begin < send.bytes.size(); begin += kChunkBytes) {
        const size_t count = std::min<size_t>(kChunkBytes, send.bytes.size() - begin);
        check(MPI_Isend(send.bytes.data() + begin, static_cast<int>(count), MPI_BYTE, send.to,
                        kData, MPI_COMM_WORLD, &requests.emplace_back()),
              "MPI_Isend");
      }
      traffic_.sent_bytes += static_cast<int64_t>(send.bytes.size());
    }
    wait(requests);
  }

  Traffic traffic() const noexcept override { return traffic_; }
  void notify(const std::string& text) override { watch_->notify(text); }
  std::vector<std::string> take_notices() override { return watch_->take_notices(); }
  bool claim_failure() override { return watch_->claim(); }
  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  // MPI's own waiting spins, which takes the processor from ranks that share it.
  void wait(std::span<MPI_Request> requests) {
    const Clock::time_point start = Clock::now();
    for (;;) {
      int done = 0;
      check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done,
                        MPI_STATUSES_IGNORE),
            "MPI_Testall");
      if (done != 0) break;
      const auto waited = Clock::now() - start;
      if (waited < milliseconds(1))
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(waited < milliseconds(100) ? std::chrono::microseconds(100)
                                                               : std::chrono::microseconds(500));
    }
    traffic_.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }

  int rank_ = 0, size_ = 1;
  std::vector<std::string> hosts_;
  Traffic traffic_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace

}  // namespace laos::cluster

extern "C" {

extern const char laos_mpi_version[];
const char laos_mpi_version[] = LAOS_VERSION;

// cluster::JoinRanks
laos::cluster::Cluster* laos_mpi_join(
    std::function<void(laos::cluster::Cluster&, const laos::Error&)> on_lost, int timeout);
laos::cluster::Cluster* laos_mpi_join(
    std::function<void(laos::cluster::Cluster&, const laos::Error&)> on_lost, int timeout) {
  int provided = MPI_THREAD_SINGLE, size = 1;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1) {
    MPI_Finalize();
    return nullptr;
  }
  if (provided < MPI_THREAD_MULTIPLE)
    throw laos::Error(laos::ErrorCode::kUnsupported,
                      {.what = "this MPI does not let several threads talk (MPI_THREAD_MULTIPLE)",
                       .where = "launcher",
                       .fix = "use one that does, as Debian's Open MPI"});
  return new laos::cluster::MpiCluster(std::move(on_lost), timeout);
}

}  // extern "C"
