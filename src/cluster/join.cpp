#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "cluster/alone.h"
#include "cluster/module.h"

namespace laos::cluster {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& where,
                         const std::string& fix) {
  throw Error(ErrorCode::kUnsupported, {.what = what, .where = where, .fix = fix});
}

struct Module {
  JoinRanks join = nullptr;    // null: it does not load
  std::string looked_at, why;  // where, and why not
};

Module load_module() {
  std::error_code error;
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  Module result;
  result.why = "there is none";
  for (const std::filesystem::path& file :
       {program / kModule, program.parent_path() / "lib" / "laos" / kModule}) {
    result.looked_at += (result.looked_at.empty() ? "" : ", ") + file.string();
    if (!std::filesystem::exists(file, error)) continue;
    // Global: Open MPI's own plugins look for its names there.
    void* const module = ::dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (module == nullptr) {
      const char* const problem = ::dlerror();
      result.why = problem != nullptr ? problem : "it does not load";
      continue;
    }
    const auto* const version = static_cast<const char*>(::dlsym(module, kModuleVersion));
    if (version == nullptr || std::string(version) != LAOS_VERSION)
      refuse(std::string(kModule) + " belongs to another version of laos than this " LAOS_VERSION,
             file.string(), "install both of the same version");
    result.join = reinterpret_cast<JoinRanks>(::dlsym(module, kJoinRanks));
    return result;
  }
  return result;
}

}  // namespace

std::unique_ptr<Cluster> join(std::function<void(Cluster&, const Error&)> on_lost) {
  const bool launched = std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr ||
                        std::getenv("PMIX_RANK") != nullptr || std::getenv("PMI_RANK") != nullptr;
  const int ranks = started_ranks();
  if (!launched) {
    if (ranks > 1)
      refuse(std::to_string(ranks) +
                 " tasks were started without a way to find each "
                 "other: each would do the whole job",
             "launcher", "srun --mpi=pmix, or mpirun inside the allocation");
    return std::make_unique<Alone>();
  }
  const int timeout = rank_timeout_seconds();
  const Module module = load_module();
  if (module.join != nullptr)
    if (Cluster* const cluster = module.join(std::move(on_lost), timeout))
      return std::unique_ptr<Cluster>(cluster);
  if (ranks == 1) return std::make_unique<Alone>();
  if (module.join == nullptr)
    refuse(std::to_string(ranks) + " ranks were started, and what joins them, " + kModule +
               ", does not load: " + module.why + ". Each would do the whole job",
           module.looked_at,
           "install the package laos-mpi, or build laos with -DLAOS_MPI=ON (Debian: "
           "libopenmpi-dev), or start one");
  refuse("the launcher started " + std::to_string(ranks) +
             " ranks, but this laos's MPI finds itself alone",
         "launcher", "start it with the mpirun of the MPI it was built with: Open MPI");
}

}  // namespace laos::cluster
