// Errors: what a user, a file or a machine can cause. What only we can cause is LAOS_ASSERT.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <utility>
#include <vector>

namespace laos {

enum class ErrorCode {
  kUsage,        // a command-line flag
  kRecipe,       // a recipe: YAML, schema, or a pair no format can hold
  kData,         // a calibration or evaluation text
  kIo,           // a file cannot be opened, read, written, renamed
  kFormat,       // a file is not what its format says
  kShape,        // a tensor's shape disagrees with what needs it
  kNumeric,      // NaN, infinity, no convergence
  kUnsupported,  // valid, and not something laos does
  kResource,     // memory, disk
  kStopped,      // a run that was asked to stop did
  kInternal,     // a defect of laos
};

const char* to_string(ErrorCode code) noexcept;

// One thing that is wrong. `where` is file:line:column, a tensor or a flag; `fix` may be empty.
struct Problem {
  std::string what;
  std::string where;
  std::string fix;
};

// Carries one or more problems of one kind. what() lists them all, ready to print.
class Error : public std::exception {
 public:
  Error(ErrorCode code, Problem problem);
  Error(ErrorCode code, std::vector<Problem> problems);

  ErrorCode code() const noexcept { return code_; }
  const std::vector<Problem>& problems() const noexcept { return problems_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  ErrorCode code_;
  std::vector<Problem> problems_;
  std::string text_;
};

// Collects problems, so that a user sees all of them at once.
class Problems {
 public:
  void add(Problem problem) { list_.push_back(std::move(problem)); }
  bool empty() const noexcept { return list_.empty(); }
  const std::vector<Problem>& list() const noexcept { return list_; }
  // Throws Error(code) with everything collected; does nothing when nothing was.
  void throw_if_any(ErrorCode code) const;

 private:
  std::vector<Problem> list_;
};

// Of `candidates`, the one nearest to `name` by edit distance, the first of equals, or "" when none
// is near (within a third of its letters and one more). For "did you mean" in messages.
std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates);

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

}  // namespace laos

#define LAOS_ASSERT(expression) \
  ((expression) ? void(0) : ::laos::assertion_failed(#expression, __FILE__, __LINE__))
