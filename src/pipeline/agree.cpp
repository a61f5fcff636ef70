#include "pipeline/agree.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/isa.h"
#include "core/threads.h"
#include "io/checksum.h"
#include "linalg/gemm.h"
#include "linalg/onednn.h"
#include "pipeline/identity.h"

namespace laos::pipeline {
namespace {

using Json = nlohmann::json;

std::string name_of_rank(int rank, const cluster::Cluster& cluster) {
  return "rank " + std::to_string(rank) + " on " + cluster.hosts()[static_cast<size_t>(rank)];
}

// Processors that the system lets this process use.
std::vector<int> own_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> processors;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) processors.push_back(i);
  return processors;
}

// Products of the kinds that a run is made of, of sizes that tiles have, as a checksum: ranks whose
// library orders sums otherwise do not make the same bytes.
std::string arithmetic() {
  io::Sha256 sum;
  for (const int64_t depth : {768, 2560}) {
    Mat<float> a(192, depth), b(160, depth), c(192, 160), g(depth / 4, depth / 4);
    uint32_t state = 1;
    for (Mat<float>* m : {&a, &b})
      for (int64_t i = 0; i < m->size(); ++i) {
        state = state * 1664525u + 1013904223u;
        m->data()[i] = static_cast<float>(state >> 8) * 0x1p-24f - 0.5f;
      }
    const auto take = [&](const Mat<float>& m) {
      sum.update(std::as_bytes(std::span(m.data(), static_cast<size_t>(m.size()))));
    };
    linalg::gemm(linalg::Trans::kNo, linalg::Trans::kYes, 1.0f, a.view(), b.view(), 0.0f, c.view());
    take(c);
    linalg::gram(std::as_const(a).view().slice_cols(0, depth / 4), g.view());
    take(g);
    if (linalg::has_native_bf16()) {
      Mat<uint16_t> a16(a.rows(), a.cols()), b16(b.rows(), b.cols());
      linalg::to_bf16(a.view(), a16.view());
      linalg::to_bf16(b.view(), b16.view());
      linalg::gemm_bf16(linalg::Trans::kNo, linalg::Trans::kYes, a16.view(), b16.view(), false,
                        c.view());
      take(c);
    }
  }
  return sum.hex();
}

// The best kernels that all ranks have, for all to use; nothing when they have the same.
void lower_to_common(cluster::Cluster& cluster, std::vector<std::string>& warnings) {
  Json own = {{"active", active_isa_name()}, {"all", Json::array()}};
  for (const Isa& isa : supported_isas()) own["all"].push_back(isa.name);
  const std::vector<std::string> texts = cluster.gather(own.dump());
  std::string common;
  if (cluster.rank() == 0) {
    std::set<std::string> active, everywhere;
    std::string seen;
    for (size_t r = 0; r < texts.size(); ++r) {
      const Json rank = Json::parse(texts[r]);
      const auto all = rank["all"].get<std::set<std::string>>();
      active.insert(rank["active"].get<std::string>());
      if (r == 0) everywhere = all;
      std::erase_if(everywhere, [&](const std::string& name) { return !all.contains(name); });
      seen += (seen.empty() ? "" : ", ") + name_of_rank(static_cast<int>(r), cluster) + ": " +
              rank["active"].get<std::string>();
    }
    if (active.size() > 1) {
      // A rank uses its best, or what LAOS_ISA holds it to: the least of those in use that all
      // have, else the best that all have. supported_isas() has the best first, behind scalar.
      common = "scalar";
      std::string best;
      for (const Isa& isa : supported_isas()) {
        if (isa.name == "scalar" || !everywhere.contains(isa.name)) continue;
        if (best.empty()) best = isa.name;
        if (active.contains(isa.name)) common = isa.name;
      }
      if (active.contains("scalar"))
        common = "scalar";
      else if (common == "scalar" && !best.empty())
        common = best;
      warnings.push_back("the ranks have different instruction sets (" + seen +
                         "): all use what every one has, " + common);
    }
  }
  common = cluster.broadcast(common);
  if (common.empty()) return;
  linalg::limit_onednn_isa(common);
  for (const Isa& isa : supported_isas())
    if (isa.name == common) use_isa(isa);
}

