// Token ids cut into the spans that are scored.
#pragma once

#include <cstdint>
#include <vector>

namespace laos::eval {

// A span of a document. Scores ids[num_context], ids[num_context + 1], ...: each given all before
// it in the window.
struct Window {
  std::vector<int32_t> ids;
  int64_t num_context = 1;  // leading tokens that are only read, at least 1

  int64_t num_scored() const noexcept { return std::ssize(ids) - num_context; }
  bool operator==(const Window&) const = default;
};
using Windows = std::vector<Window>;

struct WindowOptions {
  int64_t seq_len = 512;   // tokens a window, at least 2
  int64_t stride = 0;      // from the start of a window to that of the next, at most seq_len; 0: it
  int64_t max_tokens = 0;  // scored, in all; 0: no limit
  // A document's last window may be shorter than seq_len. Without, what fills no window is dropped,
  // which is how perplexity on a running text is usually reported.
  bool keep_short = true;
};

// Windows of each document in turn, none over two of them. The first of a document scores its
// tokens from the second on. With stride == seq_len so do all others; with a smaller stride windows
// overlap, and the later ones score only what is new, so that every token but a document's first is
// scored once, with at least seq_len - stride tokens before it (once there are so many). The last
// window is cut short where max_tokens is reached. May be empty.
Windows cut_windows(const std::vector<std::vector<int32_t>>& documents,
                    const WindowOptions& options);

// The beginnings, of `seq_len` tokens at most, of `count` documents spread over all that have two
// tokens or more; of all of them where there are fewer. May be empty.
Windows cut_beginnings(const std::vector<std::vector<int32_t>>& documents, int64_t count,
                       int64_t seq_len);

// Likewise, but where there are fewer documents than `count`, each gives several windows, one
// behind the other.
Windows cut_spread(const std::vector<std::vector<int32_t>>& documents, int64_t count,
                   int64_t seq_len);

// The token ids of each window.
std::vector<std::vector<int32_t>> ids_of(const Windows& windows);

// Tokens that `windows` score.
int64_t num_scored(const Windows& windows) noexcept;

}  // namespace laos::eval
