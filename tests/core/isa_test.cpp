#include "core/isa.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <set>

#include "core/error.h"

namespace laos {
namespace {

// Sets LAOS_ISA for a test and puts back what was there.
class IsaChoice : public testing::Test {
 protected:
  IsaChoice() {
    if (const char* value = std::getenv("LAOS_ISA")) kept_ = value;
  }
  void TearDown() override {
    set(kept_ ? kept_->c_str() : nullptr);
    restore_isa();
  }
  static void set(const char* value) {
    if (value == nullptr)
      unsetenv("LAOS_ISA");
    else
      setenv("LAOS_ISA", value, 1);
  }

 private:
  std::optional<std::string> kept_;
};

TEST_F(IsaChoice, OffersScalarFirstAndEachOnce) {
  set(nullptr);
  restore_isa();
  const std::vector<Isa> isas = supported_isas();
  EXPECT_EQ(isas.front().name, "scalar");
  EXPECT_EQ(isas.front().hwy_target, 0);
  std::set<std::string> names;
  for (const Isa& isa : isas) {
    EXPECT_TRUE(names.insert(isa.name).second) << isa.name;
    EXPECT_EQ(isa.hwy_target == 0, isa.name == "scalar");
  }
}

TEST_F(IsaChoice, WithoutAWishItIsAVectorOneThatIsOffered) {
  set(nullptr);
  restore_isa();
  std::set<std::string> names;
  for (const Isa& isa : supported_isas()) names.insert(isa.name);
  EXPECT_FALSE(scalar_only());
  EXPECT_EQ(names.count(active_isa_name()), 1u) << active_isa_name();
}

TEST_F(IsaChoice, TakesEachThatIsOfferedFromTheEnvironment) {
  set(nullptr);
  restore_isa();
  for (const Isa& isa : supported_isas()) {
    set(isa.name.c_str());
    restore_isa();
    EXPECT_EQ(active_isa_name(), isa.name);
    EXPECT_EQ(scalar_only(), isa.name == "scalar");
  }
}

TEST_F(IsaChoice, RestoreUndoesWhatATestForced) {
  set(nullptr);
  restore_isa();
  const std::string best = active_isa_name();
  for (const Isa& isa : supported_isas()) {
    use_isa(isa);
    EXPECT_EQ(active_isa_name(), isa.name);
    restore_isa();
    EXPECT_EQ(active_isa_name(), best);
  }
}

TEST_F(IsaChoice, RefusesAnUnknownNameAndListsTheKnown) {
  set("MMX");
  try {
    use_isa_from_environment();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(error.problems().front().what.find("LAOS_ISA=MMX"), std::string::npos);
    EXPECT_NE(error.problems().front().fix.find("scalar, "), std::string::npos);
  }
}

TEST_F(IsaChoice, AnEmptyWishIsNone) {
  set(nullptr);
  restore_isa();
  const std::string best = active_isa_name();
  set("");
  restore_isa();
  EXPECT_EQ(active_isa_name(), best);
}

}  // namespace
}  // namespace laos
