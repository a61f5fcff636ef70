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

using F32 = hn::ScalableTag<float>;
using S16 = hn::Rebind<int16_t, F32>;
using Vec = hn::Vec<F32>;

// unit * v as f32.
HWY_INLINE Vec offsets_at(F32 d, const int16_t* v, Vec unit) {
  const hn::RebindToSigned<F32> s32;
  return hn::Mul(hn::ConvertTo(d, hn::PromoteTo(s32, hn::LoadU(S16(), v))), unit);
}

float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float unit,
                     int32_t step, int16_t* v, int64_t n) {
  const F32 d;
  const hn::RebindToSigned<F32> s32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, scale), low = hn::Set(d, static_cast<float>(-q_max - 1)),
            high = hn::Set(d, static_cast<float>(q_max));
  const Vec zero = hn::Zero(d), vunit = hn::Set(d, unit);
  const auto move = hn::Set(s32, scale < 0 ? -step : step), limit = hn::Set(s32, 32767);
  Vec sum = zero;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec grad = hn::LoadU(d, g + i), x = hn::Div(hn::LoadU(d, w + i), s);
    const Vec r = hn::Round(v != nullptr ? hn::Add(x, offsets_at(d, v + i, vunit)) : x);
    const auto inside = hn::And(hn::Ge(r, low), hn::Le(r, high));
    const Vec q = hn::Min(hn::Max(r, low), high);
    sum = hn::MulAdd(grad, hn::Sub(q, hn::IfThenElseZero(inside, x)), sum);
    if (v == nullptr) continue;
    const auto down = hn::RebindMask(s32, hn::And(inside, hn::Gt(grad, zero))),
               up = hn::RebindMask(s32, hn::And(inside, hn::Lt(grad, zero)));
    const auto old = hn::PromoteTo(s32, hn::LoadU(S16(), v + i));
    const auto moved =
        hn::Add(hn::Sub(old, hn::IfThenElseZero(down, move)), hn::IfThenElseZero(up, move));
    hn::StoreU(hn::DemoteTo(S16(), hn::Min(hn::Max(moved, hn::Neg(limit)), limit)), S16(), v + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum)) +
         scalar::update_offsets(w + i, g + i, scale, q_max, unit, step,
                                v != nullptr ? v + i : nullptr, n - i);
}

void fake_quantize(const float* w, const int16_t* v, float unit, float scale, int32_t q_max,
                   float* w_hat, int64_t n) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, scale), low = hn::Set(d, static_cast<float>(-q_max - 1)),
            high = hn::Set(d, static_cast<float>(q_max)), vunit = hn::Set(d, unit);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec x = hn::Div(hn::LoadU(d, w + i), s);
    const Vec r = hn::Round(hn::Add(x, offsets_at(d, v + i, vunit)));
    hn::StoreU(hn::Mul(s, hn::Min(hn::Max(r, low), high)), d, w_hat + i);
  }
  scalar::fake_quantize(w + i, v + i, unit, scale, q_max, w_hat + i, n - i);
}

}  // namespace laos::autoround::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::autoround::kernels {

HWY_EXPORT(update_offsets);
HWY_EXPORT(fake_quantize);

float update_offsets(const float* w, const float* g, float scale, int32_t q_max, float unit,
                     int32_t step, int16_t* v, int64_t n) noexcept {
  if (scalar_only()) return scalar::update_offsets(w, g, scale, q_max, unit, step, v, n);
  return HWY_DYNAMIC_DISPATCH(update_offsets)(w, g, scale, q_max, unit, step, v, n);
}
void fake_quantize(const float* w, const int16_t* v, float unit, float scale, int32_t q_max,
                   float* w_hat, int64_t n) noexcept {
  if (scalar_only()) return scalar::fake_quantize(w, v, unit, scale, q_max, w_hat, n);
  HWY_DYNAMIC_DISPATCH(fake_quantize)(w, v, unit, scale, q_max, w_hat, n);
}

}  // namespace laos::autoround::kernels
#endif  // HWY_ONCE
