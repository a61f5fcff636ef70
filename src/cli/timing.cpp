#include "cli/timing.h"

#include <algorithm>
#include <map>
#include <string>

#include "cli/compute_dtype.h"
#include "pipeline/plan.h"
#include "pipeline/run.h"

namespace laos::cli {

void print_timing(const report::RunRecord& record, std::FILE* out) {
  const report::Timings& timings = record.timings;
  std::map<std::string, double> rates;  // in 1e9 operations a second
  for (const report::TimedPart& part : timings.parts)
    if (part.flops > 0) rates[part.dtype] = 0;
  for (auto& [dtype, rate] : rates) rate = pipeline::gemm_gflops(compute_type_of(dtype));
  std::fprintf(out, "timing    %-28s %8s %6s %8s %8s  %s\n", "", "seconds", "share", "TFLOP",
               "GFLOP/s", "of the rate");
  double sum = 0, limit = 0;
  const auto line = [&](const std::string& name, double seconds, double flops,
                        const std::string& dtype) {
    sum += seconds;
    std::fprintf(out, "          %-28s %8.1f %4.0f %%", name.c_str(), seconds,
                 100 * seconds / std::max(1e-9, timings.total));
    if (flops > 0 && seconds > 0) {
      const double rate = 1e-9 * flops / seconds, machine = rates.at(dtype);
      limit += 1e-9 * flops / machine;
      std::fprintf(out, " %8.2f %8.0f  %.0f %% of %s", 1e-12 * flops, rate, 100 * rate / machine,
                   dtype.c_str());
    }
    std::fprintf(out, "\n");
  };
  for (const report::TimedPart& part : timings.parts)
    line(part.name, part.seconds, part.flops, part.dtype);
  if (timings.health > 0) line(pipeline::kHealthPart, timings.health, 0, "");
  line("rest", std::max(0.0, timings.total - sum), 0, "");
  for (const auto& [dtype, rate] : rates)
    std::fprintf(out, "          this machine multiplies at %.0f GFLOP/s in %s\n", rate,
                 dtype.c_str());
  if (limit > 0)
    std::fprintf(out,
                 "          the products alone take %.1f s at these rates, %.0f %% of %.1f s\n",
                 limit, 100 * limit / timings.total, timings.total);
}

}  // namespace laos::cli
