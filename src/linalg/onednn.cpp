#include "linalg/onednn.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <sys/mman.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/tensor.h"
#include "linalg/gemm.h"
#include "linalg/openblas.h"

namespace laos::linalg {
namespace {

void check(dnnl_status_t status, const char* what) {
  if (status == dnnl_out_of_memory) throw std::bad_alloc();
  if (status != dnnl_success)
    throw Error(ErrorCode::kInternal,
                {.what = std::string(what) + " failed with oneDNN status " +
                         std::to_string(static_cast<int>(status)),
                 .where = "oneDNN",
                 .fix = "check that the installed oneDNN supports this processor"});
}

// oneDNN does not look whether it got memory to write a product's code to: a process at its limit
// would end in a segmentation fault. So laos looks first whether so much is left. Throws
// std::bad_alloc.
void require_room(size_t bytes) {
  void* probe = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (probe == MAP_FAILED) throw std::bad_alloc();
  ::munmap(probe, bytes);
}

// More than oneDNN takes at once for the code of products: 12 MB of AVX2's, 26 MB of AVX-512's.
constexpr size_t kCodeRoom = size_t{48} << 20;

// oneDNN makes the code of a product when one is first asked for: those of f32 and int8, which take
// every shape, are made at once. Which of its kernels a product of f32 takes depends on its shape:
// these are shapes of each. Throws std::bad_alloc.
void require_code() {
  static const bool once = [] {
    require_room(kCodeRoom);
    constexpr int64_t kSize = 64;
    const std::vector<float> a(kSize * kSize), b(kSize * kSize);
    std::vector<float> c(kSize * kSize);
    for (const int64_t m : {kSize, int64_t{2}})
      for (const int64_t n : {kSize, int64_t{1}})
        for (const int64_t k : {kSize, int64_t{1}})
          for (const char trans_a : {'N', 'T'})
            for (const char trans_b : {'N', 'T'})
              for (const float beta : {0.0f, 1.0f})
                check(dnnl_sgemm(trans_a, trans_b, m, n, k, 1.0f, a.data(), trans_a == 'N' ? k : m,
                                 b.data(), trans_b == 'N' ? n : k, beta, c.data(), n),
                      "dnnl_sgemm");
    const std::vector<int8_t> codes(kSize * kSize);
    std::vector<int32_t> sums(kSize * kSize);
    const int32_t zero = 0;
    check(dnnl_gemm_s8s8s32('N', 'T', 'F', kSize, kSize, kSize, 1.0f, codes.data(), kSize, 0,
                            codes.data(), kSize, 0, 0.0f, sums.data(), kSize, &zero),
          "dnnl_gemm_s8s8s32");
    return true;
  }();
  (void)once;
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

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::matmul::primitive_desc matmul_desc(const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                                         const dnnl::memory::desc& c, bool accumulate) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attr.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR >= 3
  return dnnl::matmul::primitive_desc(cpu(), a, b, c, attr);
#else
  return dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, c), attr, cpu());
#endif
}

