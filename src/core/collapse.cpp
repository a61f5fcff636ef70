#include "core/collapse.h"

#include <set>

namespace laos {
namespace {

constexpr size_t kMaxKinds = 100;
constexpr int64_t kListed = 3;  // of a kind, each on its own

}  // namespace

void CollapsedProblems::add(Problem problem) {
  ++count_;
  const Kind kind{problem.what, problem.fix};
  if (kinds_.size() == kMaxKinds && !kinds_.contains(kind)) {
    ++more_;
    return;
  }
  if (++kinds_[kind] <= kListed) first_.push_back(std::move(problem));
}

std::vector<Problem> CollapsedProblems::list() const {
  std::vector<Problem> result;
  std::set<Kind> said;
  for (const Problem& problem : first_) {
    const Kind kind{problem.what, problem.fix};
    const int64_t count = kinds_.at(kind);
    if (count > kListed && !said.insert(kind).second) continue;
    result.push_back(problem);
    if (count > kListed)
      result.back().where += ", and " + std::to_string(count - 1) + " more like it";
  }
  if (more_ > 0)
    result.push_back(
        {.what = "and " + std::to_string(more_) + " problems more", .where = "", .fix = ""});
  return result;
}

}  // namespace laos
