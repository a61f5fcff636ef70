// A made-up run record, for tests of the report.
#pragma once

#include "report/run_record.h"

namespace laos::test {

// As a run of a Qwen3 of `num_layers` layers leaves it: every field set, losses of `iters`
// iterations. Equal arguments give equal records.
report::RunRecord run_record(int64_t num_layers, int64_t iters = 20);

}  // namespace laos::test
