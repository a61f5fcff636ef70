// Added tokens: strings that are found in text before anything else is done to it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace laos::hf {

struct AddedToken {
  int32_t id = 0;
  bool lstrip = false;  // takes the white space to its left along
  bool rstrip = false;  // and that to its right
};

// A part of a text: an added token, or text between two of them.
struct TextPart {
  static constexpr int32_t kText = -1;
  int32_t id = kText;
  std::string_view text;  // empty for a token
};

// A set of strings to be found. Immutable once filled.
class AddedTokens {
 public:
  static constexpr size_t kMaxContentBytes = 1024;  // bounds the time spent at each byte of a text

  // `content` has 1 to kMaxContentBytes bytes. False when it is there already.
  bool add(std::string_view content, AddedToken token);

  // The parts of valid UTF-8 `text`, in order: from the left, the longest token wherever one
  // begins.
  std::vector<TextPart> split(std::string_view text) const;

  bool has(int32_t id) const noexcept {
    return std::any_of(tokens_.begin(), tokens_.end(),
                       [id](const AddedToken& token) { return token.id == id; });
  }

 private:
  struct Match {
    size_t length = 0;  // 0: none
    const AddedToken* token = nullptr;
  };
  Match longest_at(std::string_view text) const;

  static constexpr int32_t kNoToken = -1;
  // A trie: child_[node << 8 | byte]; node 0 is the root. token_[node] ends there, an index of
  // tokens_.
  std::unordered_map<uint64_t, uint32_t> child_;
  std::vector<int32_t> token_ = {kNoToken};
  std::vector<AddedToken> tokens_;
  bool begins_[256] = {};  // bytes that a token begins with
};

}  // namespace laos::hf
