#include "core/control_group.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <string>

#include "core/memory.h"
#include "core/threads.h"
#include "support/temporary_directory.h"

namespace laos {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// A made-up /proc and /sys.
class ControlGroup : public testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  int64_t memory() const { return control_group_memory_left(root_.path()); }
  double processors() const { return control_group_processors(root_.path()); }

  test::TemporaryDirectory root_;
};

TEST_F(ControlGroup, WithoutOneLimitsNothing) {
  EXPECT_EQ(memory(), kNoLimit);
  EXPECT_EQ(processors(), INFINITY);
}

TEST_F(ControlGroup, OfVersion2LimitsByTheTightestAbove) {
  write("proc/self/cgroup", "0::/batch/job7\n");
  write("sys/fs/cgroup/batch/job7/memory.max", "max\n");
  write("sys/fs/cgroup/batch/job7/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/batch/memory.max", "1000000\n");
  write("sys/fs/cgroup/batch/memory.current", "700000\n");
  write("sys/fs/cgroup/batch/memory.stat", "anon 600000\ninactive_file 40000\nactive_file 10000\nslab_reclaimable 5000\n");
  write("sys/fs/cgroup/batch/cpu.max", "150000 100000\n");
  write("sys/fs/cgroup/memory.max", "2000000\n");
  EXPECT_EQ(memory(), 355000);
  EXPECT_EQ(processors(), 1.5);
  write("sys/fs/cgroup/batch/job7/cpu.max", "50000 100000\n");
  EXPECT_EQ(processors(), 0.5);
}

TEST_F(ControlGroup, OfVersion1LimitsAlike) {
  write("proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n");
  write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1000000\n");
  write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "900000\n");
  write("sys/fs/cgroup/memory/job/memory.stat",
        "inactive_file 1\ntotal_inactive_file 200000\ntotal_active_file 50000\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(memory(), 350000);
  EXPECT_EQ(processors(), 3);
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(processors(), INFINITY);
}

// /proc names the host's path, and the container has its own group mounted at the top.
TEST_F(ControlGroup, OfAContainerIsFoundAtTheTop) {
  write("proc/self/cgroup", "4:memory:/docker/0123\n3:cpu:/docker/0123\n0::/docker/0123\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(memory(), 5000);
  EXPECT_EQ(processors(), 2);
}

TEST_F(ControlGroup, WithMoreThanItsLimitLeavesNothing) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "1000\n");
  write("sys/fs/cgroup/memory.current", "2000\n");
  EXPECT_EQ(memory(), 0);
}

TEST(UsableProcessors, AreSomeOfThisMachine) {
  EXPECT_GT(usable_processors(), 0);
  EXPECT_LE(usable_processors(), 65536);
}

TEST(AvailableMemory, IsReadAgainWhileTooLittleIsFree) {
  int reads = 0;
  const auto read = [&reads] { return int64_t{++reads < 3 ? 0 : 500}; };
  EXPECT_EQ(wait_for_memory(400, read), 500);
  EXPECT_EQ(reads, 3);
  EXPECT_EQ(wait_for_memory(0, read), 500);
  EXPECT_EQ(reads, 4);
  EXPECT_EQ(wait_for_memory(600, read), 500);  // in the end what is there
}

TEST(PeakRss, IsThisProgramsOwnAndGrows) {
  const int64_t before = peak_rss_bytes();
  EXPECT_GT(before, 1 << 20);
  {
    const std::string block(static_cast<size_t>(before) + (32 << 20), 'x');
    EXPECT_GT(block[block.size() / 2], 0);
  }
  EXPECT_GT(peak_rss_bytes(), before + (16 << 20));
}

}  // namespace
}  // namespace laos
