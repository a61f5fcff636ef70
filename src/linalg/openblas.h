// OpenBLAS's f32 product, for processors that Debian's oneDNN has no code for (see onednn.h).
#pragma once

#include <cstdint>
#include <string>

namespace laos::linalg {

// As sgemm of onednn.h, always on the calling thread alone.
void openblas_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                    const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                    int64_t ldc);

// Version and the processor its code is for: "OpenBLAS 0.3.21 neoversen1".
std::string openblas_description();

}  // namespace laos::linalg
