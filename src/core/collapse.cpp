#include "core/collapse.h"

#include <set>

namespace laos {

void CollapsedProblems::add(Problem problem) {
  ++count_;
  const Kind kind{problem.what, problem.fix};
  if (kinds_.size() == max_kinds_ && !kinds_.contains(kind)) {
    ++more_;
    return;
  }
  if (++kinds_[kind] <= listed_) first_.push_back(std::move(problem));
}

std::vector<Problem> CollapsedProblems::list() const {
  std::vector<Problem> result;
  std::set<Kind> said;
  for (const Problem& problem : first_) {
    const Kind kind{problem.what, problem.fix};
    const int64_t count = kinds_.at(kind);
    if (count > listed_ && !said.insert(kind).second) continue;
    result.push_back(problem);
    if (count > listed_)
      result.back().where += ", and " + std::to_string(count - 1) + " more like it";
  }
  if (more_ > 0)
    result.push_back(
        {.what = "and " + std::to_string(more_) + " problems more", .where = "", .fix = ""});
  return result;
}

}  // namespace laos
