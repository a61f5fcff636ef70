#include "model/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "core/threads.h"
#include "linalg/kernels/bf16.h"
#include "model/kernels/elementwise.h"

namespace laos::model {

using linalg::ComputeType;
using linalg::Trans;

namespace {

// A block of queries is of all heads that share keys, one head below the other: few queries, so
// that little beyond the diagonal is computed, but enough rows for products at full rate.
constexpr int64_t kScoreRows = 128, kMinQueries = 16;
// Keys that a product takes at a time. oneDNN compiles code for every shape of a bf16 product, so
// numbers of keys and queries are filled up to multiples of these there.
constexpr int64_t kKeyChunk = 1024, kBf16KeyStep = 32, kBf16QueryStep = 16;
// Rows a multiple of 4 KB apart would share a few lines of the cache.
constexpr int64_t kRowPadding = 16;

constexpr int64_t round_up(int64_t x, int64_t step) noexcept {
  return (x + step - 1) / step * step;
}

// A power of two, so that parts of a sequence end where blocks do.
int64_t queries_of_block(int64_t group) noexcept {
  const auto most = static_cast<uint64_t>(std::max(kScoreRows / group, kMinQueries));
  return static_cast<int64_t>(std::bit_floor(most));
}

// Memory of the thread, kept from call to call so that nothing is allocated in a loop; matrices are
// cut from it in turn.
template <class T>
class Arena {
 public:
  void reset(int64_t size) {
    if (buffer_.size() < size) buffer_ = Buffer<T>(size);
    used_ = 0;
  }
  MatView<T> take(int64_t rows, int64_t cols, int64_t stride) {
    const MatView<T> matrix{buffer_.data() + used_, rows, cols, stride};
    used_ += rows * stride;
    LAOS_ASSERT(used_ <= buffer_.size());
    return matrix;
  }
  MatView<T> take(int64_t rows, int64_t cols) { return take(rows, cols, cols); }

 private:
  Buffer<T> buffer_;
  int64_t used_ = 0;
};

// Sizes of the work on a sequence whose last query sees `num_keys` keys.
template <class E>
struct Sizes {
  static constexpr bool kIsBf16 = std::is_same_v<E, uint16_t>;
  int64_t head_dim, group, queries, num_keys;

  Sizes(const hf::Config& config, int64_t length, int64_t keys) : head_dim(config.head_dim) {
    group = config.num_attention_heads / config.num_key_value_heads;
    queries = padded_queries(std::min(length, queries_of_block(group)));
    num_keys = padded_keys(keys);
  }
  static int64_t padded_queries(int64_t n) noexcept {
    return kIsBf16 ? round_up(n, kBf16QueryStep) : n;
  }
  static int64_t padded_keys(int64_t n) noexcept { return kIsBf16 ? round_up(n, kBf16KeyStep) : n; }
  int64_t rows() const noexcept { return group * queries; }
  // Of rows of scores; in bf16 one of few, as it is a part of a shape as well.
  int64_t stride() const noexcept {
    return (kIsBf16 ? round_up(num_keys, kKeyChunk) : num_keys) + kRowPadding;
  }

