#include "core/tensor.h"

#include <sys/mman.h>

#include <cstdint>

namespace laos {

namespace detail {
namespace {

// Blocks of this size and more come from the system and go back to it. An allocator keeps what is
// freed for blocks that may never fit there: matrices of many sizes end as twice the memory that is
// in use, and how much depends on which thread was first. A sanitizer wants to see every block.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kMapped = SIZE_MAX;
#else
constexpr size_t kMapped = size_t{1} << 20;
#endif
constexpr size_t kHugePage = size_t{2} << 20;

// Whole pages, of the largest kind that is the plain one of a system.
size_t in_pages(size_t bytes) noexcept {
  constexpr size_t kPage = size_t{64} << 10;
  return (bytes + kPage - 1) / kPage * kPage;
}

// nullptr when the system has none to give. The first touch of a page costs a fault; of pages of
// 2 MiB, where the system has them, there are few. What follows the last whole one stays in small
// pages, so that no more memory is taken than was asked for.
void* map(size_t bytes) noexcept {
  if (bytes > PTRDIFF_MAX) return nullptr;
  const size_t spare = bytes >= 2 * kHugePage ? kHugePage : 0;  // room to align
  void* const mapped = ::mmap(nullptr, in_pages(bytes) + spare, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (spare == 0) return mapped;
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t lead = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  std::byte* const memory = begin + lead;
  if (lead != 0) ::munmap(begin, lead);
  if (lead != spare) ::munmap(memory + in_pages(bytes), spare - lead);
#ifdef __linux__
  // Refused by a system without them, which changes nothing.
  (void)::madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace

void* allocate(size_t bytes) {
  constexpr size_t kAlignment = 64;
  void* const memory =
      bytes >= kMapped
          ? map(bytes)
          : std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (memory == nullptr)
    throw Error(ErrorCode::kResource,
                {.what = "out of memory asking for " + std::to_string(bytes) + " bytes",
                 .where = "",
                 .fix = "use a machine with more memory, or less calibration text"});
  return memory;
}

void release(void* memory, size_t bytes) noexcept {
  if (bytes >= kMapped)
    ::munmap(memory, in_pages(bytes));
  else
    std::free(memory);
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
