// Matrix products. oneDNN appears in this folder only.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace laos::linalg {

enum class Trans { kNo, kYes };

// c = alpha * op(a) * op(b) + beta * c, with op(x) = x or its transpose; op(a) [m, k], op(b) [k,
// n], c [m, n]; c must not overlap a or b. f32 products accumulate in f32. Deterministic: work is
// cut into tiles by shape alone and each tile is one thread's, so that any number of threads gives
// the same bits. Called inside a parallel_for task it runs on that task's thread.
void gemm(Trans trans_a, Trans trans_b, float alpha, MatView<const float> a, MatView<const float> b,
          float beta, MatView<float> c);
// The definition: three loops, f64. For tests and for the gradients' truth.
void gemm(Trans trans_a, Trans trans_b, double alpha, MatView<const double> a,
          MatView<const double> b, double beta, MatView<double> c);

// The same as one call on the calling thread, for products small enough to be one task among many.
void gemm_one_thread(Trans trans_a, Trans trans_b, float alpha, MatView<const float> a,
                     MatView<const float> b, float beta, MatView<float> c);
void gemm_one_thread(Trans trans_a, Trans trans_b, double alpha, MatView<const double> a,
                     MatView<const double> b, double beta, MatView<double> c);

// Operands of the products that dominate: f32, or bfloat16 with f32 sums.
enum class ComputeType { kF32, kBf16 };
constexpr const char* to_string(ComputeType type) noexcept {
  return type == ComputeType::kBf16 ? "bf16" : "f32";
}

// What products in bf16 take beside their operands: code, of so many shapes that is kept, by what
// was measured, and room for a part of an operand to be laid out in (26 MB at 25,600 inputs).
inline constexpr int64_t kMaxBf16Products = 256, kPackedBytes = int64_t{16} << 20,
                         kBf16Bytes = kMaxBf16Products * 100'000 + kPackedBytes;

// Whether this machine multiplies bfloat16 natively (see ONEDNN_MAX_CPU_ISA); elsewhere the
// products below are slow.
bool has_native_bf16();

// y = x rounded half to even to bfloat16 bits; shapes equal.
void to_bf16(MatView<const float> x, MatView<uint16_t> y);
// The same, and rows of zeros in y [rows >= x.rows, x.cols] below it. They add nothing to a product
// over rows, which then comes in few shapes: code is made for every shape of a product in bf16.
void to_bf16_padded(MatView<const float> x, MatView<uint16_t> y);

// c = op(a) * op(b) (+ c when `accumulate`), a and b bfloat16 bits, sums and c in f32. Shapes and
// threads as gemm.
void gemm_bf16(Trans trans_a, Trans trans_b, MatView<const uint16_t> a, MatView<const uint16_t> b,
               bool accumulate, MatView<float> c);
// The same as one call on the calling thread.
void gemm_bf16_one_thread(Trans trans_a, Trans trans_b, MatView<const uint16_t> a,
                          MatView<const uint16_t> b, bool accumulate, MatView<float> c);

// c [n, n] = aᵀ a + beta * c for a [k, n] and a symmetric c, symmetric to the last bit; half the
// work of gemm.
void gram(MatView<const float> a, MatView<float> c, float beta = 0);
// The same of bfloat16 bits, sums and c in f32; c is added to when `accumulate`.
void gram_bf16(MatView<const uint16_t> a, bool accumulate, MatView<float> c);

}  // namespace laos::linalg
