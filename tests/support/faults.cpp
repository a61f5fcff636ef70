// Loaded before libc into a program under test: lets one of its calls to the system fail, or ends
// it there.
//   LAOS_FAULT_CALL=write|sync|rename|reserve|map|allocate   which calls are counted
//   LAOS_FAULT_AT=N                                          the N-th of them, from 1
//   LAOS_FAULT=ENOSPC|EIO|ENOMEM|KILL                        what happens there
//   LAOS_FAULT_MARK=FILE                                     is made when it has happened
// Files are counted, terminals are not. Allocations are those of a page or more, from main() on.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<long> calls{0};

// The error that the call must fail with, or 0.
int fault_of(const char* call) {
  const char* counted = std::getenv("LAOS_FAULT_CALL");
  if (counted == nullptr || std::strcmp(counted, call) != 0) return 0;
  const char* at = std::getenv("LAOS_FAULT_AT");
  if (at == nullptr || ++calls != std::atol(at)) return 0;
  const char* fault = std::getenv("LAOS_FAULT");
  if (fault == nullptr) return 0;
  if (std::strcmp(fault, "KILL") == 0) ::kill(::getpid(), SIGKILL);
  if (const char* mark = std::getenv("LAOS_FAULT_MARK"))
    ::close(::open(mark, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  return std::strcmp(fault, "ENOSPC") == 0 ? ENOSPC : EIO;
}

bool fails(const char* call) {
  const int error = fault_of(call);
  if (error != 0) errno = error;
  return error != 0;
}

// Before main() nobody can be told of a failure. oneDNN does not look whether it has memory for the
// description and the code of a product; laos makes sure beforehand (linalg/onednn.cpp).
bool is_in_main = false;
thread_local bool is_in_onednn = false;

// Less than a page is always there: libraries allocate so much in destructors.
bool allocation_fails(size_t size) {
  if (size < 4096 || !is_in_main || is_in_onednn || fault_of("allocate") == 0) return false;
  errno = ENOMEM;
  return true;
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

// What oneDNN's function of this name returns, a dnnl_status_t.
template <class... Arguments>
int call_onednn(int (*real)(Arguments...), Arguments... arguments) {
  const bool was_in_onednn = is_in_onednn;
  is_in_onednn = true;
  const int status = real(arguments...);
  is_in_onednn = was_in_onednn;
  return status;
}

using Main = int(int, char**, char**);
Main* real_main = nullptr;
int counted_main(int argc, char** argv, char** environment) {
  is_in_main = true;
  return real_main(argc, argv, environment);
}

}  // namespace

extern "C" {

int __libc_start_main(Main* main, int argc, char** argv, void (*init)(), void (*fini)(),
                      void (*rtld_fini)(), void* stack_end) {
  real_main = main;
  return next<int(Main*, int, char**, void (*)(), void (*)(), void (*)(), void*)>(
      "__libc_start_main")(counted_main, argc, argv, init, fini, rtld_fini, stack_end);
}

// Characters stand for what tells a transposed operand, void for oneDNN's own types.
int dnnl_sgemm(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
               const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c,
               int64_t ldc) {
  static auto* const real = next<decltype(dnnl_sgemm)>("dnnl_sgemm");
  return call_onednn(real, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

int dnnl_gemm_s8s8s32(char trans_a, char trans_b, char offset, int64_t m, int64_t n, int64_t k,
                      float alpha, const int8_t* a, int64_t lda, int8_t a_zero, const int8_t* b,
                      int64_t ldb, int8_t b_zero, float beta, int32_t* c, int64_t ldc,
                      const int32_t* c_zero) {
  static auto* const real = next<decltype(dnnl_gemm_s8s8s32)>("dnnl_gemm_s8s8s32");
  return call_onednn(real, trans_a, trans_b, offset, m, n, k, alpha, a, lda, a_zero, b, ldb, b_zero,
                     beta, c, ldc, c_zero);
}

// Version 2 describes every product by this one, version 3 has one of each kind.
int dnnl_primitive_desc_iterator_create(void** desc, const void* operation, const void* attributes,
                                        void* engine, const void* hint) {
  static auto* const real =
      next<decltype(dnnl_primitive_desc_iterator_create)>("dnnl_primitive_desc_iterator_create");
  return call_onednn(real, desc, operation, attributes, engine, hint);
}

int dnnl_matmul_primitive_desc_create(void** desc, void* engine, const void* a, const void* b,
                                      const void* bias, const void* c, const void* attributes) {
  static auto* const real =
      next<decltype(dnnl_matmul_primitive_desc_create)>("dnnl_matmul_primitive_desc_create");
  return call_onednn(real, desc, engine, a, b, bias, c, attributes);
}

int dnnl_reorder_primitive_desc_create(void** desc, const void* from, void* from_engine,
                                       const void* to, void* to_engine, const void* attributes) {
  static auto* const real =
      next<decltype(dnnl_reorder_primitive_desc_create)>("dnnl_reorder_primitive_desc_create");
  return call_onednn(real, desc, from, from_engine, to, to_engine, attributes);
}

int dnnl_primitive_create(void** primitive, const void* desc) {
  static auto* const real = next<decltype(dnnl_primitive_create)>("dnnl_primitive_create");
  return call_onednn(real, primitive, desc);
}

int dnnl_primitive_execute(const void* primitive, void* stream, int count, const void* arguments) {
  static auto* const real = next<decltype(dnnl_primitive_execute)>("dnnl_primitive_execute");
  return call_onednn(real, primitive, stream, count, arguments);
}

void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void* malloc(size_t size) { return allocation_fails(size) ? nullptr : __libc_malloc(size); }
void* aligned_alloc(size_t alignment, size_t size) {
  return allocation_fails(size) ? nullptr : __libc_memalign(alignment, size);
}
int posix_memalign(void** target, size_t alignment, size_t size) {
  if (allocation_fails(size)) return ENOMEM;
  *target = __libc_memalign(alignment, size);
  return *target == nullptr ? ENOMEM : 0;
}

ssize_t write(int fd, const void* data, size_t size) {
  if (fd > STDERR_FILENO && fails("write")) return -1;
  static auto* const real = next<ssize_t(int, const void*, size_t)>("write");
  return real(fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  if (fails("write")) return -1;
  static auto* const real = next<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return real(fd, data, size, offset);
}

int fsync(int fd) {
  if (fails("sync")) return -1;
  static auto* const real = next<int(int)>("fsync");
  return real(fd);
}

int rename(const char* from, const char* to) {
  if (fails("rename")) return -1;
  static auto* const real = next<int(const char*, const char*)>("rename");
  return real(from, to);
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
  if (fails("reserve")) return -1;
  static auto* const real = next<int(int, int, off_t, off_t)>("fallocate");
  return real(fd, mode, offset, size);
}

void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset) {
  if (fd >= 0 ? fails("map") : allocation_fails(size)) return MAP_FAILED;
  static auto* const real = next<void*(void*, size_t, int, int, int, off_t)>("mmap");
  return real(address, size, protection, flags, fd, offset);
}

}  // extern "C"
