#include "rotation/kernels/twelfth.h"

#include "core/isa.h"
#include "rotation/kernels/twelfth_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "rotation/kernels/twelfth.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::rotation::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

float sum_of_twelfth_powers(const float* z, float unit, int64_t n) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec scale = hn::Set(d, unit);
  Vec sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec u = hn::Mul(hn::LoadU(d, z + i), scale), u2 = hn::Mul(u, u), u4 = hn::Mul(u2, u2);
    sum = hn::MulAdd(hn::Mul(u4, u4), u4, sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum)) + scalar::sum_of_twelfth_powers(z + i, unit, n - i);
}

void eleventh_powers(const float* z, float unit, float factor, float* y, int64_t n) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec scale = hn::Set(d, unit), f = hn::Set(d, factor), least = hn::Set(d, kSmallestSquare);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec u = hn::Mul(hn::LoadU(d, z + i), scale), u2 = hn::Mul(u, u), u4 = hn::Mul(u2, u2);
    const Vec slope = hn::Mul(hn::Mul(hn::Mul(hn::Mul(f, u4), u4), u2), u);
    hn::StoreU(hn::IfThenElseZero(hn::Ge(u2, least), slope), d, y + i);
  }
  scalar::eleventh_powers(z + i, unit, factor, y + i, n - i);
}

}  // namespace laos::rotation::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::rotation::kernels {

HWY_EXPORT(sum_of_twelfth_powers);
HWY_EXPORT(eleventh_powers);

float sum_of_twelfth_powers(const float* z, float unit, int64_t n) noexcept {
  if (scalar_only()) return scalar::sum_of_twelfth_powers(z, unit, n);
  return HWY_DYNAMIC_DISPATCH(sum_of_twelfth_powers)(z, unit, n);
}
void eleventh_powers(const float* z, float unit, float factor, float* y, int64_t n) noexcept {
  if (scalar_only()) return scalar::eleventh_powers(z, unit, factor, y, n);
  HWY_DYNAMIC_DISPATCH(eleventh_powers)(z, unit, factor, y, n);
}

}  // namespace laos::rotation::kernels
#endif  // HWY_ONCE
