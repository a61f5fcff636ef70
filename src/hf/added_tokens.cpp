#include "hf/added_tokens.h"

#include <algorithm>

#include "core/error.h"
#include "hf/unicode.h"

namespace laos::hf {
namespace {

uint64_t edge(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

bool AddedTokens::add(std::string_view content, AddedToken token) {
  LAOS_ASSERT(!content.empty() && content.size() <= kMaxContentBytes);
  uint32_t node = 0;
  for (const char byte : content) {
    const auto [child, is_new] =
        child_.try_emplace(edge(node, byte), static_cast<uint32_t>(token_.size()));
    if (is_new) token_.push_back(kNoToken);
    node = child->second;
  }
  if (token_[node] != kNoToken) return false;
  token_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  begins_[static_cast<unsigned char>(content.front())] = true;
  return true;
}

AddedTokens::Match AddedTokens::longest_at(std::string_view text) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = child_.find(edge(node, text[i]));
    if (child == child_.end()) break;
    node = child->second;
    if (token_[node] != kNoToken)
      match = {.length = i + 1, .token = &tokens_[static_cast<size_t>(token_[node])]};
  }
  return match;
}

std::vector<TextPart> AddedTokens::split(std::string_view text) const {
  std::vector<TextPart> parts;
  size_t done = 0;    // text before it is in parts
  size_t search = 0;  // where the next token may begin: not behind white space that rstrip took
  while (search < text.size()) {
    const auto first = std::find_if(text.begin() + static_cast<std::ptrdiff_t>(search), text.end(),
                                    [&](char c) { return begins_[static_cast<unsigned char>(c)]; });
    search = static_cast<size_t>(first - text.begin());
    const Match match = longest_at(text.substr(search));
    if (match.length == 0) {
      ++search;
      continue;
    }
    size_t begin = search;
    size_t end = search + match.length;
    search = end;
    if (match.token->lstrip) {
      begin = std::max(begin, done);
      begin -= trailing_space(text.substr(done, begin - done));
    }
    if (match.token->rstrip) end += leading_space(text.substr(end));
    if (begin > done) parts.push_back({.text = text.substr(done, begin - done)});
    parts.push_back({.id = match.token->id, .text = {}});
    done = end;
  }
  if (done < text.size()) parts.push_back({.text = text.substr(done)});
  return parts;
}

}  // namespace laos::hf
