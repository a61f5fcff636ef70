// The hidden states of a set of samples: one row a token, samples laid end to end.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "io/paged_memory.h"
#include "model/decoder_layer.h"

namespace laos::model {

// A matrix of f32 rows in memory, or in a private file of which the process holds the pages at
// work: who has read or written rows drops them.
class TokenRows {
 public:
  TokenRows() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): rows in memory are rows.
  TokenRows(Mat<float> rows)
      : memory_(std::move(rows)),
        data_(memory_.data()),
        rows_(memory_.rows()),
        cols_(memory_.cols()) {}
  // In a file in `directory`, in memory when that is empty; not initialised. Throws Error as
  // io::PagedMemory.
  TokenRows(int64_t rows, int64_t cols, const std::filesystem::path& directory);

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int64_t size() const noexcept { return rows_ * cols_; }
  float* data() const noexcept { return data_; }
  float* row(int64_t i) const noexcept { return data_ + i * cols_; }
  float& operator()(int64_t i, int64_t j) const noexcept { return row(i)[j]; }
  MatView<float> view() noexcept { return {data_, rows_, cols_, cols_}; }
  MatView<const float> view() const noexcept { return {data_, rows_, cols_, cols_}; }

  // Rows [begin, end) are not needed for now.
  void drop(int64_t begin, int64_t end) const noexcept {
    if (file_.data() != nullptr)
      io::drop_pages(
          std::as_bytes(std::span(row(begin), static_cast<size_t>((end - begin) * cols_))));
  }
  // Calls f(begin, end) over all rows in order, some at a time, and drops them.
  template <class F>
  void for_pieces(F&& f) const {
    constexpr int64_t kRows = 1024;
    for (int64_t begin = 0; begin < rows_; begin += kRows) {
      const int64_t end = std::min(rows_, begin + kRows);
      f(begin, end);
      drop(begin, end);
    }
  }

 private:
  Mat<float> memory_;
  io::PagedMemory file_;
  float* data_ = nullptr;
  int64_t rows_ = 0, cols_ = 0;
};

struct HiddenStates {
  Ragged samples;
  TokenRows rows;  // [samples.num_tokens(), hidden_size]

  MatView<float> of_sample(int64_t s) noexcept {
    return rows.view().slice_rows(samples.offsets[static_cast<size_t>(s)],
                                  samples.offsets[static_cast<size_t>(s + 1)]);
  }
  MatView<const float> of_sample(int64_t s) const noexcept {
    return rows.view().slice_rows(samples.offsets[static_cast<size_t>(s)],
                                  samples.offsets[static_cast<size_t>(s + 1)]);
  }
};

// Rows of `embed_tokens` [vocab_size, hidden_size] for the token ids of each sequence, kept as
// TokenRows in `directory`. Throws Error(kData) on an id outside the vocabulary.
HiddenStates embed(const TensorView& embed_tokens,
                   const std::vector<std::vector<int32_t>>& sequences,
                   const std::filesystem::path& directory = {});

// What runs through a layer at once: the samples [first, last), or a part of a sample that is too
// long to.
struct Piece {
  int64_t first;
  int64_t last;
  int64_t begin;  // row of the first token
  Ragged batch;
};
// Pieces of at most `max_tokens` tokens, in order.
std::vector<Piece> pieces_of(const Ragged& samples, int64_t max_tokens);

// Samples [first, last), in order, none of which shares a piece with any other range: the pieces of
// some of these ranges are the same with and without the others.
struct SampleRange {
  int64_t first;
  int64_t last;
};
std::vector<SampleRange> whole_pieces(const Ragged& samples, int64_t max_tokens);

// Runs a layer over all samples in pieces: outputs->rows = layer(inputs). `saved` must be large
// enough for largest_piece and longest_sample, `rope` for the latter; inputs and outputs may be the
// same object, and outputs null when nobody wants them. `observe`, when not null, is called with
// each piece and what forward saved.
using ObserveLayer =
    std::function<void(const Piece& piece, const Ragged& batch, LayerSaved<float>& saved)>;
void forward_all(const hf::Config& config, const LayerNorms<float>& norms,
                 LinearsForward<float>& linears, const Rope<float>& rope,
                 const HiddenStates& inputs, int64_t max_tokens, LayerSaved<float>& saved,
                 HiddenStates* outputs, const ObserveLayer& observe = nullptr);

// Tokens of the largest piece that forward_all will run at once.
int64_t largest_piece(const Ragged& samples, int64_t max_tokens);
// Tokens of the longest sample.
int64_t longest_sample(const Ragged& samples);

}  // namespace laos::model
