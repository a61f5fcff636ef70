// The regular expression that cuts text into the pieces that byte-level BPE merges within.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace laos::hf {

// Immutable; may be used from several threads at once. The pattern is read as the Hugging Face
// library does (Oniguruma, Ruby syntax, Unicode 16), of which the part is taken that tokenizers
// use: groups (?:) (?i:) (?>) (?=) (?!) (?<=) (?<!), classes, properties, \s \S, literals,
// quantifiers.
class SplitRegex {
 public:
  // Throws Error(kUnsupported), naming `where`, on a pattern outside that part or too large to
  // compile.
  SplitRegex(std::string_view pattern, const std::string& where);
  ~SplitRegex();
  SplitRegex(SplitRegex&&) noexcept;
  SplitRegex& operator=(SplitRegex&&) noexcept;

  // Walks over the pieces of a text: matches, and what lies between matches, none empty. Their
  // concatenation is the text.
  class Pieces {
   public:
    // `text` is valid UTF-8; it and the regex must outlive this.
    Pieces(const SplitRegex& regex, std::string_view text);
    ~Pieces();
    Pieces(Pieces&&) = delete;

    // The next piece into `piece`; false when there is none. Throws Error(kUnsupported) when the
    // pattern backtracks beyond measure.
    bool next(std::string_view& piece);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace laos::hf
