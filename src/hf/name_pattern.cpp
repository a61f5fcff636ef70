#include "hf/name_pattern.h"

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include "core/error.h"

namespace laos::hf {
namespace {

constexpr size_t kMaxNamePatternBytes = 4096;
constexpr uint32_t kMaxNameMatchSteps = 100'000;

}  // namespace

NamePattern::NamePattern(const std::string& text, const std::string& where)
    : text_(text), where_(where) {
  if (!text.starts_with("re:")) return;
  const std::string pattern = text.substr(3);
  int code = 0;
  size_t offset = 0;
  if (pattern.size() <= kMaxNamePatternBytes)
    regex_ = {pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                            PCRE2_ANCHORED, &code, &offset, nullptr),
              pcre2_code_free};
  if (!regex_) refuse("the regular expression does not compile: " + text);
}

bool NamePattern::matches(const std::string& name) const {
  if (!regex_) return !is_class() && text_ == name;
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), kMaxNameMatchSteps);
  const int result = pcre2_match(regex_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()),
                                 name.size(), 0, 0, data.get(), limits.get());
  if (result < 0 && result != PCRE2_ERROR_NOMATCH)
    refuse("the regular expression is too costly: " + text_);
  return result >= 0;
}

void NamePattern::refuse(const std::string& what) const {
  throw Error(ErrorCode::kUnsupported,
              {.what = what, .where = where_, .fix = "name the linears instead"});
}

}  // namespace laos::hf
