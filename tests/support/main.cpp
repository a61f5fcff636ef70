// main of every test binary: LAOS_ISA chooses the kernels, as it does for laos itself.
#include <gtest/gtest.h>

#include "core/isa.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  laos::use_isa_from_environment();
  return RUN_ALL_TESTS();
}
