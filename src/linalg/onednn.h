// oneDNN's products, the same on 2.6 (Debian 12) and 3.x (Debian 13, Ubuntu 24.04): the one place
// where the difference between the two may stand. Debian's oneDNN has code of its own for x86-64
// only. On 64-bit Arm it multiplies in plain loops; there f32 products are OpenBLAS's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace laos::linalg {

// Whether oneDNN multiplies f32 and int8 by code of its own on this processor.
bool onednn_has_code() noexcept;

// Versions and instruction set, which decide how sums are ordered: "oneDNN 2.6.0, isa 0x3ff".
std::string onednn_description();

// Makes oneDNN use no more of the processor than a Highway target of this name does. Has no effect
// after its first product, and none for names that say nothing about it ("scalar", Arm's).
void limit_onednn_isa(const std::string& hwy_target);

// Row-major c = alpha * op(a) * op(b) + beta * c on the calling thread's OpenMP setting; strides in
// elements. Throws Error(kInternal) when oneDNN refuses.
void sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
           int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);

// Row-major c = op(a) * op(b) (+ c when `accumulate`), a and b bfloat16 bits, sums and c in f32.
void onednn_bf16(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const uint16_t* a,
                 int64_t lda, const uint16_t* b, int64_t ldb, bool accumulate, float* c,
                 int64_t ldc);

// The same with op(b) laid out beforehand, which pays where several products share it: x86-64 only.
// It takes packed_size(k, n) elements. Rows of a and c follow one another without gaps.
constexpr int64_t packed_size(int64_t k, int64_t n) noexcept {
  return (k + 63) / 64 * 64 * ((n + 63) / 64 * 64);
}
void onednn_pack_bf16(bool trans_b, int64_t n, int64_t k, const uint16_t* b, int64_t ldb,
                      uint16_t* packed);
void onednn_packed_bf16(bool trans_a, int64_t m, int64_t n, int64_t k, const uint16_t* a,
                        const uint16_t* packed, bool accumulate, float* c);

// Row-major c [m, n] = a [m, k] * b [n, k]ᵀ + beta * c in int32. Exact only where
// int8_products_are_exact() or all of |b| <= 16.
void onednn_s8s8s32(int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t lda, const int8_t* b,
                    int64_t ldb, float beta, int32_t* c, int64_t ldc);

// Whether int8 products have AMX's instructions, and the one below is the fast way to them.
bool has_amx_int8() noexcept;
// Row-major c [m, n] = a [m, k] * b [n, k]ᵀ in int32, exact, rows without gaps, on the calling
// thread. Code is made for every shape. Only where has_amx_int8().
void onednn_s8_amx(int64_t m, int64_t n, int64_t k, const int8_t* a, const int8_t* b, int32_t* c);

// Whether oneDNN's int8 product is exact for all operands on this machine. Without VNNI or AMX it
// adds pairs of products in 16 bits, which saturate. Found by running it once.
bool int8_products_are_exact();

// "oneDNN 2.6.3", of each library that is loaded.
std::vector<std::string> library_versions();

// Whether products in bfloat16 are faster than those in f32: with AMX, on AMD's processors with
// AVX512-BF16, and on Arm where it has them. AVX512-BF16 alone does not make them so on Intel's
// processors, see docs/performance.md.
bool has_fast_bf16();

}  // namespace laos::linalg
