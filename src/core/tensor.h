// Owners and views of tensors. A view never owns; an owner never resizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"

namespace laos {

using Shape = std::vector<int64_t>;

int64_t num_elements(const Shape& shape) noexcept;
std::string to_string(const Shape& shape);  // "[2, 3]"

// A tensor in somebody else's memory, row-major and contiguous; `data` need not be aligned.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t size_bytes() const noexcept { return num_elements(shape) * size_of(dtype); }
};

// A row-major matrix in somebody else's memory; row i begins at data + i * stride.
template <class T>
struct MatView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  T* row(int64_t i) const noexcept { return data + i * stride; }
  MatView slice_rows(int64_t begin, int64_t end) const noexcept {
    return {data + begin * stride, end - begin, cols, stride};
  }
  MatView slice_cols(int64_t begin, int64_t end) const noexcept {
    return {data + begin, rows, end - begin, stride};
  }
  // NOLINTNEXTLINE(google-explicit-constructor): a mutable view is a read-only view.
  operator MatView<const T>() const noexcept requires(!std::is_const_v<T>) {
    return {data, rows, cols, stride};
  }
};

namespace detail {

// `bytes` > 0 of memory, aligned to 64 bytes. Throws Error(kResource) when the system has none to
// give.
void* allocate(size_t bytes);
// What allocate(bytes) gave.
void release(void* memory, size_t bytes) noexcept;

}  // namespace detail

// Owned memory for `size` elements, aligned to 64 bytes, not initialised: pages that are never
// touched cost nothing. Throws Error(kResource) when the system has no memory to give.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : data_(nullptr, Free{static_cast<size_t>(size)}) {
    if (size == 0) return;
    data_.reset(static_cast<T*>(detail::allocate(static_cast<size_t>(size) * sizeof(T))));
  }

  T* data() const noexcept { return data_.get(); }
  int64_t size() const noexcept { return static_cast<int64_t>(data_.get_deleter().size); }
  T& operator[](int64_t i) const noexcept { return data_.get()[i]; }

 private:
  struct Free {
    size_t size = 0;
    void operator()(T* p) const noexcept { detail::release(p, size * sizeof(T)); }
  };
  std::unique_ptr<T, Free> data_;
};

// An owned row-major matrix, rows contiguous (stride == cols), not initialised.
template <class T>
class Mat {
 public:
  Mat() = default;
  Mat(int64_t rows, int64_t cols) : buffer_(rows * cols), rows_(rows), cols_(cols) {}

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int64_t size() const noexcept { return rows_ * cols_; }
  T* data() const noexcept { return buffer_.data(); }
  T* row(int64_t i) const noexcept { return buffer_.data() + i * cols_; }
  T& operator()(int64_t i, int64_t j) const noexcept { return row(i)[j]; }
  void fill_zero() const noexcept {
    if (size() != 0) std::memset(data(), 0, static_cast<size_t>(size()) * sizeof(T));
  }
  Mat clone() const {
    Mat copy(rows_, cols_);
    if (size() != 0) std::memcpy(copy.data(), data(), static_cast<size_t>(size()) * sizeof(T));
    return copy;
  }

  MatView<T> view() noexcept { return {data(), rows_, cols_, cols_}; }
  MatView<const T> view() const noexcept { return {data(), rows_, cols_, cols_}; }

 private:
  Buffer<T> buffer_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

// `buffer` as a matrix, grown where it is too small: for scratch that is kept from call to call.
template <class T>
MatView<T> grown(Buffer<T>& buffer, int64_t rows, int64_t cols) {
  if (buffer.size() < rows * cols) buffer = Buffer<T>(rows * cols);
  return {buffer.data(), rows, cols, cols};
}

// `source` (F32, BF16 or F16) widened to f32. `target` holds num_elements(source.shape).
void to_f32(const TensorView& source, float* target) noexcept;
// A vector or matrix (1-D becomes one row) as f32. Throws Error(kFormat) unless F32, BF16 or F16.
Mat<float> to_f32(const TensorView& source);
// f32 rounded half to even into `target`, n elements of `dtype` (kF32, kBF16 or kF16).
void from_f32(const float* source, int64_t n, DType dtype, std::byte* target) noexcept;

}  // namespace laos
