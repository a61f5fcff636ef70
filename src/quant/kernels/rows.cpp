#include "quant/kernels/rows.h"

#include "core/isa.h"
#include "quant/kernels/rows_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/kernels/rows.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::quant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

Range range(const float* x, int64_t n) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  Vec min = hn::Zero(d), max = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec v = hn::LoadU(d, x + i);
    min = hn::Min(min, v);
    max = hn::Max(max, v);
  }
  const Range rest = scalar::range(x + i, n - i);
  return {std::min(rest.min, hn::GetLane(hn::MinOfLanes(d, min))),
          std::max(rest.max, hn::GetLane(hn::MaxOfLanes(d, max)))};
}

HWY_INLINE Vec code_of(Vec x, Vec offset, Vec scale, Vec low, Vec high) {
  return hn::Min(hn::Max(hn::Round(hn::Add(hn::Div(x, scale), offset)), low), high);
}

void quantize(const float* x, const float* offset, float scale, int32_t q_max, int8_t* codes,
              int64_t n) {
  const F32 d;
  const hn::Rebind<int8_t, F32> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, scale), low = hn::Set(d, static_cast<float>(-q_max - 1)),
            high = hn::Set(d, static_cast<float>(q_max));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec o = offset != nullptr ? hn::LoadU(d, offset + i) : hn::Zero(d);
    const Vec q = code_of(hn::LoadU(d, x + i), o, s, low, high);
    hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(q)), d8, codes + i);
  }
  scalar::quantize(x + i, offset != nullptr ? offset + i : nullptr, scale, q_max, codes + i, n - i);
}

void fake_quantize(const float* x, const float* offset, float scale, int32_t q_max, float* x_hat,
                   int64_t n) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, scale), low = hn::Set(d, static_cast<float>(-q_max - 1)),
            high = hn::Set(d, static_cast<float>(q_max));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec o = offset != nullptr ? hn::LoadU(d, offset + i) : hn::Zero(d);
    hn::StoreU(hn::Mul(s, code_of(hn::LoadU(d, x + i), o, s, low, high)), d, x_hat + i);
  }
  scalar::fake_quantize(x + i, offset != nullptr ? offset + i : nullptr, scale, q_max, x_hat + i,
                        n - i);
}

void dequantize(const int8_t* codes, float scale, float* x_hat, int64_t n) {
  const F32 d;
  const hn::Rebind<int8_t, F32> d8;
  const hn::Rebind<int32_t, F32> d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, scale);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, codes + i))), s), d,
               x_hat + i);
  scalar::dequantize(codes + i, scale, x_hat + i, n - i);
}

void rescale(const int32_t* acc, float row_scale, const float* scales, float* y, int64_t n) {
  const F32 d;
  const hn::Rebind<int32_t, F32> d32;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec s = hn::Set(d, row_scale);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(
        hn::Mul(hn::Mul(hn::ConvertTo(d, hn::LoadU(d32, acc + i)), s), hn::LoadU(d, scales + i)), d,
        y + i);
  scalar::rescale(acc + i, row_scale, scales + i, y + i, n - i);
}

}  // namespace laos::quant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::quant::kernels {

HWY_EXPORT(range);
HWY_EXPORT(quantize);
HWY_EXPORT(fake_quantize);
HWY_EXPORT(dequantize);
HWY_EXPORT(rescale);

Range range(const float* x, int64_t n) noexcept {
  if (scalar_only()) return scalar::range(x, n);
  return HWY_DYNAMIC_DISPATCH(range)(x, n);
}
void quantize(const float* x, const float* offset, float scale, int32_t q_max, int8_t* codes,
              int64_t n) noexcept {
  if (scalar_only()) return scalar::quantize(x, offset, scale, q_max, codes, n);
  HWY_DYNAMIC_DISPATCH(quantize)(x, offset, scale, q_max, codes, n);
}
void fake_quantize(const float* x, const float* offset, float scale, int32_t q_max, float* x_hat,
                   int64_t n) noexcept {
  if (scalar_only()) return scalar::fake_quantize(x, offset, scale, q_max, x_hat, n);
  HWY_DYNAMIC_DISPATCH(fake_quantize)(x, offset, scale, q_max, x_hat, n);
}
void dequantize(const int8_t* codes, float scale, float* x_hat, int64_t n) noexcept {
  if (scalar_only()) return scalar::dequantize(codes, scale, x_hat, n);
  HWY_DYNAMIC_DISPATCH(dequantize)(codes, scale, x_hat, n);
}
void rescale(const int32_t* acc, float row_scale, const float* scales, float* y,
             int64_t n) noexcept {
  if (scalar_only()) return scalar::rescale(acc, row_scale, scales, y, n);
  HWY_DYNAMIC_DISPATCH(rescale)(acc, row_scale, scales, y, n);
}

}  // namespace laos::quant::kernels
#endif  // HWY_ONCE