  // Elements of operands: keys, values, queries and d_out of a block; in bf16 a chunk of scores as
  // well, which need no copy elsewhere.
  int64_t operands(bool with_backward) const noexcept {
    return head_dim * (2 * num_keys + (with_backward ? 2 : 1) * rows()) +
           (kIsBf16 ? rows() * (kKeyChunk + kRowPadding) : 0);
  }
  // Elements of sums: scores and their gradients, a block's outputs, d_k and d_v.
  int64_t sums(bool with_backward) const noexcept {
    return with_backward ? rows() * (2 * stride() + head_dim) + 2 * num_keys * head_dim
                         : rows() * (stride() + head_dim);
  }
};

// One (sequence, KV head): what all its query heads read, and a block of them after the other. One
// task does it all, so that the sums into d_k and d_v have one order. Operands of products are E:
// T, or bfloat16 bits.
template <class T, class E>
class Head {
 public:
  Head(const hf::Config& config, const Ragged& batch, int64_t task, bool with_backward)
      : kv_head_(task % config.num_key_value_heads),
        begin_(batch.offsets[static_cast<size_t>(task / config.num_key_value_heads)]),
        length_(batch.length(task / config.num_key_value_heads)),
        past_(batch.past),
        sizes_(config, length_, past_ + length_),
        scale_(T(1) / std::sqrt(static_cast<T>(config.head_dim))) {
    thread_local Arena<E> operands;
    thread_local Arena<T> sums;
    operands.reset(sizes_.operands(with_backward));
    sums.reset(sizes_.sums(with_backward));
    const int64_t rows = sizes_.rows(), hd = sizes_.head_dim;
    // A row of queries is a query of one of the heads that share these keys.
    keys_ = operands.take(sizes_.num_keys, hd);           // [keys, head_dim]
    values_ = operands.take(sizes_.num_keys, hd);         // [keys, head_dim]
    queries_ = operands.take(rows, hd);                   // [heads * queries, head_dim]
    if (with_backward) d_out_ = operands.take(rows, hd);  // [heads * queries, head_dim]
    // [heads * queries, keys of a product]
    if constexpr (kIsBf16) chunk_ = operands.take(rows, kKeyChunk, kKeyChunk + kRowPadding);
    scores_ = sums.take(rows, sizes_.num_keys, sizes_.stride());  // [heads * queries, keys]
    out_ = sums.take(rows, hd);                                   // [heads * queries, head_dim]
    if (!with_backward) return;
    d_scores_ = sums.take(rows, sizes_.num_keys, sizes_.stride());  // [heads * queries, keys]
    d_keys_ = sums.take(sizes_.num_keys, hd);                       // [keys, head_dim]
    d_values_ = sums.take(sizes_.num_keys, hd);                     // [keys, head_dim]
  }

  void forward(MatView<const T> q, MatView<const T> k, MatView<const T> v, MatView<T> out) {
    load_keys(k, keys_);
    load_keys(v, values_);
    for_blocks([&] {
      load_queries(q, queries_);
      probabilities();
      for_chunks([&](int64_t first, int64_t last) {
        multiply(Trans::kNo, Trans::kNo, operand(scores_, first, last),
                 values_.slice_rows(first, last), first > 0, block(out_));
      });
      store_queries(out);
    });
  }

  void backward(MatView<const T> q, MatView<const T> k, MatView<const T> v, MatView<const T> d_out,
                MatView<T> d_q, MatView<T> d_k, MatView<T> d_v) {
    load_keys(k, keys_);
    load_keys(v, values_);
    load_sums(d_k, d_keys_);
    load_sums(d_v, d_values_);
    for_blocks([&] {
      load_queries(q, queries_);
      load_queries(d_out, d_out_);
      probabilities();
      // out = p v
      for_chunks([&](int64_t first, int64_t last) {
        multiply(Trans::kNo, Trans::kYes, block(d_out_), values_.slice_rows(first, last), false,
                 columns(d_scores_, first, last));
        multiply(Trans::kYes, Trans::kNo, operand(scores_, first, last), block(d_out_), true,
                 d_values_.slice_rows(first, last));
      });
      // p = softmax(scale * q kᵀ); beyond the query p is 0, hence so is its gradient
      for (int64_t i = 0; i < block_rows_; ++i)
        kernels::softmax_backward(scores_.row(i), scale_, d_scores_.row(i), block_keys_);
      for_chunks([&](int64_t first, int64_t last) {
        const MatView<const E> d_scores = operand(d_scores_, first, last);
        multiply(Trans::kNo, Trans::kNo, d_scores, keys_.slice_rows(first, last), first > 0,
                 block(out_));
        multiply(Trans::kYes, Trans::kNo, d_scores, block(queries_), true,
                 d_keys_.slice_rows(first, last));
      });
      store_queries(d_q);
    });
    store_sums(d_keys_, d_k);
    store_sums(d_values_, d_v);
  }

