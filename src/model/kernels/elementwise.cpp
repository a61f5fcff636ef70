#include "model/kernels/elementwise.h"

#include "core/isa.h"
#include "model/kernels/elementwise_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels/elementwise.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::model::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

// Whole vectors go through `body(i)`; what is left, fewer than a vector's lanes, through `tail(i)`.
template <class Body, class Tail>
HWY_INLINE void for_lanes(int64_t n, Body&& body, Tail&& tail) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i);
  if (i < n) tail(i);
}

float rms_norm(const float* x, const float* gain, float eps, float* y, int64_t n) {
  const F32 d;
  Vec sum = hn::Zero(d);
  float rest = 0;
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec v = hn::LoadU(d, x + i);
        sum = hn::MulAdd(v, v, sum);
      },
      [&](int64_t i) {
        for (; i < n; ++i) rest += x[i] * x[i];
      });
  const float total = hn::GetLane(hn::SumOfLanes(d, sum)) + rest;
  const float inv_rms = 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
  const Vec scale = hn::Set(d, inv_rms);
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), scale), hn::LoadU(d, gain + i)), d, y + i);
      },
      [&](int64_t i) {
        for (; i < n; ++i) y[i] = x[i] * inv_rms * gain[i];
      });
  return inv_rms;
}

void rms_norm_backward(const float* d_y, const float* x, const float* gain, float inv_rms,
                       bool accumulate, float* d_x, int64_t n) {
  const F32 d;
  Vec sum = hn::Zero(d);
  float rest = 0;
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        sum = hn::MulAdd(hn::Mul(hn::LoadU(d, gain + i), hn::LoadU(d, d_y + i)),
                         hn::LoadU(d, x + i), sum);
      },
      [&](int64_t i) {
        for (; i < n; ++i) rest += gain[i] * d_y[i] * x[i];
      });
  const float dot = hn::GetLane(hn::SumOfLanes(d, sum)) + rest;
  const float pull = dot * inv_rms * inv_rms * inv_rms / static_cast<float>(n);
  const Vec scale = hn::Set(d, inv_rms), neg_pull = hn::Set(d, -pull);
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec g = hn::Mul(hn::Mul(scale, hn::LoadU(d, gain + i)), hn::LoadU(d, d_y + i));
        Vec result = hn::MulAdd(hn::LoadU(d, x + i), neg_pull, g);
        if (accumulate) result = hn::Add(result, hn::LoadU(d, d_x + i));
        hn::StoreU(result, d, d_x + i);
      },
      [&](int64_t i) {
        for (; i < n; ++i) {
          const float g = inv_rms * gain[i] * d_y[i] - x[i] * pull;
          d_x[i] = accumulate ? d_x[i] + g : g;
        }
      });
}

void rope(float* x, const float* cos, const float* sin, bool backward, int64_t half) {
  const F32 d;
  for_lanes(
      half,
      [&](int64_t i) HWY_ATTR {
        const Vec c = hn::LoadU(d, cos + i);
        Vec s = hn::LoadU(d, sin + i);
        if (backward) s = hn::Neg(s);
        const Vec a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + half);
        hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, x + i);
        hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, x + i + half);
      },
      [&](int64_t i) {
        for (; i < half; ++i) {
          const float s = backward ? -sin[i] : sin[i];
          const float a = x[i], b = x[i + half];
          x[i] = a * cos[i] - b * s;
          x[i + half] = b * cos[i] + a * s;
        }
      });
}

// exp(-x) overflows below -88; there the sigmoid is 0 to f32's precision anyway.
HWY_INLINE Vec sigmoid(F32 d, Vec x) {
  const Vec one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 88.0f)))));
}

void silu_mul(const float* gate, const float* up, float* y, int64_t n) {
  const F32 d;
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec g = hn::LoadU(d, gate + i);
        hn::StoreU(hn::Mul(hn::Mul(g, sigmoid(d, g)), hn::LoadU(d, up + i)), d, y + i);
      },
      [&](int64_t i) { scalar::silu_mul(gate + i, up + i, y + i, n - i); });
}

