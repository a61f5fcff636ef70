#include "eval/windows.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/error.h"

namespace laos::eval {

Windows cut_windows(const std::vector<std::vector<int32_t>>& documents,
                    const WindowOptions& options) {
  const int64_t seq_len = options.seq_len, stride = options.stride == 0 ? seq_len : options.stride;
  LAOS_ASSERT(seq_len >= 2 && stride >= 1 && stride <= seq_len && options.max_tokens >= 0);
  int64_t left = options.max_tokens == 0 ? std::numeric_limits<int64_t>::max() : options.max_tokens;
  Windows windows;
  for (const std::vector<int32_t>& ids : documents) {
    const int64_t length = std::ssize(ids);
    for (int64_t begin = 0, scored_end = 1; scored_end < length && left > 0; begin += stride) {
      const int64_t end = std::min(begin + seq_len, length);
      if (end - begin < seq_len && !options.keep_short) break;
      // A window's first token has nothing before it.
      const int64_t first_scored = std::max(scored_end, begin + 1);
      scored_end = end;
      if (first_scored >= end) continue;
      const int64_t count = std::min(end - first_scored, left);
      left -= count;
      windows.push_back({.ids = {ids.begin() + begin, ids.begin() + first_scored + count},
                         .num_context = first_scored - begin});
    }
  }
  return windows;
}

Windows cut_beginnings(const std::vector<std::vector<int32_t>>& documents, int64_t count,
                       int64_t seq_len) {
  std::vector<const std::vector<int32_t>*> usable;
  for (const std::vector<int32_t>& document : documents)
    if (document.size() >= 2) usable.push_back(&document);
  Windows windows;
  count = std::min(count, std::ssize(usable));
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<int32_t>& ids = *usable[static_cast<size_t>(i * std::ssize(usable) / count)];
    windows.push_back({.ids = {ids.begin(), ids.begin() + std::min(seq_len, std::ssize(ids))}});
  }
  return windows;
}

Windows cut_spread(const std::vector<std::vector<int32_t>>& documents, int64_t count,
                   int64_t seq_len) {
  const int64_t of_each =
      std::max<int64_t>(1, count / std::max<int64_t>(1, std::ssize(documents)));
  std::vector<std::vector<int32_t>> pieces;
  for (const std::vector<int32_t>& document : documents)
    for (int64_t i = 0, begin = 0; i < of_each && (i == 0 || begin + 2 <= std::ssize(document));
         ++i, begin += seq_len)
      pieces.emplace_back(document.begin() + begin, document.end());
  return cut_beginnings(pieces, count, seq_len);
}

std::vector<std::vector<int32_t>> ids_of(const Windows& windows) {
  std::vector<std::vector<int32_t>> ids;
  ids.reserve(windows.size());
  for (const Window& window : windows) ids.push_back(window.ids);
  return ids;
}

int64_t num_scored(const Windows& windows) noexcept {
  int64_t count = 0;
  for (const Window& window : windows) count += window.num_scored();
  return count;
}

}  // namespace laos::eval