// oneDNN has no bf16 product at all for processors below AVX-512.
bool has_bf16() {
  static const bool found = [] {
    using dnnl::memory;
    const auto desc = [](memory::data_type type) {
      return memory::desc({64, 64}, type, memory::dims{64, 1});
    };
    const memory::desc bf16 = desc(memory::data_type::bf16);
    try {
      (void)matmul_desc(bf16, bf16, desc(memory::data_type::f32), false);
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return found;
}

const float* widened(const uint16_t* x, int64_t rows, int64_t cols, int64_t stride,
                     Buffer<float>& buffer) {
  const MatView<float> wide = grown(buffer, rows, cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) wide.row(i)[j] = bf16_to_float(x[i * stride + j]);
  return wide.data;
}

// A product, or a layout, made ready for its shape: of two operands or one.
struct KeptProduct {
  dnnl::memory::desc a, b, c, scratchpad;
  dnnl::primitive primitive;
  mutable std::once_flag has_run = {};
};
using ProductKey = std::array<int64_t, 10>;

// Of bfloat16, and of int8 with AMX: oneDNN has code for each shape, 100 to 150 kB of it where
// numbers of tokens are shapes. Its own cache would keep a thousand of them, and asking that costs
// more than a small product, hence one of our own, for all threads, that is emptied when it is
// full.
class KeptProducts {
 public:
  using Product = std::shared_ptr<const KeptProduct>;

  template <class F>
  Product get(const ProductKey& key, const F& make) {
    {
      const std::shared_lock lock(mutex_);
      if (const auto found = products_.find(key); found != products_.end()) return found->second;
    }
    // One at a time: what is found to be left must not be another thread's a moment later.
    const std::lock_guard making(making_);
    require_room(kCodeRoom);
    Product made = make();
    const std::unique_lock lock(mutex_);
    if (std::ssize(products_) >= kMaxBf16Products) products_.clear();
    return products_.emplace(key, std::move(made)).first->second;
  }

  // Some code is made only when a product runs for the first time.
  template <class F>
  void run(const KeptProduct& product, const F& execute) {
    bool is_first = false;
    std::call_once(product.has_run, [&] {
      const std::lock_guard making(making_);
      require_room(kCodeRoom);
      execute();
      is_first = true;
    });
    if (!is_first) execute();
  }

 private:
  std::mutex making_;
  std::shared_mutex mutex_;
  std::map<ProductKey, Product> products_;
};

KeptProducts& kept_products() {
  static KeptProducts products;
  static const bool only_ours = dnnl_set_primitive_cache_capacity(0) == dnnl_success;
  (void)only_ours;
  return products;
}

// Runs what is kept under `key`, or made, with these arguments and a scratchpad.
template <class Make, class Arguments>
void run_kept(const ProductKey& key, const Make& make, const Arguments& arguments) {
  thread_local dnnl::stream stream(cpu());
  thread_local Buffer<std::byte> scratchpad;  // one for all, or each product would keep its own
  try {
    const KeptProducts::Product p = kept_products().get(
        key, [&] { return std::shared_ptr<const KeptProduct>(new KeptProduct(make())); });
    const auto needed = static_cast<int64_t>(p->scratchpad.get_size());
    if (scratchpad.size() < needed) scratchpad = Buffer<std::byte>(needed);
    kept_products().run(*p, [&] {
      std::unordered_map<int, dnnl::memory> all = arguments(*p);
      all.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(p->scratchpad, cpu(), scratchpad.data()));
      p->primitive.execute(stream, all);
      stream.wait();
    });
  } catch (const dnnl::error& error) {
    check(error.status, "matmul");
  }
}

// oneDNN's memory knows no const.
dnnl::memory memory_of(const dnnl::memory::desc& desc, const void* data) {
  return {desc, cpu(), const_cast<void*>(data)};
}

// The arguments of a product.
auto operands(const void* a, const void* b, const void* c) {
  return [=](const KeptProduct& p) -> std::unordered_map<int, dnnl::memory> {
    return {{DNNL_ARG_SRC, memory_of(p.a, a)},
            {DNNL_ARG_WEIGHTS, memory_of(p.b, b)},
            {DNNL_ARG_DST, memory_of(p.c, c)}};
  };
}

dnnl::memory::desc bf16_matrix(int64_t rows, int64_t cols, bool transposed, int64_t stride) {
  return {{rows, cols},
          dnnl::memory::data_type::bf16,
          transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

dnnl::memory::desc f32_matrix(int64_t rows, int64_t cols, int64_t stride) {
  return {{rows, cols}, dnnl::memory::data_type::f32, dnnl::memory::dims{stride, 1}};
}

KeptProduct product_of(const dnnl::memory::desc& a, const dnnl::memory::desc& b,
                       const dnnl::memory::desc& c, bool accumulate) {
  const dnnl::matmul::primitive_desc desc = matmul_desc(a, b, c, accumulate);
  return {a, b, c, desc.scratchpad_desc(), dnnl::matmul(desc)};
}

// How a product of any number of rows wants its b [k, n].
dnnl::memory::desc packed_desc(int64_t k, int64_t n) {
  constexpr int64_t kRows = 128;
  const dnnl::memory::desc any({k, n}, dnnl::memory::data_type::bf16,
                               dnnl::memory::format_tag::any);
  return matmul_desc(bf16_matrix(kRows, k, false, k), any, f32_matrix(kRows, n, n), false)
      .weights_desc();
}

// What a key begins with.
enum Kind : int64_t { kProduct, kPack, kPackedProduct, kInt8Product };

}  // namespace

bool onednn_has_code() noexcept {
#if defined(__x86_64__) || defined(_M_X64)
  return true;
#else
  return false;
#endif
}

std::string onednn_description() {
  std::string text;
  for (const std::string& version : library_versions()) text += version + ", ";
  char isa[32];
  std::snprintf(isa, sizeof isa, "isa 0x%x", static_cast<unsigned>(dnnl_get_effective_cpu_isa()));
  return text + isa;
}

void limit_onednn_isa(const std::string& hwy_target) {
  // Asking oneDNN what it uses would settle it.
  static const std::map<std::string, dnnl_cpu_isa_t> isas = {
      {"SSE2", dnnl_cpu_isa_sse41},
      {"SSSE3", dnnl_cpu_isa_sse41},
      {"SSE4", dnnl_cpu_isa_sse41},
      {"AVX2", dnnl_cpu_isa_avx2},
      {"AVX3", dnnl_cpu_isa_avx512_core},
      {"AVX3_DL", dnnl_cpu_isa_avx512_core_vnni},
      {"AVX3_ZEN4", dnnl_cpu_isa_avx512_core_bf16}};
  if (const auto found = isas.find(hwy_target); found != isas.end())
    (void)dnnl_set_max_cpu_isa(found->second);
}

void sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
           int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
#ifdef LAOS_OPENBLAS
  openblas_sgemm(trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#else
  require_code();
  check(dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta,
                   c, ldc),
        "dnnl_sgemm");
#endif
}

void onednn_bf16(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const uint16_t* a,
                 int64_t lda, const uint16_t* b, int64_t ldb, bool accumulate, float* c,
                 int64_t ldc) {
  if (!has_bf16()) {
    thread_local Buffer<float> wide_a, wide_b;
    const int64_t a_cols = trans_a ? m : k, b_cols = trans_b ? k : n;
    sgemm(trans_a, trans_b, m, n, k, 1.0f, widened(a, trans_a ? k : m, a_cols, lda, wide_a), a_cols,
          widened(b, trans_b ? n : k, b_cols, ldb, wide_b), b_cols, accumulate ? 1.0f : 0.0f, c,
          ldc);
    return;
  }
  // The number of threads is built into a product.
  const ProductKey key = {kProduct + 4 * trans_a + 8 * trans_b + 16 * accumulate,
                          m,
                          n,
                          k,
                          lda,
                          ldb,
                          ldc,
                          omp_get_max_threads()};
  run_kept(
      key,
      [&] {
        return product_of(bf16_matrix(m, k, trans_a, lda), bf16_matrix(k, n, trans_b, ldb),
                          f32_matrix(m, n, ldc), accumulate);
      },
      operands(a, b, c));
}

void onednn_pack_bf16(bool trans_b, int64_t n, int64_t k, const uint16_t* b, int64_t ldb,
                      uint16_t* packed) {
  run_kept(
      {kPack + 8 * trans_b, 0, n, k, 0, ldb, 0, omp_get_max_threads()},
      [&]() -> KeptProduct {
        const dnnl::memory::desc from = bf16_matrix(k, n, trans_b, ldb), to = packed_desc(k, n);
        LAOS_ASSERT(to.get_size() <= sizeof(uint16_t) * static_cast<size_t>(packed_size(k, n)));
        dnnl::primitive_attr attr;
        attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
        const dnnl::reorder::primitive_desc desc(cpu(), from, cpu(), to, attr);
        return {from, to, {}, desc.scratchpad_desc(), dnnl::reorder(desc)};
      },
      [&](const KeptProduct& p) -> std::unordered_map<int, dnnl::memory> {
        return {{DNNL_ARG_FROM, memory_of(p.a, b)}, {DNNL_ARG_TO, memory_of(p.b, packed)}};
      });
}

void onednn_packed_bf16(bool trans_a, int64_t m, int64_t n, int64_t k, const uint16_t* a,
                        const uint16_t* packed, bool accumulate, float* c) {
  run_kept(
      {kPackedProduct + 4 * trans_a + 16 * accumulate, m, n, k, 0, 0, 0, omp_get_max_threads()},
      [&] {
        return product_of(bf16_matrix(m, k, trans_a, trans_a ? m : k), packed_desc(k, n),
                          f32_matrix(m, n, n), accumulate);
      },
      operands(a, packed, c));
}

#if defined(__x86_64__) || defined(_M_X64)
namespace {

bool has_isa(dnnl_cpu_isa_t isa) {
  const auto needed = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl_get_effective_cpu_isa()) & needed) == needed;
}

}  // namespace
#endif

