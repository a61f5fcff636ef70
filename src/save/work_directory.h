// What a run has finished so far, durable part by part, in save_path/.laos-partial until the
// checkpoint is whole.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace laos::save {

// What a run consists of and what decides its bytes.
struct WorkPlan {
  // Everything that decides the bytes of a part, by a name that a user understands ("recipe",
  // "seed"). Finished parts count only for a run with the same.
  std::map<std::string, std::string> identity;
  // Of what the identity says of files, by the same names: how a file looked when it was read, so
  // that it need not be read again while it looks the same.
  std::map<std::string, std::string> stamps;
  std::map<std::string, int64_t> parts;  // kind -> how many: {"rotation", 1}, {"layer", 64}
  int64_t other_bytes = 0;               // on disk, of parts that are no layers
  bool restart = false;                  // throw away what an earlier run finished
};

// "layer-00003": a part's name, and of its files.
std::string part_name(const std::string& kind, int64_t index);

// What a directory tells about the run that writes to it, without locks or changes.
struct WorkStatus {
  struct Parts {
    int64_t done = 0;
    int64_t planned = 0;
  };
  bool has_work = false;    // a run was begun and is not done
  bool is_running = false;  // by a process that holds it now
  std::map<std::string, Parts> parts;
  std::map<std::string, std::string> identity, stamps;  // as in WorkPlan
  std::string now;  // what the process at work told last; "" when it told nothing
  // Whether finished parts count only for the same identity: there are some.
  bool has_finished_parts() const {
    return std::any_of(parts.begin(), parts.end(), [](const auto& p) { return p.second.done > 0; });
  }
};

// Throws Error(kFormat) when the state that a run left cannot be read.
WorkStatus work_status(const std::filesystem::path& save_path);

// Refuses what WorkDirectory would refuse, before anything is made: Error(kIo) while another
// process works there, Error(kUsage) naming what differs when parts of another run are kept there
// and `plan` does not restart.
void check_work(const std::filesystem::path& save_path, const WorkPlan& plan);

// Bytes on disk of what a run left: they are free again, or used again, once it goes on.
int64_t work_bytes(const std::filesystem::path& save_path);

// The directory under its lock. Destroyed before finish_all(), it keeps finished parts and nothing
// else; without any it goes, and save_path with it if it was made here. For one thread.
//
// Other processes of the same job join() it: they finish parts in it, and the one that holds the
// lock takes them up when it is told of them.
class WorkDirectory {
 public:
  // Creates save_path and the directory where they are missing, and takes what an earlier run
  // finished; parts whose bytes are not those written are forgotten. Throws as check_work.
  WorkDirectory(const std::filesystem::path& save_path, const WorkPlan& plan);
  // Beside the process that holds the lock. `state` is what its state() says. Throws Error(kIo)
  // when this machine does not see the same directory.
  static std::unique_ptr<WorkDirectory> join(const std::filesystem::path& save_path,
                                             const std::string& state);
  ~WorkDirectory();
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;

  const std::filesystem::path& save_path() const noexcept { return save_path_; }
  // Where the checkpoint is put together; empty at the start.
  const std::filesystem::path& directory() const noexcept { return directory_; }

  // The note of a finished part; null when it is not finished.
  const std::string* find(const std::string& part) const;
  std::filesystem::path file_of(const std::string& part) const;
  // A writer for the tensors of a part, to be handed to finish().
  io::ShardedWriter create(const std::string& part, const std::vector<io::TensorSpec>& tensors);
  // Makes the part durable: its tensors synced and renamed, then its marker, which has their
  // checksum and `note` (UTF-8).
  void finish(const std::string& part, io::ShardedWriter tensors, const std::string& note);

  // The directory's own description of the run.
  std::string state() const;
  // From here on a part may be finished by a process that joined, told of or not.
  void share() noexcept { is_shared_ = true; }
  // Takes up a part that a process finished which joined.
  void take_up(const std::string& part, const std::string& note) { done_[part] = note; }

  // What work_status shows while this process is at work, in place of what was told before. What
  // cannot be written is not told.
  void tell(const std::string& now) const noexcept;

  // Removes a finished part that another has replaced.
  void forget(const std::string& part);
  // Indices of the finished parts of a kind, in order.
  std::vector<int64_t> finished(const std::string& kind) const;

  // From here on save_path holds a result and stays.
  void keep_save_path() noexcept { created_.clear(); }
  // The checkpoint is whole: parts are no longer needed and go with the rest.
  void finish_all() noexcept {
    done_.clear();
    is_shared_ = false;
  }

 private:
  struct Joined {};
  WorkDirectory(const std::filesystem::path& save_path, std::string state, Joined);
  void check_state_is(const std::string& state) const;
  void open(const WorkPlan& plan);
  void take_finished_parts();
  void clear_staging();
  void close() noexcept;

  std::filesystem::path save_path_, directory_, parts_;
  std::vector<std::filesystem::path> created_;  // innermost first
  std::map<std::string, std::string> done_;     // part -> note
  int lock_ = -1;
  bool is_owner_ = false;
  bool is_shared_ = false;
  std::string joined_state_;  // empty for the owner
};

}  // namespace laos::save
