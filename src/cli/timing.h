// Where the time of a run went, beside what the machine could do.
#pragma once

#include <cstdio>

#include "report/run_record.h"

namespace laos::cli {

// A line a part of record.timings.parts, the rest and the whole. Takes half a second: it measures
// the rates of this machine's products.
void print_timing(const report::RunRecord& record, std::FILE* out);

}  // namespace laos::cli