 private:
  static constexpr bool kIsBf16 = Sizes<E>::kIsBf16;

  static void narrow(const T* x, E* y, int64_t n) {
    if constexpr (kIsBf16)
      linalg::kernels::to_bf16(x, y, n);
    else
      std::copy_n(x, n, y);
  }
  static void multiply(Trans trans_a, Trans trans_b, MatView<const E> a, MatView<const E> b,
                       bool accumulate, MatView<T> c) {
    if constexpr (kIsBf16)
      linalg::gemm_bf16_one_thread(trans_a, trans_b, a, b, accumulate, c);
    else
      linalg::gemm_one_thread(trans_a, trans_b, T(1), a, b, T(accumulate ? 1 : 0), c);
  }

  // Sets what the members below describe, block by block.
  template <class F>
  void for_blocks(const F& f) {
    const int64_t step = queries_of_block(sizes_.group);
    for (block_begin_ = 0; block_begin_ < length_; block_begin_ += step) {
      block_length_ = std::min(step, length_ - block_begin_);
      padded_length_ = Sizes<E>::padded_queries(block_length_);
      block_rows_ = sizes_.group * padded_length_;
      block_keys_ = Sizes<E>::padded_keys(past_ + block_begin_ + block_length_);
      f();
    }
  }
  template <class F>
  void for_chunks(const F& f) const {
    for (int64_t first = 0; first < block_keys_; first += kKeyChunk)
      f(first, std::min(first + kKeyChunk, block_keys_));
  }

  template <class U>
  MatView<U> block(MatView<U> x) const {
    return x.slice_rows(0, block_rows_);
  }
  MatView<T> columns(MatView<T> x, int64_t first, int64_t last) const {
    return block(x).slice_cols(first, last);
  }
  // Columns of scores as an operand.
  MatView<const E> operand(MatView<T> scores, int64_t first, int64_t last) {
    const MatView<T> x = columns(scores, first, last);
    if constexpr (kIsBf16) {
      const MatView<E> y = block(chunk_).slice_cols(0, last - first);
      for (int64_t i = 0; i < x.rows; ++i) narrow(x.row(i), y.row(i), x.cols);
      return y;
    } else {
      return x;
    }
  }

  // This head's columns of keys, and rows of zeros below them.
  void load_keys(MatView<const T> x, MatView<E> y) const {
    const int64_t hd = sizes_.head_dim, n = past_ + length_;
    for (int64_t i = 0; i < n; ++i) narrow(x.row(begin_ + i) + kv_head_ * hd, y.row(i), hd);
    std::fill(y.row(n), y.row(y.rows), E(0));
  }
  void load_sums(MatView<T> x, MatView<T> y) const {
    const int64_t hd = sizes_.head_dim;
    for (int64_t i = 0; i < past_; ++i) std::copy_n(x.row(i) + kv_head_ * hd, hd, y.row(i));
    std::fill(y.row(past_), y.row(y.rows), T(0));
  }
  void store_sums(MatView<T> x, MatView<T> y) const {
    const int64_t hd = sizes_.head_dim;
    for (int64_t i = 0; i < past_ + length_; ++i)
      std::copy_n(x.row(i), hd, y.row(begin_ + i) + kv_head_ * hd);
  }
  // The block's queries of this head's query heads.
  void load_queries(MatView<const T> x, MatView<E> y) const {
    const int64_t hd = sizes_.head_dim;
    for (int64_t h = 0; h < sizes_.group; ++h) {
      const int64_t row = h * padded_length_;
      for (int64_t i = 0; i < block_length_; ++i)
        narrow(x.row(begin_ + block_begin_ + i) + (kv_head_ * sizes_.group + h) * hd,
               y.row(row + i), hd);
      std::fill(y.row(row + block_length_), y.row(row + padded_length_), E(0));
    }
  }
  void store_queries(MatView<T> y) const {
    const int64_t hd = sizes_.head_dim;
    for (int64_t h = 0; h < sizes_.group; ++h)
      for (int64_t i = 0; i < block_length_; ++i)
        std::copy_n(out_.row(h * padded_length_ + i), hd,
                    y.row(begin_ + block_begin_ + i) + (kv_head_ * sizes_.group + h) * hd);
  }

