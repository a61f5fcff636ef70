#include "linalg/onednn.h"

#include <oneapi/dnnl/dnnl.h>

#include <string>
#include <vector>

#include "core/error.h"

namespace laos::linalg {
namespace {

void check(dnnl_status_t status, const char* what) {
  if (status != dnnl_success)
    throw Error(ErrorCode::kInternal,
                {.what = std::string(what) + " failed with oneDNN status " +
                         std::to_string(static_cast<int>(status)),
                 .where = "oneDNN",
                 .fix = "check that the installed oneDNN supports this processor"});
}

// Products of the largest magnitudes, over a depth that any kernel blocks by.
bool exact_for(int8_t a_value, int8_t b_value) {
  constexpr int64_t kM = 16, kN = 32, kK = 128;
  const std::vector<int8_t> a(kM * kK, a_value), b(kN * kK, b_value);
  std::vector<int32_t> c(kM * kN);
  onednn_s8s8s32(kM, kN, kK, a.data(), kK, b.data(), kK, 0.0f, c.data(), kN);
  for (const int32_t value : c)
    if (value != kK * a_value * b_value) return false;
  return true;
}

}  // namespace

void onednn_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                  const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                  int64_t ldc) {
  check(dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta,
                   c, ldc),
        "dnnl_sgemm");
}

void onednn_s8s8s32(int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t lda, const int8_t* b,
                    int64_t ldb, float beta, int32_t* c, int64_t ldc) {
  const int32_t zero = 0;
  check(dnnl_gemm_s8s8s32('N', 'T', 'F', m, n, k, 1.0f, a, lda, 0, b, ldb, 0, beta, c, ldc, &zero),
        "dnnl_gemm_s8s8s32");
}

bool int8_products_are_exact() {
  static const bool exact = exact_for(127, 127) && exact_for(127, -128) && exact_for(-128, -128);
  return exact;
}

}  // namespace laos::linalg