bool has_native_bf16() {
#if defined(__x86_64__) || defined(_M_X64)
  return has_isa(dnnl_cpu_isa_avx512_core_bf16);
#else
  using dnnl::memory;
  const auto desc = [](memory::data_type type) {
    return memory::desc({64, 64}, type, memory::dims{64, 1});
  };
  try {
    const auto bf16 = desc(memory::data_type::bf16);
    const std::string name =
        matmul_desc(bf16, bf16, desc(memory::data_type::f32), false).impl_info_str();
    return name.rfind("ref", 0) != 0;
  } catch (const dnnl::error&) {
    return false;
  }
#endif
}

bool has_fast_bf16() {
#if defined(__x86_64__) || defined(_M_X64)
  return has_isa(dnnl_cpu_isa_avx512_core_amx) ||
         (has_native_bf16() && __builtin_cpu_is("amd") != 0);
#else
  return has_native_bf16();
#endif
}

void onednn_s8s8s32(int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t lda, const int8_t* b,
                    int64_t ldb, float beta, int32_t* c, int64_t ldc) {
  require_code();
  const int32_t zero = 0;
  check(dnnl_gemm_s8s8s32('N', 'T', 'F', m, n, k, 1.0f, a, lda, 0, b, ldb, 0, beta, c, ldc, &zero),
        "dnnl_gemm_s8s8s32");
}

