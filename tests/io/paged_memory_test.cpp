#include "io/paged_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "io/file.h"
#include "support/temporary_directory.h"

namespace laos::io {
namespace {

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(PagedMemory, BeginsZeroedAndKeepsWhatIsDropped) {
  const test::TemporaryDirectory directory;
  const PagedMemory memory(directory.path(), 100'000);
  ASSERT_EQ(memory.size_bytes(), 100'000);
  EXPECT_TRUE(std::all_of(memory.data(), memory.data() + memory.size_bytes(),
                          [](std::byte b) { return b == std::byte{0}; }));
  for (int64_t i = 0; i < memory.size_bytes(); ++i)
    memory.data()[i] = static_cast<std::byte>(i % 251);
  drop_pages({memory.data() + 5'001, 60'000});  // no page begins or ends there
  for (int64_t i = 0; i < memory.size_bytes(); ++i)
    ASSERT_EQ(memory.data()[i], static_cast<std::byte>(i % 251)) << i;
}

TEST(PagedMemory, DroppedPagesAreNoLongerResident) {
  const test::TemporaryDirectory directory;
  constexpr int64_t kSize = int64_t{64} << 20;
  const PagedMemory memory(directory.path(), kSize);
  const int64_t before = resident_bytes();
  std::fill_n(memory.data(), kSize, std::byte{1});
  EXPECT_GE(resident_bytes() - before, kSize * 9 / 10);
  drop_pages({memory.data(), static_cast<size_t>(kSize)});
  EXPECT_LE(resident_bytes() - before, kSize / 10);
  EXPECT_EQ(memory.data()[kSize - 1], std::byte{1});
}

// Bytes of a mapped file that are in memory, whoever read them.
int64_t cached_bytes(std::span<const std::byte> mapped) {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> in_memory((mapped.size() + static_cast<size_t>(page) - 1) /
                                       static_cast<size_t>(page));
  if (::mincore(const_cast<std::byte*>(mapped.data()), mapped.size(), in_memory.data()) != 0)
    return -1;
  return page * std::count_if(in_memory.begin(), in_memory.end(),
                              [](unsigned char of) { return (of & 1) != 0; });
}

TEST(ReadAhead, FetchesWhatItIsToldAndNothingElse) {
  constexpr int64_t kSize = int64_t{16} << 20;
  const test::TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "weights";
  std::ofstream(path) << std::string(static_cast<size_t>(kSize), 'w');
  const int fd = ::open(path.c_str(), O_RDONLY);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::fsync(fd), 0);
  (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
  const MappedFile file(path);
  if (cached_bytes(file.bytes()) > kSize / 8) GTEST_SKIP() << "files stay in memory here";
  const std::span<const std::byte> half = file.bytes().subspan(kSize / 2);
  const int64_t before = resident_bytes();
  {
    ReadAhead ahead;
    ahead.start({half.first(kSize / 4), half.subspan(kSize / 4)});
    for (int tries = 0; tries < 1000 && cached_bytes(half) < kSize / 2; ++tries)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(cached_bytes(half), kSize / 2);
  EXPECT_LT(cached_bytes(file.bytes()), kSize * 3 / 4);
  EXPECT_LT(resident_bytes() - before, kSize / 8);
  EXPECT_EQ(half.back(), std::byte{'w'});
}

TEST(ReadAhead, MayBeGivenNothingAndOtherPartsBeforeItIsDone) {
  const test::TemporaryDirectory directory;
  const std::filesystem::path path = directory.path() / "weights";
  std::ofstream(path) << std::string(size_t{8} << 20, 'w');
  const MappedFile file(path);
  ReadAhead ahead;
  ahead.start({});
  for (int i = 0; i < 20; ++i) ahead.start({file.bytes()});
}

TEST(PagedMemory, LeavesNoFileThatCanBeSeen) {
  const test::TemporaryDirectory directory;
  const PagedMemory memory(directory.path(), 5000);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(PagedMemory, MovesAndMayBeEmpty) {
  const test::TemporaryDirectory directory;
  PagedMemory memory(directory.path(), 10), other;
  memory.data()[9] = std::byte{7};
  other = std::move(memory);
  EXPECT_EQ(other.data()[9], std::byte{7});
  EXPECT_EQ(PagedMemory(directory.path(), 0).data(), nullptr);
  drop_pages({});
}

TEST(PagedMemory, RefusesADirectoryThatIsNotThereOrTooSmall) {
  const test::TemporaryDirectory directory;
  EXPECT_THROW(PagedMemory(directory.path() / "no", 10), Error);
  try {
    PagedMemory(directory.path(), int64_t{1} << 55);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResource);
  }
}

TEST(DropPages, KeepsAMappedFileReadable) {
  const test::TemporaryDirectory directory;
  write_text_atomically(directory.path() / "x", std::string(20'000, 'a'));
  const MappedFile file(directory.path() / "x");
  EXPECT_EQ(file.bytes()[15'000], std::byte{'a'});
  drop_pages(file.bytes());
  EXPECT_EQ(file.bytes()[15'000], std::byte{'a'});
}

}  // namespace
}  // namespace laos::io
