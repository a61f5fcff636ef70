#include "linalg/kernels/bf16.h"

#include "core/isa.h"
#include "linalg/kernels/bf16_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "linalg/kernels/bf16.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::linalg::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void to_bf16(const float* x, uint16_t* y, int64_t n) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> d32;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto one = hn::Set(d32, 1u), half = hn::Set(d32, 0x7fffu), quiet = hn::Set(d32, 0x40u);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto value = hn::LoadU(d, x + i);
    const auto bits = hn::BitCast(d32, value);
    const auto high = hn::ShiftRight<16>(bits);
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, half), hn::And(high, one)));
    const auto is_nan = hn::RebindMask(d32, hn::IsNaN(value));
    hn::StoreU(hn::TruncateTo(d16, hn::IfThenElse(is_nan, hn::Or(high, quiet), rounded)), d16,
               y + i);
  }
  scalar::to_bf16(x + i, y + i, n - i);
}

}  // namespace laos::linalg::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::linalg::kernels {

HWY_EXPORT(to_bf16);

void to_bf16(const float* x, uint16_t* y, int64_t n) noexcept {
  if (scalar_only()) return scalar::to_bf16(x, y, n);
  HWY_DYNAMIC_DISPATCH(to_bf16)(x, y, n);
}

}  // namespace laos::linalg::kernels
#endif  // HWY_ONCE
