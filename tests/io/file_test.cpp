#include "io/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>
#include <utility>

#include "core/error.h"
#include "support/temporary_directory.h"

namespace laos::io {
namespace {

using test::TemporaryDirectory;
using testing::HasSubstr;
namespace fs = std::filesystem;

ErrorCode code_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorCode::kInternal;
}

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(MappedFile, HoldsTheBytesEvenAfterTheFileIsDeleted) {
  const TemporaryDirectory dir;
  put(dir / "a", "hello");
  const MappedFile file(dir / "a");
  fs::remove(dir / "a");
  ASSERT_EQ(file.bytes().size(), 5u);
  EXPECT_EQ(std::memcmp(file.bytes().data(), "hello", 5), 0);
}

TEST(MappedFile, MapsAnEmptyFileToNoBytes) {
  const TemporaryDirectory dir;
  put(dir / "a", "");
  EXPECT_TRUE(MappedFile(dir / "a").bytes().empty());
}

TEST(MappedFile, MovesItsMapping) {
  const TemporaryDirectory dir;
  put(dir / "a", "first");
  put(dir / "b", "second");
  MappedFile a(dir / "a");
  MappedFile b(dir / "b");
  a = std::move(b);
  const MappedFile c(std::move(a));
  EXPECT_EQ(c.bytes().size(), 6u);
  EXPECT_EQ(c.path(), dir / "b");
}

TEST(MappedFile, RefusesWhatIsNoRegularFileWithoutWaiting) {
  const TemporaryDirectory dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(code_of([&] { MappedFile{dir / "pipe"}; }), ErrorCode::kIo);
  EXPECT_EQ(code_of([&] { MappedFile{dir.path()}; }), ErrorCode::kIo);
  EXPECT_EQ(code_of([&] { MappedFile{dir / "absent"}; }), ErrorCode::kIo);
}

TEST(ReadText, ReadsUpToTheLimitAndNotBeyond) {
  const TemporaryDirectory dir;
  put(dir / "a", "hello");
  EXPECT_EQ(read_text(dir / "a", 5), "hello");
  EXPECT_EQ(code_of([&] { read_text(dir / "a", 4); }), ErrorCode::kIo);
  put(dir / "empty", "");
  EXPECT_EQ(read_text(dir / "empty", 0), "");
}

TEST(ReadText, ReadsFilesWhoseSizeTheSystemDoesNotKnow) {
  if (!fs::exists("/proc/self/status")) GTEST_SKIP() << "no /proc";
  EXPECT_THAT(read_text("/proc/self/status", 1 << 20), HasSubstr("Pid:"));
}

TEST(ReadText, NamesTheFileAndTheReason) {
  try {
    read_text("/no/such/file", 10);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.problems().front().where, "/no/such/file");
    EXPECT_THAT(error.what(), HasSubstr("No such file"));
  }
}

TEST(WriteTextAtomically, ReplacesTheFileAndLeavesNothingElse) {
  const TemporaryDirectory dir;
  put(dir / "a", "old and longer");
  write_text_atomically(dir / "a", "new");
  EXPECT_EQ(read_text(dir / "a", 100), "new");
  EXPECT_THAT(names_in(dir.path()), testing::ElementsAre("a"));
}

TEST(WriteTextAtomically, RespectsTheUmask) {
  const TemporaryDirectory dir;
  const mode_t before = ::umask(027);
  write_text_atomically(dir / "a", "x");
  ::umask(before);
  struct stat status = {};
  ASSERT_EQ(::stat((dir / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(WriteTextAtomically, LeavesNoTemporaryFileWhenItFails) {
  const TemporaryDirectory dir;
  fs::create_directories(dir / "a/inside");  // a directory that rename cannot replace
  EXPECT_EQ(code_of([&] { write_text_atomically(dir / "a", "x"); }), ErrorCode::kIo);
  EXPECT_THAT(names_in(dir.path()), testing::ElementsAre("a"));
  EXPECT_EQ(code_of([&] { write_text_atomically(dir / "absent/b", "x"); }), ErrorCode::kIo);
}

TEST(WriteTextAtomically, ManyThreadsWritingOneFileLeaveOneOfTheTexts) {
  const TemporaryDirectory dir;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k)
        write_text_atomically(dir / "a", std::string(1000, static_cast<char>('a' + i)));
    });
  for (std::thread& thread : threads) thread.join();
  const std::string text = read_text(dir / "a", 2000);
  EXPECT_EQ(text, std::string(1000, text.at(0)));
  EXPECT_THAT(names_in(dir.path()), testing::ElementsAre("a"));
}

TEST(PendingFile, AppearsUnderItsNameOnlyOnCommit) {
  const TemporaryDirectory dir;
  PendingFile file(dir / "a", 8);
  file.write_at(4, bytes_of("wxyz"));
  file.write_at(0, bytes_of("abcd"));
  file.sync();
  EXPECT_FALSE(fs::exists(dir / "a"));
  EXPECT_EQ(fs::file_size(dir / "a.partial"), 8u);
  file.commit();
  EXPECT_EQ(read_text(dir / "a", 100), "abcdwxyz");
  EXPECT_THAT(names_in(dir.path()), testing::ElementsAre("a"));
}

TEST(PendingFile, RemovesItselfWithoutCommitAndKeepsTheOldFile) {
  const TemporaryDirectory dir;
  put(dir / "a", "old");
  {
    PendingFile file(dir / "a", 3);
    file.write_at(0, bytes_of("new"));
    const PendingFile moved(std::move(file));  // the moved-from one must not remove twice
    EXPECT_TRUE(fs::exists(dir / "a.partial"));
  }
  EXPECT_EQ(read_text(dir / "a", 100), "old");
  EXPECT_THAT(names_in(dir.path()), testing::ElementsAre("a"));
}

TEST(PendingFile, TakesThePlaceOfWhatAKilledRunLeft) {
  const TemporaryDirectory dir;
  put(dir / "a.partial", "left behind, and longer");
  PendingFile file(dir / "a", 2);
  file.write_at(0, bytes_of("ok"));
  file.commit();
  EXPECT_EQ(read_text(dir / "a", 100), "ok");
}

TEST(PendingFile, RefusesToWriteOutsideItsSize) {
  const TemporaryDirectory dir;
  PendingFile file(dir / "a", 4);
  EXPECT_EQ(code_of([&] { file.write_at(2, bytes_of("abc")); }), ErrorCode::kInternal);
  EXPECT_EQ(code_of([&] { file.write_at(-1, bytes_of("a")); }), ErrorCode::kInternal);
}

TEST(PendingFile, SaysThatSpaceIsShortBeforeAnyWork) {
  const TemporaryDirectory dir;
  // A limit on file sizes stands in for a full disk: both come back from the reservation.
  rlimit old = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit low = old;
  low.rlim_cur = 4096;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  std::string message;
  ErrorCode code = ErrorCode::kInternal;
  try {
    PendingFile file(dir / "a", 1 << 20);
  } catch (const Error& error) {
    code = error.code();
    message = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(code, ErrorCode::kResource);
  EXPECT_THAT(message, HasSubstr("no space left to create a file of 1048576 bytes"));
  EXPECT_TRUE(names_in(dir.path()).empty());
}

}  // namespace
}  // namespace laos::io