void silu_mul_backward(const float* d_y, const float* gate, const float* up, float* d_gate,
                       float* d_up, int64_t n) {
  const F32 d;
  const Vec one = hn::Set(d, 1.0f);
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec g = hn::LoadU(d, gate + i), u = hn::LoadU(d, up + i), dy = hn::LoadU(d, d_y + i);
        const Vec s = sigmoid(d, g);
        const Vec slope = hn::Mul(s, hn::MulAdd(g, hn::Sub(one, s), one));
        hn::StoreU(hn::Mul(hn::Mul(dy, u), slope), d, d_gate + i);
        hn::StoreU(hn::Mul(dy, hn::Mul(g, s)), d, d_up + i);
      },
      [&](int64_t i) {
        scalar::silu_mul_backward(d_y + i, gate + i, up + i, d_gate + i, d_up + i, n - i);
      });
}

void softmax(float* x, float scale, int64_t n) {
  const F32 d;
  Vec max_lanes = hn::Set(d, x[0]);
  float max_rest = x[0];
  for_lanes(
      n, [&](int64_t i) HWY_ATTR { max_lanes = hn::Max(max_lanes, hn::LoadU(d, x + i)); },
      [&](int64_t i) {
        for (; i < n; ++i) max_rest = std::max(max_rest, x[i]);
      });
  const float max = std::max(max_rest, hn::GetLane(hn::MaxOfLanes(d, max_lanes)));
  const Vec vmax = hn::Set(d, max), vscale = hn::Set(d, scale);
  Vec sum = hn::Zero(d);
  float rest = 0;
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec e = hn::Exp(d, hn::Mul(vscale, hn::Sub(hn::LoadU(d, x + i), vmax)));
        sum = hn::Add(sum, e);
        hn::StoreU(e, d, x + i);
      },
      [&](int64_t i) {
        for (; i < n; ++i) {
          x[i] = std::exp(scale * (x[i] - max));
          rest += x[i];
        }
      });
  const float inv_sum = 1.0f / (hn::GetLane(hn::SumOfLanes(d, sum)) + rest);
  const Vec vinv = hn::Set(d, inv_sum);
  for_lanes(
      n, [&](int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), vinv), d, x + i); },
      [&](int64_t i) {
        for (; i < n; ++i) x[i] *= inv_sum;
      });
}

void softmax_backward(const float* p, float scale, float* grad, int64_t n) {
  const F32 d;
  Vec sum = hn::Zero(d);
  float rest = 0;
  for_lanes(
      n,
      [&](int64_t i)
          HWY_ATTR { sum = hn::MulAdd(hn::LoadU(d, p + i), hn::LoadU(d, grad + i), sum); },
      [&](int64_t i) {
        for (; i < n; ++i) rest += p[i] * grad[i];
      });
  const float dot = hn::GetLane(hn::SumOfLanes(d, sum)) + rest;
  const Vec vdot = hn::Set(d, dot), vscale = hn::Set(d, scale);
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec pull = hn::Sub(hn::LoadU(d, grad + i), vdot);
        hn::StoreU(hn::Mul(hn::Mul(vscale, hn::LoadU(d, p + i)), pull), d, grad + i);
      },
      [&](int64_t i) {
        for (; i < n; ++i) grad[i] = scale * p[i] * (grad[i] - dot);
      });
}

void add(const float* x, float* y, int64_t n) {
  const F32 d;
  for_lanes(
      n,
      [&](int64_t i)
          HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i); },
      [&](int64_t i) { scalar::add(x + i, y + i, n - i); });
}

double l1_loss(const float* y, const float* target, float d_loss, float* d_y, int64_t n) {
  const F32 d;
  const Vec zero = hn::Zero(d), plus = hn::Set(d, d_loss), minus = hn::Set(d, -d_loss);
  Vec sum = hn::Zero(d);
  double rest = 0;
  for_lanes(
      n,
      [&](int64_t i) HWY_ATTR {
        const Vec error = hn::Sub(hn::LoadU(d, y + i), hn::LoadU(d, target + i));
        sum = hn::Add(sum, hn::Abs(error));
        const Vec positive = hn::IfThenElseZero(hn::Gt(error, zero), plus);
        hn::StoreU(hn::IfThenElse(hn::Lt(error, zero), minus, positive), d, d_y + i);
      },
      [&](int64_t i) { rest = scalar::l1_loss(y + i, target + i, d_loss, d_y + i, n - i); });
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum))) + rest;
}

}  // namespace laos::model::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::model::kernels {

HWY_EXPORT(rms_norm);
HWY_EXPORT(rms_norm_backward);
HWY_EXPORT(rope);
HWY_EXPORT(silu_mul);
HWY_EXPORT(silu_mul_backward);
HWY_EXPORT(softmax);
HWY_EXPORT(softmax_backward);
HWY_EXPORT(add);
HWY_EXPORT(l1_loss);