  // scores = softmax over keys 0..query of q kᵀ / sqrt(head_dim), 0 beyond the query and in rows of
  // padding.
  void probabilities() {
    for_chunks([&](int64_t first, int64_t last) {
      multiply(Trans::kNo, Trans::kYes, block(queries_), keys_.slice_rows(first, last), false,
               columns(scores_, first, last));
    });
    for (int64_t h = 0; h < sizes_.group; ++h)
      for (int64_t i = 0; i < padded_length_; ++i) {
        T* row = scores_.row(h * padded_length_ + i);
        const int64_t visible = i < block_length_ ? past_ + block_begin_ + i + 1 : 0;
        if (visible > 0) kernels::softmax(row, scale_, visible);
        std::fill(row + visible, row + block_keys_, T(0));
      }
  }

  int64_t kv_head_, begin_, length_, past_;
  Sizes<E> sizes_;
  T scale_;
  MatView<E> keys_, values_, queries_, d_out_, chunk_;
  MatView<T> scores_, d_scores_, out_, d_keys_, d_values_;
  // Of the block at work: its first query, queries, those filled up, rows of all heads, keys that
  // its last query sees, filled up.
  int64_t block_begin_ = 0, block_length_ = 0, padded_length_ = 0, block_rows_ = 0, block_keys_ = 0;
};

// Calls f(head) for every (sequence, KV head), in the operands' type.
template <class T, class F>
void for_heads(const hf::Config& config, const Ragged& batch, ComputeType compute,
               bool with_backward, const F& f) {
  parallel_for(batch.num_sequences() * config.num_key_value_heads, [&](int64_t task) {
    if constexpr (std::is_same_v<T, float>) {
      if (compute == ComputeType::kBf16) {
        Head<float, uint16_t> head(config, batch, task, with_backward);
        return f(head);
      }
    }
    Head<T, T> head(config, batch, task, with_backward);
    f(head);
  });
}

}  // namespace

template <class T>
void attention_forward(const hf::Config& config, const Ragged& batch, ComputeType compute,
                       MatView<const T> q, MatView<const T> k, MatView<const T> v, MatView<T> out) {
  for_heads<T>(config, batch, compute, false, [&](auto& head) { head.forward(q, k, v, out); });
}

template <class T>
void attention_backward(const hf::Config& config, const Ragged& batch, ComputeType compute,
                        MatView<const T> q, MatView<const T> k, MatView<const T> v,
                        MatView<const T> d_out, MatView<T> d_q, MatView<T> d_k, MatView<T> d_v) {
  for_heads<T>(config, batch, compute, true,
               [&](auto& head) { head.backward(q, k, v, d_out, d_q, d_k, d_v); });
}

int64_t attention_scratch_bytes(const hf::Config& config, int64_t longest, bool with_backward) {
  const Sizes<float> wide(config, longest, longest);
  const Sizes<uint16_t> narrow(config, longest, longest);
  const auto bytes = [&](const auto& sizes, int64_t operand_size) {
    return operand_size * sizes.operands(with_backward) + 4 * sizes.sums(with_backward);
  };
  return std::max(bytes(wide, 4), bytes(narrow, 2));
}

#define LAOS_INSTANTIATE(T)                                                                 \
  template void attention_forward<T>(const hf::Config&, const Ragged&, ComputeType,         \
                                     MatView<const T>, MatView<const T>, MatView<const T>,  \
                                     MatView<T>);                                           \
  template void attention_backward<T>(const hf::Config&, const Ragged&, ComputeType,        \
                                      MatView<const T>, MatView<const T>, MatView<const T>, \
                                      MatView<const T>, MatView<T>, MatView<T>, MatView<T>);
LAOS_INSTANTIATE(float)
LAOS_INSTANTIATE(double)
#undef LAOS_INSTANTIATE

}  // namespace laos::model