// Where ranks of one machine have fewer processors than threads, or together leave most idle.
void look_at_binding(cluster::Cluster& cluster, std::vector<std::string>& warnings) {
  const Json own = {{"threads", num_threads()},
                    {"processors", own_processors()},
                    {"machine", sysconf(_SC_NPROCESSORS_ONLN)}};
  const std::vector<std::string> texts = cluster.gather(own.dump());
  struct Host {
    std::string ranks;
    std::set<int> processors;
    int64_t num_ranks = 0, threads = 0, machine = 0;
  };
  std::map<std::string, Host> hosts;
  for (size_t r = 0; r < texts.size(); ++r) {
    const Json rank = Json::parse(texts[r]);
    Host& host = hosts[cluster.hosts()[r]];
    host.ranks += (host.ranks.empty() ? "" : ", ") + std::to_string(r);
    ++host.num_ranks;
    for (const int processor : rank["processors"].get<std::vector<int>>())
      host.processors.insert(processor);
    host.threads += rank["threads"].get<int64_t>();
    host.machine = rank["machine"].get<int64_t>();
  }
  for (const auto& [name, host] : hosts) {
    const int64_t processors = std::ssize(host.processors);
    const std::string who = (host.num_ranks == 1 ? "rank " : "ranks ") + host.ranks + " on " + name;
    if (processors > 0 && host.threads > processors)
      warnings.push_back(who + " run " + std::to_string(host.threads) + " threads on " +
                         std::to_string(processors) +
                         " processors and slow each other down: give each rank its own (mpirun "
                         "--map-by ppr:1:node:pe=N, or ppr:1:numa), or fewer --threads");
    else if (2 * host.threads <= host.machine)
      warnings.push_back(who + " use " + std::to_string(host.threads) + " of " +
                         std::to_string(host.machine) +
                         " processors: mpirun binds few ranks to a core each; give them the "
                         "machine (mpirun --map-by ppr:1:node --bind-to none, or --map-by "
                         "ppr:1:numa:pe=N)");
  }
}

}  // namespace

std::vector<std::string> agree_on_arithmetic(cluster::Cluster& cluster) {
  std::vector<std::string> warnings;
  if (cluster.size() == 1) return warnings;
  lower_to_common(cluster, warnings);
  const std::vector<std::string> sums = cluster.gather(arithmetic());
  for (size_t r = 1; r < sums.size(); ++r)
    if (sums[r] != sums[0])
      throw Error(
          ErrorCode::kUnsupported,
          {.what = name_of_rank(static_cast<int>(r), cluster) + " and " + name_of_rank(0, cluster) +
                   " do not compute the same bits: their processors or their oneDNN differ",
           .where = active_isa_name() + ", " + linalg::onednn_description(),
           .fix = "use machines of one kind, or ONEDNN_MAX_CPU_ISA and LAOS_ISA of the "
                  "lesser one for all"});
  look_at_binding(cluster, warnings);
  return warnings;
}

void agree_on_plan(const Plan& plan, cluster::Cluster& cluster) {
  if (cluster.size() == 1) return;
  Identity identity = plan_identity(plan);
  identity["model type"] = plan.options.model_type;
  add_model_files(plan.options.model_path, plan.options.local_model, identity);
  // Names of files need not be UTF-8; those that are not are compared as what JSON has instead.
  const std::vector<std::string> texts =
      cluster.gather(Json(identity).dump(-1, ' ', false, Json::error_handler_t::replace));
  for (size_t r = 1; r < texts.size(); ++r) {
    if (texts[r] == texts[0]) continue;
    const auto mine = Json::parse(texts[0]).get<std::map<std::string, std::string>>(),
               its = Json::parse(texts[r]).get<std::map<std::string, std::string>>();
    std::string changed;
    std::set<std::string> names;
    for (const auto& [name, value] : mine) names.insert(name);
    for (const auto& [name, value] : its) names.insert(name);
    for (const std::string& name : names)
      if (!mine.contains(name) || !its.contains(name) || mine.at(name) != its.at(name))
        changed += (changed.empty() ? "" : ", ") + name;
    throw Error(
        ErrorCode::kUsage,
        {.what = name_of_rank(static_cast<int>(r), cluster) + " would not do the same work as " +
                 name_of_rank(0, cluster) + "; different: " + changed,
         .where = plan.options.model_path.string(),
         .fix = "start all ranks with the same program, flags and files; where each "
                "machine has its own copy of the model, say so with --local-model"});
  }
  cluster.barrier();
}

}  // namespace laos::pipeline
