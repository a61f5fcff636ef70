// Loaded before libc into a program under test: lets one of its calls to the system fail, or ends
// it there.
//   LAOS_FAULT_CALL=write|sync|rename|reserve|map   which calls are counted (of files, not of
//   terminals) LAOS_FAULT_AT=N                                 the N-th of them, from 1
//   LAOS_FAULT=ENOSPC|EIO|KILL                      what happens there
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
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
  return std::strcmp(fault, "ENOSPC") == 0 ? ENOSPC : EIO;
}

bool fails(const char* call) {
  const int error = fault_of(call);
  if (error != 0) errno = error;
  return error != 0;
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

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
  if (fd >= 0 && fails("map")) return MAP_FAILED;
  static auto* const real = next<void*(void*, size_t, int, int, int, off_t)>("mmap");
  return real(address, size, protection, flags, fd, offset);
}

}  // extern "C"
