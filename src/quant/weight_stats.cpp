#include "quant/weight_stats.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/threads.h"

namespace laos::quant {

WeightStats weight_stats(MatView<const float> weight, const IntWeight& quantized) {
  struct Row {
    double error = 0, size = 0, range = 0;
    int64_t clipped = 0, scales = 0;
  };
  const int64_t num_groups = static_cast<int64_t>(quantized.scale.size()) / weight.rows;
  const int64_t group_size = weight.cols / num_groups;
  const auto q_max = static_cast<float>(quantized.spec.q_max());
  std::vector<Row> rows(static_cast<size_t>(weight.rows));
  parallel_for_ranges(weight.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Row& row = rows[static_cast<size_t>(i)];
      for (int64_t g = 0; g < num_groups; ++g) {
        const float scale = quantized.scale[static_cast<size_t>(i * num_groups + g)];
        const float* w = weight.row(i) + g * group_size;
        const int8_t* q = quantized.q.row(i) + g * group_size;
        float lowest = -(q_max + 1.5f) * scale, highest = (q_max + 0.5f) * scale;
        if (scale < 0) std::swap(lowest, highest);
        float peak = 0;
        double error = 0, size = 0;
        for (int64_t j = 0; j < group_size; ++j) {
          const double e = static_cast<double>(w[j]) - static_cast<double>(scale) * q[j];
          error += e * e;
          size += static_cast<double>(w[j]) * w[j];
          peak = std::max(peak, std::fabs(w[j]));
          row.clipped += w[j] > highest || w[j] < lowest ? 1 : 0;
        }
        row.error += error;
        row.size += size;
        if (peak == 0) continue;
        row.range += std::fabs(static_cast<double>(scale)) * quantized.spec.steps() / peak;
        ++row.scales;
      }
    }
  });
  Row sum;
  for (const Row& row : rows) {
    sum.error += row.error;
    sum.size += row.size;
    sum.range += row.range;
    sum.clipped += row.clipped;
    sum.scales += row.scales;
  }
  WeightStats stats;
  if (sum.size > 0) stats.error = std::sqrt(sum.error / sum.size);
  stats.clipped = static_cast<double>(sum.clipped) /
                  (static_cast<double>(weight.rows) * static_cast<double>(weight.cols));
  if (sum.scales > 0) stats.range = sum.range / static_cast<double>(sum.scales);
  return stats;
}

}  // namespace laos::quant
