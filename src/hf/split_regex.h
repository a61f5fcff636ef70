// The regular expressions that cut text into the pieces that BPE merges within.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace laos::hf {

// Immutable; may be used from several threads at once. The pattern is read as the Hugging Face
// library does (Oniguruma, Ruby syntax, Unicode 16), of which the part is taken that tokenizers
// use: groups (?:) (?i:) (?>) (?=) (?!) (?<=) (?<!), classes, general categories, \s \S \d \D,
// . ^ $, literals, quantifiers.
class SplitRegex {
 public:
  // Throws Error(kUnsupported), naming `where`, on a pattern outside that part or too large to
  // compile.
  SplitRegex(std::string_view pattern, const std::string& where);
  ~SplitRegex();
  SplitRegex(SplitRegex&&) noexcept;
  // The pattern that matches `text` and nothing else.
  static std::string quote(std::string_view text);
  SplitRegex& operator=(SplitRegex&&) noexcept;

  // What cutting one text, by any number of expressions one after the other, works with: memory,
  // and the steps of matching that are left for it.
  class Scratch {
   public:
    // For `bytes` of text that each of `num_regexes` cuts.
    explicit Scratch(size_t bytes, size_t num_regexes = 1);
    ~Scratch();
    Scratch(Scratch&&) = delete;

   private:
    friend class SplitRegex;
    struct State;
    std::unique_ptr<State> state_;
  };

  // Walks over the pieces of a text: matches, and what lies between matches, none empty. Their
  // concatenation is the text.
  class Pieces {
   public:
    // `text` is valid UTF-8; it, the regex and the scratch must outlive this. Several may take
    // turns with one scratch.
    Pieces(const SplitRegex& regex, std::string_view text, Scratch& scratch)
        : regex_(regex), text_(text), scratch_(scratch) {}

    // The next piece into `piece`; false when there is none. Throws Error(kUnsupported) when the
    // pattern backtracks beyond measure.
    bool next(std::string_view& piece);

   private:
    int match_here();

    const SplitRegex& regex_;
    std::string_view text_;
    Scratch& scratch_;
    size_t done_ = 0;                                 // text before it has been handed out
    size_t search_ = 0;                               // where the next match may begin
    std::optional<std::pair<size_t, size_t>> found_;  // a match that waits behind a gap
  };

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace laos::hf
