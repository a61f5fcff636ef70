#include "linalg/openblas.h"

#include <cblas.h>

namespace laos::linalg {

void openblas_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                    const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
                    int64_t ldc) {
  // Products are cut into tiles before they come here, one to a thread.
  static const bool once = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  (void)once;
  const auto size = [](int64_t x) { return static_cast<blasint>(x); };
  cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
              trans_b ? CblasTrans : CblasNoTrans, size(m), size(n), size(k), alpha, a, size(lda),
              b, size(ldb), beta, c, size(ldc));
}

std::string openblas_description() {
  // "OpenBLAS 0.3.21 NO_AFFINITY neoversen1 MAX_THREADS=64": the first two words are the version.
  const std::string config = openblas_get_config();
  const auto end = config.find(' ', config.find(' ') + 1);
  return config.substr(0, end) + " " + openblas_get_corename();
}

}  // namespace laos::linalg
