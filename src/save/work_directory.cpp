#include "save/work_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "core/error.h"
#include "hf/json_file.h"
#include "io/checksum.h"
#include "io/file.h"
#include "save/paths.h"

namespace laos::save {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kDirectory = ".laos-partial";
constexpr const char* kParts = "parts";
constexpr const char* kState = "state.json";
constexpr const char* kNow = "now.json";
constexpr const char* kMarkerSuffix = ".json";
constexpr int64_t kMaxStateBytes = int64_t{64} << 20;
constexpr int64_t kMaxStateValues = 100'000;

struct State {
  std::map<std::string, std::string> identity, stamps;
  std::map<std::string, int64_t> parts;
};

Json read_json(const fs::path& path) {
  return hf::parse_json<Json>(io::read_text(path, kMaxStateBytes), path, kMaxStateValues);
}

// nullopt when no run left any.
std::optional<State> read_state(const fs::path& directory) {
  const fs::path path = directory / kState;
  if (!fs::exists(status_of(path))) return std::nullopt;
  try {
    const Json json = read_json(path);
    return State{json.at("identity").get<std::map<std::string, std::string>>(),
                 json.at("stamps").get<std::map<std::string, std::string>>(),
                 json.at("parts").get<std::map<std::string, int64_t>>()};
  } catch (const Json::exception&) {
  } catch (const Error&) {
  }
  throw Error(ErrorCode::kFormat, {.what = "the state of an interrupted run cannot be read",
                                   .where = path.string(),
                                   .fix = "add --restart to throw away what that run finished"});
}

// 3 of "layer-00003"; -1 of what part_name() does not make.
int64_t index_of(const std::string& part) {
  const size_t dash = part.rfind('-');
  if (dash == std::string::npos || dash == 0) return -1;
  int64_t index = -1;
  const char* const end = part.data() + part.size();
  const auto [last, error] = std::from_chars(part.data() + dash + 1, end, index);
  return error == std::errc() && last == end && part_name(part.substr(0, dash), index) == part
             ? index
             : -1;
}

// Parts with a marker.
std::set<std::string> marked_parts(const fs::path& parts) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(parts, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->path().extension() == kMarkerSuffix && index_of(entry->path().stem().string()) >= 0)
      names.insert(entry->path().stem().string());
  return names;
}

// File systems without locks let everybody pass.
bool is_locked_by_another(int fd, int operation) {
  // laos status looks for a moment, which must not refuse a run.
  for (int attempt = 0;; ++attempt) {
    if (::flock(fd, operation | LOCK_NB) == 0 || errno != EWOULDBLOCK) return false;
    if (attempt == 10) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

bool is_running(const fs::path& directory) {
  const int fd = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  const bool result = is_locked_by_another(fd, LOCK_SH);
  ::close(fd);
  return result;
}

[[noreturn]] void refuse_running(const fs::path& save_path) {
  throw Error(ErrorCode::kIo, {.what = "another process is writing to the same save path",
                               .where = save_path.string(),
                               .fix = "wait for it, or choose another save path"});
}

// Short values are worth showing; a checksum is not.
std::string shown(const std::map<std::string, std::string>& identity, const std::string& name) {
  const auto found = identity.find(name);
  if (found == identity.end()) return "absent";
  return found->second.size() <= 40 ? found->second : "another";
}

void check_identity(const fs::path& directory, const State& state, size_t num_done,
                    const WorkPlan& plan) {
  std::set<std::string> names;
  for (const auto& [name, value] : state.identity) names.insert(name);
  for (const auto& [name, value] : plan.identity) names.insert(name);
  std::string changed;
  for (const std::string& name : names) {
    const std::string was = shown(state.identity, name), is = shown(plan.identity, name);
    const auto a = state.identity.find(name), b = plan.identity.find(name);
    if (a != state.identity.end() && b != plan.identity.end() && a->second == b->second) continue;
    changed += changed.empty() ? "" : "; ";
    changed += name;
    if (was != is) changed += " (was " + was + ", is " + is + ")";
  }
  if (changed.empty()) return;
  throw Error(ErrorCode::kUsage,
              {.what = "an interrupted run of something else is kept here, with " +
                       std::to_string(num_done) + " parts finished; changed since: " + changed,
               .where = directory.string(),
               .fix = "repeat the command it was begun with to go on, add --restart to throw away "
                      "what it finished, or choose another save path"});
}

void check_state(const fs::path& directory, const WorkPlan& plan) {
  const size_t num_done = marked_parts(directory / kParts).size();
  if (plan.restart || num_done == 0) return;
  if (const std::optional<State> state = read_state(directory))
    check_identity(directory, *state, num_done, plan);
}

}  // namespace

std::string part_name(const std::string& kind, int64_t index) {
  const std::string digits = std::to_string(index);
  return kind + "-" + std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

WorkStatus work_status(const fs::path& save_path) {
  WorkStatus status;
  const fs::path directory = save_path / kDirectory;
  const std::optional<State> state = read_state(directory);
  if (!state) return status;
  status.has_work = true;
  status.is_running = is_running(directory);
  status.identity = state->identity;
  try {
    if (status.is_running) status.now = io::read_text(directory / kNow, kMaxStateBytes);
  } catch (const Error&) {  // nothing was told yet
  }
  status.stamps = state->stamps;
  for (const auto& [kind, planned] : state->parts) status.parts[kind].planned = planned;
  for (const std::string& part : marked_parts(directory / kParts))
    ++status.parts[part.substr(0, part.rfind('-'))].done;
  return status;
}

void check_work(const fs::path& save_path, const WorkPlan& plan) {
  const fs::path directory = real_path(save_path) / kDirectory;
  if (is_running(directory)) refuse_running(save_path);
  check_state(directory, plan);
}

int64_t work_bytes(const fs::path& save_path) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(real_path(save_path) / kDirectory, error), end;
       !error && entry != end; entry.increment(error)) {
    struct stat status = {};
    if (::lstat(entry->path().c_str(), &status) == 0 && S_ISREG(status.st_mode))
      bytes += static_cast<int64_t>(status.st_blocks) * 512;
  }
  return bytes;
}

