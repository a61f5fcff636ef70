// The program where the machine gives it less than it needs: a full disk, a directory that cannot
// be written, little memory, files that go away. It says so, and nothing is lost.
#include <sys/mount.h>
#include <sys/stat.h>

#include <chrono>
#include <thread>

#include "cli/interrupted.h"

namespace laos {
namespace {

class Limited : public Interrupted {
 protected:
  // Waits until the run of start() has printed `text`.
  bool wait_for_line(const std::string& text) const {
    for (int i = 0; i < 3000; ++i) {
      if (log().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  void train_for(int64_t iters) const {
    std::string text = kRecipe;
    text.replace(text.find("iters: 2"), 8, "iters: " + std::to_string(iters));
    std::ofstream(recipe_) << text;
  }
};

// A file system of some bytes, mounted for one test.
class SmallDisk {
 public:
  SmallDisk(const fs::path& path, int64_t bytes) : path_(path) {
    fs::create_directories(path_);
    const std::string options = "size=" + std::to_string(bytes);
    is_mounted_ = ::mount("laos-test", path_.c_str(), "tmpfs", 0, options.c_str()) == 0;
  }
  ~SmallDisk() {
    if (is_mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool is_mounted() const { return is_mounted_; }
  bool remount(unsigned long flags, int64_t bytes) const {
    const std::string options = "size=" + std::to_string(bytes);
    return ::mount("laos-test", path_.c_str(), "tmpfs", MS_REMOUNT | flags, options.c_str()) == 0;
  }

 private:
  fs::path path_;
  bool is_mounted_ = false;
};

TEST_F(Limited, ByAFullDiskBehindStdoutIsNoSuccess) {
  const std::string model = (fs::path(LAOS_SOURCE_DIR) / "models/qwen3-tiny").string();
  for (const std::string& command :
       {std::string("recipes"), "generate --model-path " + model + " --prompt a --max-new-tokens 2",
        std::string("inspect --help")}) {
    const test::CommandResult result = test::run_laos(command + " 2>&3 >/dev/full ) 3>&1", "( ");
    EXPECT_EQ(result.exit_code, 1) << command;
    EXPECT_THAT(result.output, HasSubstr("could not be written")) << command;
  }
}

// What is printed must not land in a file that gets the number of stdout.
TEST_F(Limited, ByClosedStreamsWritesTheSameFiles) {
  ASSERT_EQ(quantize("reference").exit_code, 0);
  more_arguments_ = " <&- >&- 2>&-; echo ended $? )";
  EXPECT_THAT(quantize("out", "( ").output, HasSubstr("ended 0"));
  EXPECT_EQ(manifest("out"), manifest("reference"));
}

TEST_F(Limited, ByADiskThatIsTooSmallIsRefusedBeforeTheStart) {
  const SmallDisk disk(directory_ / "disk", 200'000);
  if (!disk.is_mounted()) GTEST_SKIP() << "may not mount a file system";
  const test::CommandResult result = quantize("disk/out");
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_THAT(result.output, HasSubstr("fix: "));
  EXPECT_THAT(result.output, Not(HasSubstr("quantize 1/3"))) << "before any work";
  EXPECT_FALSE(fs::exists(directory_ / "disk/out"));
}

TEST_F(Limited, ByADiskThatAnotherProgramFillsLosesNothingSlow) {
  const SmallDisk disk(directory_ / "disk", 64 << 20);
  if (!disk.is_mounted()) GTEST_SKIP() << "may not mount a file system";
  train_for(300);
  ASSERT_EQ(quantize("reference").exit_code, 0);
  bool ran_out = false;
  for (const char* moment : {"fit rotation 2/2", "quantize 1/3", "quantize 2/3"}) {
    SCOPED_TRACE(moment);
    fs::remove_all(directory_ / "disk/out");
    const pid_t child = start("disk/out");
    ASSERT_TRUE(wait_for_line(moment)) << log();
    {
      std::ofstream filler(directory_ / "disk/filler", std::ios::binary);
      const std::string piece(4096, 'x');
      while (filler.write(piece.data(), std::ssize(piece)).flush()) {
      }
    }
    const int status = wait_for(child);
    ASSERT_TRUE(WIFEXITED(status)) << log();
    if (WEXITSTATUS(status) != 0) {
      ran_out = true;
      EXPECT_EQ(WEXITSTATUS(status), 1) << log();
      EXPECT_THAT(log(), HasSubstr("space"));
      EXPECT_FALSE(fs::exists(directory_ / "disk/out/quant_model_description.json"));
    }
    fs::remove(directory_ / "disk/filler");
    go_on("disk/out");
    EXPECT_EQ(manifest("disk/out"), manifest("reference"));
  }
  EXPECT_TRUE(ran_out);
}

TEST_F(Limited, ByADirectoryThatCannotBeWrittenIsRefused) {
  const SmallDisk disk(directory_ / "disk", 64 << 20);
  if (!disk.is_mounted()) GTEST_SKIP() << "may not mount a file system";
  fs::create_directory(directory_ / "disk/out");
  ASSERT_TRUE(disk.remount(MS_RDONLY, 64 << 20));
  for (const char* path : {"disk/out", "disk/new"}) {
    const test::CommandResult result = quantize(path);
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.output, HasSubstr("fix: "));
    EXPECT_THAT(result.output, Not(HasSubstr("quantize 1/3"))) << "before any work";
  }
}

// From what the program cannot even be loaded in to what is plenty.
TEST_F(Limited, ByAnAddressSpaceOfAnySizeItSaysWhyOrEndsWellSlow) {
  if (std::string(LAOS_FAULTS).empty()) GTEST_SKIP() << "sanitizers need terabytes of addresses";
  ASSERT_EQ(quantize("reference").exit_code, 0);
  bool was_refused = false, ended_well = false;
  for (int64_t kilobytes = 50'000; kilobytes < 400'000; kilobytes += kilobytes / 5) {
    SCOPED_TRACE(kilobytes);
    fs::remove_all(directory_ / "out");
    const test::CommandResult result =
        quantize("out", "ulimit -v " + std::to_string(kilobytes) + "; ");
    if (result.exit_code == 0) {
      ended_well = true;
      EXPECT_EQ(manifest("out"), manifest("reference"));
      continue;
    }
    // 127 is the loader's. glibc itself ends a program that has no memory left for what a thread
    // registers.
    const bool is_glibcs = result.output.find("Fatal glibc error") != std::string::npos;
    EXPECT_THAT(result.exit_code, AnyOf(1, 127, is_glibcs ? 128 + SIGABRT : 1)) << result.output;
    if (result.output.find("out of memory") != std::string::npos) was_refused = true;
    go_on("out");
    EXPECT_EQ(manifest("out"), manifest("reference"));
  }
  EXPECT_TRUE(was_refused && ended_well);
}

TEST_F(Limited, ByAShardThatIsDeletedMeanwhileGoesOnAndDoesNotBeginAgainWithoutIt) {
  ASSERT_EQ(quantize("reference").exit_code, 0);
  train_for(2);
  const pid_t child = start("out");
  ASSERT_TRUE(wait_for_line("fit rotation")) << log();
  fs::rename(model_ / "model.safetensors", directory_ / "elsewhere");
  const int status = wait_for(child);
  ASSERT_TRUE(WIFEXITED(status)) << log();
  // What is mapped stays; only the health check at the end opens the model again.
  if (WEXITSTATUS(status) != 0) {
    EXPECT_THAT(log(), HasSubstr("there is neither model.safetensors"));
  }
  EXPECT_EQ(manifest("out"), manifest("reference"));
  const test::CommandResult again = quantize("out2");
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.output, HasSubstr("model.safetensors"));
  EXPECT_FALSE(fs::exists(directory_ / "out2"));
}

TEST_F(Limited, ByUmaskAreTheFilesThatAreWrittenAndPartsArePrivate) {
  train_for(300);
  const mode_t before = ::umask(0027);
  const pid_t child = start("out");
  ::umask(before);
  ASSERT_TRUE(wait_for_line("quantize 1/3")) << log();
  struct stat status = {};
  ASSERT_EQ(::stat((directory_ / "out/.laos-partial").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  ASSERT_EQ(WEXITSTATUS(wait_for(child)), 0) << log();
  for (const auto& entry : fs::recursive_directory_iterator(directory_ / "out")) {
    ASSERT_EQ(::stat(entry.path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, entry.is_directory() ? 0750u : 0640u) << entry.path();
  }
  ASSERT_EQ(::stat((directory_ / "out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0750u);
}

}  // namespace
}  // namespace laos
