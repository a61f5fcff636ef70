#include "model/outliers.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/threads.h"

namespace laos::model {
namespace {

constexpr int64_t kRowGrain = 16;

// Mean of f(row) over rows where it says so; rows are summed in order.
template <class F>
double mean_over_rows(int64_t rows, F&& f) {
  struct Value {
    double value = 0;
    bool counts = false;
  };
  std::vector<Value> values(static_cast<size_t>(rows));
  parallel_for_ranges(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Value& v = values[static_cast<size_t>(i)];
      v.counts = f(i, v.value);
    }
  });
  double sum = 0, count = 0;
  for (const Value& v : values) {
    if (!v.counts) continue;
    sum += v.value;
    count += 1;
  }
  return count == 0 ? 0 : sum / count;
}

}  // namespace

bool is_finite(MatView<const float> x) {
  std::vector<char> finite(static_cast<size_t>(x.rows), 1);
  parallel_for_ranges(x.rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Of bits and without a branch, so that the compiler makes vectors of it.
      constexpr uint32_t kExponent = 0x7f800000u;
      const float* row = x.row(i);
      uint32_t bad = 0;
      for (int64_t j = 0; j < x.cols; ++j)
        bad |= (std::bit_cast<uint32_t>(row[j]) & kExponent) == kExponent ? 1u : 0u;
      finite[static_cast<size_t>(i)] = bad == 0;
    }
  });
  return std::all_of(finite.begin(), finite.end(), [](char f) { return f != 0; });
}

Outliers outliers_of(MatView<const float> x) {
  const auto n = static_cast<double>(x.cols);
  const auto moments = [&](int64_t i, double& peak, double& second, double& fourth) {
    for (int64_t j = 0; j < x.cols; ++j) {
      const double square = static_cast<double>(x.row(i)[j]) * x.row(i)[j];
      peak = std::max(peak, square);
      second += square;
      fourth += square * square;
    }
    second /= n;
    fourth /= n;
    return second != 0;
  };
  Outliers result;
  result.max_to_rms = mean_over_rows(x.rows, [&](int64_t i, double& value) {
    double peak = 0, second = 0, fourth = 0;
    if (!moments(i, peak, second, fourth)) return false;
    value = std::sqrt(peak / second);
    return true;
  });
  result.kurtosis = mean_over_rows(x.rows, [&](int64_t i, double& value) {
    double peak = 0, second = 0, fourth = 0;
    if (!moments(i, peak, second, fourth)) return false;
    value = fourth / (second * second);
    return true;
  });
  return result;
}

double mean_relative_error(MatView<const float> a, MatView<const float> b,
                           MatView<const float> reference) {
  return mean_over_rows(a.rows, [&](int64_t i, double& value) {
    double error = 0, size = 0;
    for (int64_t j = 0; j < a.cols; ++j) {
      const double e = static_cast<double>(a.row(i)[j]) - b.row(i)[j];
      const double r = reference.row(i)[j];
      error += e * e;
      size += r * r;
    }
    if (size == 0 && std::isfinite(error)) return false;
    value = std::isfinite(error) && std::isfinite(size) ? std::sqrt(error / size) : std::nan("");
    return true;
  });
}

}  // namespace laos::model
