#include "core/tensor.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace laos {

namespace detail {

void* allocate(size_t bytes) {
  // Matrices come and go, and the first touch of a page costs a fault. Of pages of 2 MiB, where the
  // system has them, there are few. The part after the last whole one stays in small pages, so that
  // no more memory is taken than was asked for.
  constexpr size_t kAlignment = 64, kHugePage = size_t{2} << 20;
  const bool is_huge = bytes >= 2 * kHugePage;
  const size_t alignment = is_huge ? kHugePage : kAlignment;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr)
    throw Error(ErrorCode::kResource,
                {.what = "out of memory asking for " + std::to_string(bytes) + " bytes",
                 .where = "",
                 .fix = "use a machine with more memory, or less calibration text"});
#ifdef __linux__
  // Refused by a system without them, which changes nothing.
  if (is_huge) (void)::madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace detail

int64_t num_elements(const Shape& shape) noexcept {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void to_f32(const TensorView& source, float* target) noexcept {
  const int64_t n = num_elements(source.shape);
  if (source.dtype == DType::kF32) {
    std::memcpy(target, source.data, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  // memcpy per element because file data has no alignment; compilers turn it into plain loads.
  const bool is_bf16 = source.dtype == DType::kBF16;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, source.data + 2 * i, 2);
    target[i] = is_bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  }
}

Mat<float> to_f32(const TensorView& source) {
  if (source.dtype != DType::kF32 && source.dtype != DType::kBF16 && source.dtype != DType::kF16)
    throw Error(ErrorCode::kFormat,
                {.what = "dtype " + std::string(to_string(source.dtype)) + " is not a float",
                 .where = source.name,
                 .fix = "store the tensor as BF16, F16 or F32"});
  LAOS_ASSERT(source.shape.size() == 1 || source.shape.size() == 2);
  const bool is_vector = source.shape.size() == 1;
  Mat<float> result(is_vector ? 1 : source.shape[0], source.shape.back());
  to_f32(source, result.data());
  return result;
}

void from_f32(const float* source, int64_t n, DType dtype, std::byte* target) noexcept {
  if (dtype == DType::kF32) {
    std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  const bool is_bf16 = dtype == DType::kBF16;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = is_bf16 ? float_to_bf16(source[i]) : float_to_f16(source[i]);
    std::memcpy(target + 2 * i, &bits, 2);
  }
}

}  // namespace laos
