// Byte-pair encoding: what turns one piece of text into tokens.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace laos::hf {

// Immutable; may be used from several threads at once, each with its own Scratch.
class Bpe {
 public:
  // Where `left` stands before `right`, they may become `merged`.
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t merged = 0;
  };

  // The tokens that merging begins with. -1 stands for none.
  struct Alphabet {
    Alphabet() { bytes.fill(-1); }
    bool by_character = false;
    // Of each byte. With by_character: of the bytes that stand for characters without a token.
    std::array<int32_t, 256> bytes;
    std::vector<int32_t> characters;  // with by_character: of each code point below its size
    int32_t unknown = -1;             // for what has no token
    bool fuse_unknown = false;        // a run of unknown ones becomes one token
  };

  // Memory that calls of encode reuse.
  class Scratch {
    friend class Bpe;
    struct Symbol {
      int32_t id;
      int32_t rank;    // of the merge with the next symbol; kNoMerge
      int32_t merged;  // what that merge gives
      uint32_t previous;
      uint32_t next;
    };
    std::vector<Symbol> symbols_;
    std::vector<uint64_t> queue_;
  };

  // merges: most wanted first; of two with the same pair the later counts. All ids are in
  // [0, num_ids).
  Bpe(Alphabet alphabet, const std::vector<Merge>& merges, int64_t num_ids);

  // Appends the tokens of `piece` (by_character: valid UTF-8) to `ids`: again and again the most
  // wanted merge, of equal ones the leftmost, is done, until there is none. O(n log n). What has no
  // token is left out where none stands for the unknown, as by the Hugging Face library. Throws
  // Error(kData) when piece has more than kMaxPieceBytes.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  // Whether the alphabet has a token for everything in `piece`.
  bool knows(std::string_view piece) const noexcept;

  static constexpr size_t kMaxPieceBytes = size_t{1} << 24;

 private:
  struct Rule {
    int32_t right;
    int32_t rank;
    int32_t merged;
  };

  const Rule* find(int32_t left, int32_t right) const noexcept;
  int32_t token_at(std::string_view rest, size_t& length) const noexcept;
  void begin(std::string_view piece, Scratch& scratch) const;
  void consider(Scratch& scratch, uint32_t symbol) const;

  Alphabet alphabet_;
  // Rules of left token t, sorted by right token: rules_[first_rule_[t]] to rules_[first_rule_[t +
  // 1]]. Sorted rather than hashed: no file can make a look-up slow.
  std::vector<uint32_t> first_rule_;
  std::vector<Rule> rules_;
};

}  // namespace laos::hf
