// Patterns of module names as quantization_config has them in `targets` and `ignore`.
#pragma once

#include <memory>
#include <string>

struct pcre2_real_code_8;

namespace laos::hf {

// A name, "re:" and an expression that matches from the beginning of a name, or "Linear", the class
// of all linears.
class NamePattern {
 public:
  // `where` is for messages. Throws Error(kUnsupported) for an expression that does not compile.
  NamePattern(const std::string& text, const std::string& where);

  const std::string& text() const noexcept { return text_; }
  bool is_class() const noexcept { return text_ == "Linear"; }
  // Whether it is the name, or its expression matches; never for a class. Throws
  // Error(kUnsupported) when that takes too long.
  bool matches(const std::string& name) const;

 private:
  [[noreturn]] void refuse(const std::string& what) const;

  std::string text_, where_;
  std::shared_ptr<pcre2_real_code_8> regex_;
};

}  // namespace laos::hf
