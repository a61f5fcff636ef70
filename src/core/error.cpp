#include "core/error.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace laos {
namespace {

// Messages quote what files say, which may be made to steer the terminal that shows it: control
// characters are escaped.
std::string printable(const std::string& text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f)
      result += c;
    else
      result += std::string("\\x") + kHex[byte >> 4] + kHex[byte & 15];
  }
  return result;
}

std::vector<Problem> printable(std::vector<Problem> problems) {
  for (Problem& problem : problems)
    for (std::string* text : {&problem.what, &problem.where, &problem.fix})
      *text = printable(*text);
  return problems;
}

std::string format(const std::vector<Problem>& problems) {
  std::string text;
  if (problems.size() > 1) text += std::to_string(problems.size()) + " problems\n";
  for (const Problem& problem : problems) {
    if (problems.size() > 1) text += "- ";
    text += problem.what;
    if (!problem.where.empty()) text += "\n  at:  " + problem.where;
    if (!problem.fix.empty()) text += "\n  fix: " + problem.fix;
    text += '\n';
  }
  if (!text.empty()) text.pop_back();
  return text;
}

int64_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

const char* to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kRecipe:
      return "recipe";
    case ErrorCode::kData:
      return "data";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kFormat:
      return "format";
    case ErrorCode::kShape:
      return "shape";
    case ErrorCode::kNumeric:
      return "numeric";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kStopped:
      return "stopped";
    case ErrorCode::kResource:
      return "resource";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "unknown";
}

Error::Error(ErrorCode code, Problem problem) : Error(code, std::vector{std::move(problem)}) {}

Error::Error(ErrorCode code, std::vector<Problem> problems)
    : code_(code), problems_(printable(std::move(problems))), text_(format(problems_)) {}

void Problems::throw_if_any(ErrorCode code) const {
  if (!list_.empty()) throw Error(code, list_);
}

std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  int64_t best_distance = static_cast<int64_t>(name.size()) / 3 + 1;
  for (const std::string& candidate : candidates) {
    const int64_t distance = edit_distance(name, candidate);
    if (distance <= best_distance && (best.empty() || distance < best_distance)) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

void assertion_failed(const char* expression, const char* file, int line) {
  throw Error(ErrorCode::kInternal, {.what = std::string("assertion failed: ") + expression,
                                     .where = std::string(file) + ":" + std::to_string(line),
                                     .fix = "this is a defect of laos; please report it"});
}

}  // namespace laos