WorkDirectory::WorkDirectory(const fs::path& save_path, const WorkPlan& plan)
    : save_path_(real_path(save_path)),
      directory_(save_path_ / kDirectory),
      parts_(directory_ / kParts) {
  try {
    open(plan);
  } catch (...) {
    close();
    throw;
  }
}

WorkDirectory::WorkDirectory(const fs::path& save_path, std::string state, Joined)
    : save_path_(real_path(save_path)),
      directory_(save_path_ / kDirectory),
      parts_(directory_ / kParts),
      joined_state_(std::move(state)) {
  check_state_is(joined_state_);
}

std::unique_ptr<WorkDirectory> WorkDirectory::join(const fs::path& save_path,
                                                   const std::string& state) {
  return std::unique_ptr<WorkDirectory>(new WorkDirectory(save_path, state, Joined{}));
}

WorkDirectory::~WorkDirectory() { close(); }

std::string WorkDirectory::state() const {
  return io::read_text(directory_ / kState, kMaxStateBytes);
}

void WorkDirectory::check_state_is(const std::string& expected) const {
  std::string seen;
  try {
    seen = state();
  } catch (const Error&) {
  }
  if (seen != expected)
    throw Error(ErrorCode::kIo,
                {.what = "this machine does not see in the save path what the first rank put there",
                 .where = directory_.string(),
                 .fix = "write to a directory that all machines share"});
}

void WorkDirectory::open(const WorkPlan& plan) {
  for (fs::path path = save_path_; !fs::exists(status_of(path)); path = path.parent_path())
    created_.push_back(path);
  std::error_code error;
  fs::create_directories(save_path_, error);
  if (error) fail_io("cannot create the directory", save_path_, error.value());

  // What is not finished is nobody's business; what is renamed out of here has its own permissions.
  ::mkdir(directory_.c_str(), 0700);  // it may be there, which is not an error
  lock_ = ::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (lock_ < 0) fail_io("cannot use the directory", directory_, errno);
  if (is_locked_by_another(lock_, LOCK_EX)) refuse_running(save_path_);
  check_state(directory_, plan);
  const bool has_state = fs::exists(directory_ / kState, error);
  is_owner_ = true;
  if (has_state && !plan.restart) take_finished_parts();
  if (done_.empty()) fs::remove_all(parts_, error);
  clear_staging();
  fs::create_directory(parts_, error);
  if (error) fail_io("cannot create the directory", parts_, error.value());
  if (done_.empty())
    io::write_text_atomically(
        directory_ / kState,
        Json{{"identity", plan.identity}, {"stamps", plan.stamps}, {"parts", plan.parts}}.dump(
            1, ' ', false, Json::error_handler_t::replace) +
            "\n");
  // The way to the parts must be as durable as they are.
  sync_directory(directory_);
  sync_directory(save_path_);
  for (const fs::path& path : created_)
    if (path.has_parent_path()) sync_directory(path.parent_path());
}

