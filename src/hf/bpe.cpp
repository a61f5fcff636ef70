#include "hf/bpe.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "hf/unicode.h"

namespace laos::hf {
namespace {

constexpr int32_t kNoMerge = -1;
constexpr int32_t kNoToken = -1;
constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();

}  // namespace

Bpe::Bpe(Alphabet alphabet, const std::vector<Merge>& merges, int64_t num_ids)
    : alphabet_(std::move(alphabet)), first_rule_(static_cast<size_t>(num_ids) + 1, 0) {
  LAOS_ASSERT(merges.size() < static_cast<size_t>(std::numeric_limits<int32_t>::max()));
  std::vector<int32_t> order(merges.size());  // by pair, of equal pairs the last first
  for (size_t rank = 0; rank < merges.size(); ++rank) order[rank] = static_cast<int32_t>(rank);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const Merge& x = merges[static_cast<size_t>(a)];
    const Merge& y = merges[static_cast<size_t>(b)];
    return std::tie(x.left, x.right, b) < std::tie(y.left, y.right, a);
  });
  rules_.reserve(merges.size());
  const Merge* previous = nullptr;
  for (const int32_t rank : order) {
    const Merge& merge = merges[static_cast<size_t>(rank)];
    LAOS_ASSERT(merge.left >= 0 && merge.left < num_ids);
    if (previous && previous->left == merge.left && previous->right == merge.right) continue;
    previous = &merge;
    rules_.push_back({.right = merge.right, .rank = rank, .merged = merge.merged});
    ++first_rule_[static_cast<size_t>(merge.left) + 1];
  }
  for (size_t t = 1; t < first_rule_.size(); ++t) first_rule_[t] += first_rule_[t - 1];
}

const Bpe::Rule* Bpe::find(int32_t left, int32_t right) const noexcept {
  const Rule* begin = rules_.data() + first_rule_[static_cast<size_t>(left)];
  const Rule* end = rules_.data() + first_rule_[static_cast<size_t>(left) + 1];
  const Rule* rule = std::lower_bound(
      begin, end, right, [](const Rule& candidate, int32_t id) { return candidate.right < id; });
  return rule != end && rule->right == right ? rule : nullptr;
}

// Looks up the merge of `symbol` with the next one, and queues it: keys sort by rank, then
// position.
void Bpe::consider(Scratch& scratch, uint32_t symbol) const {
  Scratch::Symbol& s = scratch.symbols_[symbol];
  const Rule* rule = s.next == kEnd ? nullptr : find(s.id, scratch.symbols_[s.next].id);
  s.rank = rule ? rule->rank : kNoMerge;
  if (!rule) return;
  s.merged = rule->merged;
  scratch.queue_.push_back(static_cast<uint64_t>(rule->rank) << 32 | symbol);
}

// The token of the byte or character that `rest` begins with, and its length.
int32_t Bpe::token_at(std::string_view rest, size_t& length) const noexcept {
  length = 1;
  if (!alphabet_.by_character) return alphabet_.bytes[static_cast<unsigned char>(rest.front())];
  length = utf8_step(rest).length;
  const auto character = static_cast<size_t>(code_point(rest));
  return character < alphabet_.characters.size() ? alphabet_.characters[character] : kNoToken;
}

bool Bpe::knows(std::string_view piece) const noexcept {
  for (size_t length = 0; !piece.empty(); piece.remove_prefix(length))
    if (token_at(piece, length) == kNoToken) return false;
  return true;
}

// Writes the tokens of the alphabet that `piece` is made of into `scratch`.
void Bpe::begin(std::string_view piece, Scratch& scratch) const {
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto add = [&](int32_t id) {
    const auto i = static_cast<uint32_t>(symbols.size());
    symbols.push_back({.id = id,
                       .rank = kNoMerge,
                       .merged = kNoMerge,
                       .previous = i == 0 ? kEnd : i - 1,
                       .next = i + 1});
  };
  // As in the Hugging Face library an unknown token waits for the next known one, and byte tokens
  // overtake it.
  bool unknown_waits = false;
  const auto end_unknown = [&] {
    if (std::exchange(unknown_waits, false)) add(alphabet_.unknown);
  };
  size_t length = 0;
  for (; !piece.empty(); piece.remove_prefix(length)) {
    const int32_t id = token_at(piece, length);
    const std::string_view bytes = piece.substr(0, length);
    const auto of_byte = [&](char c) { return alphabet_.bytes[static_cast<unsigned char>(c)]; };
    if (id != kNoToken) {
      end_unknown();
      add(id);
    } else if (alphabet_.by_character && std::none_of(bytes.begin(), bytes.end(), [&](char c) {
                 return of_byte(c) == kNoToken;
               })) {
      for (const char c : bytes) add(of_byte(c));
    } else if (alphabet_.unknown != kNoToken) {  // else it is left out
      if (!alphabet_.fuse_unknown) end_unknown();
      unknown_waits = true;
    }
  }
  end_unknown();
  if (!symbols.empty()) symbols.back().next = kEnd;
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (piece.size() > kMaxPieceBytes)
    throw Error(ErrorCode::kData, {.what = "a word of " + std::to_string(piece.size()) +
                                           " bytes; the longest that laos tokenizes has " +
                                           std::to_string(kMaxPieceBytes),
                                   .where = "",
                                   .fix = "remove it: this is no text"});
  if (piece.empty()) return;
  auto& symbols = scratch.symbols_;
  auto& queue = scratch.queue_;
  queue.clear();
  begin(piece, scratch);
  const auto size = static_cast<uint32_t>(symbols.size());
  for (uint32_t i = 0; i < size; ++i) consider(scratch, i);

  const std::greater<uint64_t> later;
  std::make_heap(queue.begin(), queue.end(), later);
  const auto reconsider = [&](uint32_t symbol) {
    const size_t before = queue.size();
    consider(scratch, symbol);
    if (queue.size() != before) std::push_heap(queue.begin(), queue.end(), later);
  };
  while (!queue.empty()) {
    const auto rank = static_cast<int32_t>(queue.front() >> 32);
    const auto position = static_cast<uint32_t>(queue.front());
    std::pop_heap(queue.begin(), queue.end(), later);
    queue.pop_back();
    Scratch::Symbol& s = symbols[position];
    if (s.rank != rank) continue;  // since queued, this symbol or the next has become another
    Scratch::Symbol& absorbed = symbols[s.next];
    s.id = s.merged;
    s.next = absorbed.next;
    absorbed.rank = kNoMerge;
    if (s.next != kEnd) symbols[s.next].previous = position;
    reconsider(position);
    if (s.previous != kEnd) reconsider(s.previous);
  }
  for (uint32_t i = size == 0 ? kEnd : 0; i != kEnd; i = symbols[i].next)
    ids.push_back(symbols[i].id);
}

}  // namespace laos::hf
