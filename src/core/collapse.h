// Messages about many of a kind.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace laos {

// Problems of something that may have millions of them. Those that differ in nothing but where they
// are, when there are more than `listed`, become the first of them with the number of the others;
// after `kinds` kinds the rest is counted.
class CollapsedProblems {
 public:
  explicit CollapsedProblems(int64_t listed = 3, size_t kinds = 100)
      : listed_(listed), max_kinds_(kinds) {}
  void add(Problem problem);
  int64_t count() const noexcept { return count_; }  // of all that were added
  std::vector<Problem> list() const;

 private:
  using Kind = std::pair<std::string, std::string>;  // what, fix
  int64_t listed_;
  size_t max_kinds_;
  int64_t count_ = 0, more_ = 0;
  std::map<Kind, int64_t> kinds_;
  std::vector<Problem> first_;  // at most `listed` of a kind
};

}  // namespace laos
