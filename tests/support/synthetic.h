// The names of hf/synthetic.h, for tests.
#pragma once

#include "hf/synthetic.h"

namespace laos::test {

using hf::qwen3_config;
using hf::qwen3_shapes;
using hf::SyntheticModel;
using hf::write_synthetic;

}  // namespace laos::test
