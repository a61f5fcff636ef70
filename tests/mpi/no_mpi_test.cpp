// An installation without MPI: no liblaos_mpi.so is beside this program.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

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

void expect_refused(const std::vector<std::string>& parts) {
  EXPECT_EQ(started_ranks(), 3);
  try {
    join(nullptr);
    FAIL() << parts.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    for (const std::string& part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(WithoutMpi, SeveralStartedProcessesAreRefused) {
  {
    const Environment size("OMPI_COMM_WORLD_SIZE", "3");
    expect_refused({"3 ranks were started", "liblaos_mpi.so, does not load: there is none",
                    "/lib/laos/liblaos_mpi.so", "install the package laos-mpi"});
  }
  {
    const Environment size("PMI_SIZE", "3"), rank("PMI_RANK", "0");
    expect_refused({"3 ranks were started"});
  }
  {
    const Environment size("SLURM_STEP_NUM_TASKS", "3");
    expect_refused({"3 tasks were started without a way to find each other", "--mpi=pmix"});
  }
}

TEST(WithoutMpi, OneStartedProcessIsAlone) {
  const Environment size("OMPI_COMM_WORLD_SIZE", "1"), rank("PMIX_RANK", "0");
  EXPECT_EQ(join(nullptr)->size(), 1);
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
