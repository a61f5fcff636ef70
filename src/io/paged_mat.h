// Matrices of which the process holds only the pages at work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

#include "core/tensor.h"
#include "io/paged_memory.h"

namespace laos::io {

// An owned row-major matrix like Mat, in memory or in a private file. Who has read or written rows
// in a file drops them.
template <class T>
class PagedMat {
 public:
  PagedMat() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a matrix in memory is one.
  PagedMat(Mat<T> matrix)
      : memory_(std::move(matrix)),
        data_(memory_.data()),
        rows_(memory_.rows()),
        cols_(memory_.cols()) {}
  // In a file in `directory`, in memory when that is empty; not initialised. Throws Error as
  // PagedMemory.
  PagedMat(int64_t rows, int64_t cols, const std::filesystem::path& directory)
      : rows_(rows), cols_(cols) {
    if (directory.empty()) {
      memory_ = Mat<T>(rows, cols);
      data_ = memory_.data();
    } else {
      file_ = PagedMemory(directory, rows * cols * static_cast<int64_t>(sizeof(T)));
      data_ = reinterpret_cast<T*>(file_.data());
    }
  }

  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int64_t size() const noexcept { return rows_ * cols_; }
  T* data() const noexcept { return data_; }
  T* row(int64_t i) const noexcept { return data_ + i * cols_; }
  T& operator()(int64_t i, int64_t j) const noexcept { return row(i)[j]; }
  MatView<T> view() noexcept { return {data_, rows_, cols_, cols_}; }
  MatView<const T> view() const noexcept { return {data_, rows_, cols_, cols_}; }

  // Rows [begin, end) are not needed for now.
  void drop(int64_t begin, int64_t end) const noexcept {
    if (file_.data() != nullptr)
      drop_pages(std::as_bytes(std::span(row(begin), static_cast<size_t>((end - begin) * cols_))));
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
  Mat<T> memory_;
  PagedMemory file_;
  T* data_ = nullptr;
  int64_t rows_ = 0, cols_ = 0;
};

}  // namespace laos::io