bool has_amx_int8() noexcept {
#if defined(__x86_64__) || defined(_M_X64)
  static const bool found = has_isa(dnnl_cpu_isa_avx512_core_amx);
  return found;
#else
  return false;
#endif
}

void onednn_s8_amx(int64_t m, int64_t n, int64_t k, const int8_t* a, const int8_t* b, int32_t* c) {
  using dnnl::memory;
  run_kept(
      {kInt8Product, m, n, k, 0, 0, 0, omp_get_max_threads()},
      [&] {
        return product_of(memory::desc({m, k}, memory::data_type::s8, memory::dims{k, 1}),
                          memory::desc({k, n}, memory::data_type::s8, memory::dims{1, k}),
                          memory::desc({m, n}, memory::data_type::s32, memory::dims{n, 1}), false);
      },
      operands(a, b, c));
}

bool int8_products_are_exact() {
  static const bool exact = exact_for(127, 127) && exact_for(127, -128) && exact_for(-128, -128);
  return exact;
}

std::vector<std::string> library_versions() {
  const dnnl_version_t* version = dnnl_version();
  std::vector<std::string> versions = {"oneDNN " + std::to_string(version->major) + "." +
                                       std::to_string(version->minor) + "." +
                                       std::to_string(version->patch)};
#ifdef LAOS_OPENBLAS
  versions.push_back(openblas_description());
#endif
  return versions;
}

}  // namespace laos::linalg
