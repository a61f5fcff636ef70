// Which instruction set the SIMD kernels run on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace laos {

// Scalar definitions, or a Highway target (AVX2, AVX3, NEON, SVE, ...). The best the machine has,
// unless the environment variable LAOS_ISA names another ("scalar" or a Highway target name).
struct Isa {
  std::string name;        // "scalar", "AVX2", ...
  int64_t hwy_target = 0;  // 0 for scalar
};

// Scalar first, then every Highway target this machine can run that was compiled in.
std::vector<Isa> supported_isas();

// True when kernels must use their scalar definitions.
bool scalar_only() noexcept;

// Makes all later kernel calls of the process use `isa`; for tests and for applying LAOS_ISA.
void use_isa(const Isa& isa);

// Undoes use_isa: what LAOS_ISA names, else the best this machine has. Throws as
// use_isa_from_environment.
void restore_isa();

// The ISA kernels use now.
std::string active_isa_name();

// Applies LAOS_ISA. Throws Error(kUsage) naming the supported ones when it names none of them.
void use_isa_from_environment();

}  // namespace laos
