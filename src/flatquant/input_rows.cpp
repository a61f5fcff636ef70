#include "flatquant/input_rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/threads.h"

namespace laos::flatquant {

InputRows::InputRows(int64_t num_tokens, int64_t in_features)
    : num_tokens_(num_tokens), rows_(std::min(num_tokens, kMaxRows), in_features) {}

void InputRows::observe(MatView<const float> x) {
  std::vector<double> norms(static_cast<size_t>(x.rows));
  parallel_for(x.rows, [&](int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < x.cols; ++j) sum += static_cast<double>(x.row(i)[j]) * x.row(i)[j];
    norms[static_cast<size_t>(i)] = std::sqrt(sum);
  });
  for (int64_t i = 0; i < x.rows; ++i, ++num_seen_) {
    const double norm = norms[static_cast<size_t>(i)];
    largest_norm_ = std::max(largest_norm_, static_cast<float>(norm));
    // Token t is taken where t * kept / all passes a whole number.
    const int64_t kept = rows_.rows();
    if ((num_seen_ + 1) * kept / num_tokens_ == num_seen_ * kept / num_tokens_ || norm == 0)
      continue;
    float* row = rows_.row(num_rows_++);
    for (int64_t j = 0; j < x.cols; ++j)
      row[j] = static_cast<float>(static_cast<double>(x.row(i)[j]) / norm);
  }
}

}  // namespace laos::flatquant
