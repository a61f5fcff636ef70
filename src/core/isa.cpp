#include "core/isa.h"

#include <hwy/highway.h>

#include <atomic>
#include <cstdlib>

#include "core/error.h"

namespace laos {
namespace {

std::atomic<bool> g_scalar_only{false};

// The compiled-in targets this machine can run. Asked once, before use_isa narrows Highway's
// answer.
int64_t machine_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

}  // namespace

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas = {{"scalar", 0}};
  auto targets = static_cast<uint64_t>(machine_targets());
  for (; targets != 0; targets &= targets - 1) {
    const auto target = static_cast<int64_t>(targets & (~targets + 1));
    isas.push_back({hwy::TargetName(target), target});
  }
  return isas;
}

bool scalar_only() noexcept { return g_scalar_only.load(std::memory_order_relaxed); }

void use_isa(const Isa& isa) {
  machine_targets();
  g_scalar_only = isa.hwy_target == 0;
  hwy::SetSupportedTargetsForTest(isa.hwy_target);  // 0 restores all
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::string active_isa_name() {
  if (scalar_only()) return "scalar";
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(targets & -targets);  // a lower bit is a better target
}

void use_isa_from_environment() {
  const char* wanted = std::getenv("LAOS_ISA");
  if (wanted == nullptr || *wanted == '\0') return;
  std::string known;
  for (const Isa& isa : supported_isas()) {
    if (isa.name == wanted) {
      use_isa(isa);
      return;
    }
    known += (known.empty() ? "" : ", ") + isa.name;
  }
  throw Error(ErrorCode::kUsage, {.what = "LAOS_ISA=" + std::string(wanted) +
                                          " is not an instruction set of this machine",
                                  .where = "environment",
                                  .fix = "use one of " + known + ", or unset it"});
}

void restore_isa() {
  use_isa({"", 0});
  g_scalar_only = false;
  use_isa_from_environment();
}

}  // namespace laos
