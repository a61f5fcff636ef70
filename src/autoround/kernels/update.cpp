#include "autoround/kernels/update.h"

#include "autoround/kernels/update_scalar.h"
#include "core/isa.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "autoround/kernels/update.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::autoround::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float lr,
                     float clip, float* v, int64_t n) {
  const hn::ScalableTag<float> d;
  using Vec = hn::Vec<decltype(d)>;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, scale), low = hn::Set(d, static_cast<float>(-q_max - 1)),
            high = hn::Set(d, static_cast<float>(q_max));
  const Vec step = hn::Set(d, lr), limit = hn::Set(d, clip), zero = hn::Zero(d);
  Vec sum = zero;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec grad = hn::LoadU(d, g + i), x = hn::Div(hn::LoadU(d, w + i), s);
    const Vec offset = v != nullptr ? hn::LoadU(d, v + i) : zero;
    const Vec r = hn::Round(hn::Add(x, offset));
    const auto inside = hn::And(hn::Ge(r, low), hn::Le(r, high));
    const Vec q = hn::Min(hn::Max(r, low), high);
    sum = hn::MulAdd(grad, hn::Sub(q, hn::IfThenElseZero(inside, x)), sum);
    if (v == nullptr) continue;
    const Vec down = hn::IfThenElseZero(hn::Gt(grad, zero), step),
              up = hn::IfThenElseZero(hn::Lt(grad, zero), step);
    const Vec moved = hn::Min(hn::Max(hn::Add(hn::Sub(offset, down), up), hn::Neg(limit)), limit);
    hn::StoreU(hn::IfThenElse(inside, moved, offset), d, v + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum)) +
         scalar::update_offsets(w + i, g + i, scale, q_max, lr, clip,
                                v != nullptr ? v + i : nullptr, n - i);
}

}  // namespace laos::autoround::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::autoround::kernels {

HWY_EXPORT(update_offsets);

float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float lr,
                     float clip, float* v, int64_t n) noexcept {
  if (scalar_only()) return scalar::update_offsets(w, g, scale, q_max, lr, clip, v, n);
  return HWY_DYNAMIC_DISPATCH(update_offsets)(w, g, scale, q_max, lr, clip, v, n);
}

}  // namespace laos::autoround::kernels
#endif  // HWY_ONCE