void WorkDirectory::take_finished_parts() {
  for (const std::string& part : marked_parts(parts_)) {
    try {
      const Json marker = read_json(parts_ / (part + kMarkerSuffix));
      if (marker.at("sha256").get<std::string>() == io::sha256_of_file(file_of(part)))
        done_[part] = marker.at("note").get<std::string>();
    } catch (const Json::exception&) {
    } catch (const Error&) {
    }
  }
  // What is not whole is made again.
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(parts_, error), end; !error && entry != end;
       entry.increment(error))
    if (!done_.contains(entry->path().stem().string())) files.push_back(entry->path());
  for (const fs::path& file : files) fs::remove_all(file, error);
  if (error) fail_io("cannot clear the directory", parts_, error.value());
}

// Everything but parts and their state: the checkpoint that a run was putting together.
void WorkDirectory::clear_staging() {
  std::error_code error;
  std::vector<fs::path> paths;
  for (fs::directory_iterator entry(directory_, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->path() != parts_ &&
        ((done_.empty() && !is_shared_) || entry->path().filename() != kState))
      paths.push_back(entry->path());
  for (const fs::path& path : paths) fs::remove_all(path, error);
  if (error) fail_io("cannot clear the directory", directory_, error.value());
}

void WorkDirectory::close() noexcept {
  std::error_code error;
  const bool keep = !done_.empty() || (is_shared_ && !marked_parts(parts_).empty());
  if (is_owner_ && !keep) {
    fs::remove_all(directory_, error);
    if (error) fs::remove_all(directory_, error);  // it takes memory, which may be there by now
  }
  if (is_owner_ && keep) {
    try {
      clear_staging();
    } catch (...) {  // the next run does it
    }
  }
  if (lock_ >= 0) ::close(lock_);
  for (const fs::path& path : created_) fs::remove(path, error);  // if empty
}

void WorkDirectory::tell(const std::string& now) const noexcept {
  try {
    io::write_text_atomically(directory_ / kNow, now);
  } catch (...) {
  }
}

const std::string* WorkDirectory::find(const std::string& part) const {
  const auto found = done_.find(part);
  return found == done_.end() ? nullptr : &found->second;
}

fs::path WorkDirectory::file_of(const std::string& part) const {
  return parts_ / (part + ".safetensors");
}

io::ShardedWriter WorkDirectory::create(const std::string& part,
                                        const std::vector<io::TensorSpec>& tensors) {
  return {parts_, io::plan_shards(tensors, part, 0)};
}

void WorkDirectory::finish(const std::string& part, io::ShardedWriter tensors,
                           const std::string& note) {
  LAOS_ASSERT(!done_.contains(part));
  // Who joined may outlive the job by a moment; its parts must not end up in another's.
  if (!joined_state_.empty()) check_state_is(joined_state_);
  tensors.commit();
  const Json marker = {{"sha256", io::sha256_of_file(file_of(part))}, {"note", note}};
  io::write_text_atomically(parts_ / (part + kMarkerSuffix), marker.dump(1) + "\n");
  done_[part] = note;
}

void WorkDirectory::forget(const std::string& part) {
  // The marker first: a marker says that the rest is there.
  remove_file(parts_ / (part + kMarkerSuffix));
  remove_file(file_of(part));
  done_.erase(part);
}

std::vector<int64_t> WorkDirectory::finished(const std::string& kind) const {
  std::vector<int64_t> indices;
  for (const auto& [part, note] : done_)
    if (part.starts_with(kind + "-")) indices.push_back(index_of(part));
  std::sort(indices.begin(), indices.end());
  return indices;
}

}  // namespace laos::save