float rms_norm(const float* x, const float* gain, float eps, float* y, int64_t n) noexcept {
  if (scalar_only()) return scalar::rms_norm(x, gain, eps, y, n);
  return HWY_DYNAMIC_DISPATCH(rms_norm)(x, gain, eps, y, n);
}
void rms_norm_backward(const float* d_y, const float* x, const float* gain, float inv_rms,
                       bool accumulate, float* d_x, int64_t n) noexcept {
  if (scalar_only()) return scalar::rms_norm_backward(d_y, x, gain, inv_rms, accumulate, d_x, n);
  HWY_DYNAMIC_DISPATCH(rms_norm_backward)(d_y, x, gain, inv_rms, accumulate, d_x, n);
}
void rope(float* x, const float* cos, const float* sin, bool backward, int64_t half) noexcept {
  if (scalar_only()) return scalar::rope(x, cos, sin, backward, half);
  HWY_DYNAMIC_DISPATCH(rope)(x, cos, sin, backward, half);
}
void silu_mul(const float* gate, const float* up, float* y, int64_t n) noexcept {
  if (scalar_only()) return scalar::silu_mul(gate, up, y, n);
  HWY_DYNAMIC_DISPATCH(silu_mul)(gate, up, y, n);
}
void silu_mul_backward(const float* d_y, const float* gate, const float* up, float* d_gate,
                       float* d_up, int64_t n) noexcept {
  if (scalar_only()) return scalar::silu_mul_backward(d_y, gate, up, d_gate, d_up, n);
  HWY_DYNAMIC_DISPATCH(silu_mul_backward)(d_y, gate, up, d_gate, d_up, n);
}
void softmax(float* x, float scale, int64_t n) noexcept {
  if (scalar_only()) return scalar::softmax(x, scale, n);
  HWY_DYNAMIC_DISPATCH(softmax)(x, scale, n);
}
void softmax_backward(const float* p, float scale, float* d, int64_t n) noexcept {
  if (scalar_only()) return scalar::softmax_backward(p, scale, d, n);
  HWY_DYNAMIC_DISPATCH(softmax_backward)(p, scale, d, n);
}
void add(const float* x, float* y, int64_t n) noexcept {
  if (scalar_only()) return scalar::add(x, y, n);
  HWY_DYNAMIC_DISPATCH(add)(x, y, n);
}
double l1_loss(const float* y, const float* target, float d_loss, float* d_y, int64_t n) noexcept {
  if (scalar_only()) return scalar::l1_loss(y, target, d_loss, d_y, n);
  return HWY_DYNAMIC_DISPATCH(l1_loss)(y, target, d_loss, d_y, n);
}

double rms_norm(const double* x, const double* gain, double eps, double* y, int64_t n) noexcept {
  return scalar::rms_norm(x, gain, eps, y, n);
}
void rms_norm_backward(const double* d_y, const double* x, const double* gain, double inv_rms,
                       bool accumulate, double* d_x, int64_t n) noexcept {
  scalar::rms_norm_backward(d_y, x, gain, inv_rms, accumulate, d_x, n);
}
void rope(double* x, const double* cos, const double* sin, bool backward, int64_t half) noexcept {
  scalar::rope(x, cos, sin, backward, half);
}
void silu_mul(const double* gate, const double* up, double* y, int64_t n) noexcept {
  scalar::silu_mul(gate, up, y, n);
}
void silu_mul_backward(const double* d_y, const double* gate, const double* up, double* d_gate,
                       double* d_up, int64_t n) noexcept {
  scalar::silu_mul_backward(d_y, gate, up, d_gate, d_up, n);
}
void softmax(double* x, double scale, int64_t n) noexcept { scalar::softmax(x, scale, n); }
void softmax_backward(const double* p, double scale, double* d, int64_t n) noexcept {
  scalar::softmax_backward(p, scale, d, n);
}
void add(const double* x, double* y, int64_t n) noexcept { scalar::add(x, y, n); }
double l1_loss(const double* y, const double* target, double d_loss, double* d_y,
               int64_t n) noexcept {
  return scalar::l1_loss(y, target, d_loss, d_y, n);
}

}  // namespace laos::model::kernels
#endif  // HWY_ONCE
