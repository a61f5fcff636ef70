// A build without MPI: this program holds no_mpi.cpp, whatever the build around it has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "cluster/cluster.h"

namespace laos::cluster {
namespace {

using ::testing::HasSubstr;

class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Environment() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(WithoutMpi, OneProcessIsAJobOfOneRank) {
  const auto cluster = join(nullptr);
  EXPECT_EQ(cluster->rank(), 0);
  EXPECT_EQ(cluster->size(), 1);
  EXPECT_EQ(cluster->hosts().size(), 1u);
  EXPECT_EQ(cluster->gather("text"), std::vector<std::string>{"text"});
  EXPECT_EQ(cluster->broadcast("text"), "text");
  EXPECT_TRUE(cluster->claim_failure());
}

TEST(WithoutMpi, SeveralStartedProcessesAreRefused) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const Environment environment(name, "3");
    EXPECT_EQ(started_ranks(), 3);
    try {
      join(nullptr);
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_THAT(error.what(), HasSubstr("3 ranks were started"));
      EXPECT_THAT(error.what(), HasSubstr("built without MPI"));
    }
  }
}

TEST(RankTimeout, IsANumberOfSecondsOrRefused) {
  EXPECT_EQ(rank_timeout_seconds(), 40);
  {
    const Environment environment("LAOS_RANK_TIMEOUT", "7");
    EXPECT_EQ(rank_timeout_seconds(), 7);
  }
  for (const char* bad : {"1", "soon", "7s", "-3", "999999999"}) {
    const Environment environment("LAOS_RANK_TIMEOUT", bad);
    EXPECT_THROW(rank_timeout_seconds(), Error) << bad;
  }
}

}  // namespace
}  // namespace laos::cluster
