#include "linalg/kernels/hadamard.h"

#include <complex>

#include "core/isa.h"
#include "linalg/kernels/hadamard_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "linalg/kernels/hadamard.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::linalg::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 8 lanes: what follows knows the steps inside a vector of 4 and of 8.
using F32 = hn::CappedTag<float, 8>;
using Vec = hn::Vec<F32>;

HWY_INLINE void sum_and_difference(Vec& low, Vec& high) {
  const Vec sum = hn::Add(low, high);
  high = hn::Sub(low, high);
  low = sum;
}

// Butterflies between neighbours, then between neighbours of those.
HWY_INLINE void two_halves(Vec& a, Vec& b, Vec& c, Vec& e) {
  sum_and_difference(a, b);
  sum_and_difference(c, e);
  sum_and_difference(a, c);
  sum_and_difference(b, e);
}

#if HWY_TARGET != HWY_SCALAR
// The butterflies of halves 1, 2 and, in a vector of 8, 4.
HWY_INLINE Vec inside(F32 d, Vec v) {
  const hn::RepartitionToWide<F32> pairs;
  Vec other = hn::Shuffle2301(v);
  v = hn::OddEven(hn::Sub(other, v), hn::Add(v, other));
  other = hn::Shuffle1032(v);
  v = hn::BitCast(
      d, hn::OddEven(hn::BitCast(pairs, hn::Sub(other, v)), hn::BitCast(pairs, hn::Add(v, other))));
  if (hn::Lanes(d) == 8) {
    other = hn::SwapAdjacentBlocks(v);
    v = hn::OddEvenBlocks(hn::Sub(other, v), hn::Add(v, other));
  }
  return v;
}
#endif

void butterflies(float* x, const float* signs, int64_t n, int64_t run) {
#if HWY_TARGET == HWY_SCALAR
  scalar::butterflies(x, signs, n, run);
#else
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  if (lanes < 4 || run < lanes) return scalar::butterflies(x, signs, n, run);
  const auto first = [&](int64_t j) HWY_ATTR {
    return inside(d, hn::Mul(hn::LoadU(d, x + j), hn::LoadU(d, signs + j)));
  };
  int64_t half = lanes;
  if (run >= 4 * lanes) {  // the next two halves in the same pass
    for (int64_t j = 0; j < n; j += 4 * lanes) {
      Vec a = first(j), b = first(j + lanes), c = first(j + 2 * lanes), e = first(j + 3 * lanes);
      two_halves(a, b, c, e);
      hn::StoreU(a, d, x + j);
      hn::StoreU(b, d, x + j + lanes);
      hn::StoreU(c, d, x + j + 2 * lanes);
      hn::StoreU(e, d, x + j + 3 * lanes);
    }
    half *= 4;
  } else {
    for (int64_t j = 0; j < n; j += lanes) hn::StoreU(first(j), d, x + j);
  }
  for (; 2 * half < run; half *= 4) {  // two halves at a time
    for (int64_t start = 0; start < n; start += 4 * half)
      for (int64_t j = start; j < start + half; j += lanes) {
        float *pa = x + j, *pb = pa + half, *pc = pb + half, *pd = pc + half;
        Vec a = hn::LoadU(d, pa), b = hn::LoadU(d, pb), c = hn::LoadU(d, pc), e = hn::LoadU(d, pd);
        two_halves(a, b, c, e);
        hn::StoreU(a, d, pa);
        hn::StoreU(b, d, pb);
        hn::StoreU(c, d, pc);
        hn::StoreU(e, d, pd);
      }
  }
  if (half < run)
    for (int64_t start = 0; start < n; start += 2 * half)
      for (int64_t j = start; j < start + half; j += lanes) {
        Vec low = hn::LoadU(d, x + j), high = hn::LoadU(d, x + j + half);
        sum_and_difference(low, high);
        hn::StoreU(low, d, x + j);
        hn::StoreU(high, d, x + j + half);
      }
#endif
}

void butterfly(float* x, int64_t half) {
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  if (half % lanes != 0) return scalar::butterfly(x, half);
  for (int64_t j = 0; j < half; j += lanes) {
    Vec low = hn::LoadU(d, x + j), high = hn::LoadU(d, x + j + half);
    sum_and_difference(low, high);
    hn::StoreU(low, d, x + j);
    hn::StoreU(high, d, x + j + half);
  }
}

using Wide = hn::CappedTag<float, 16>;
constexpr int64_t kMaxGroups = 64, kPatterns = 16, kMaxLanes = 16;
constexpr int64_t kTableSize = kMaxGroups * kPatterns * kMaxLanes;

// The 16 sums ±a ±b ±c ±e, in the order of codes, `stride` apart.
HWY_INLINE void signed_sums(Wide d, const float* four, int64_t run, float* pattern,
                            int64_t stride) {
  const auto a = hn::LoadU(d, four), b = hn::LoadU(d, four + run), c = hn::LoadU(d, four + 2 * run),
             e = hn::LoadU(d, four + 3 * run);
  const auto ab = hn::Add(a, b), a_b = hn::Sub(a, b), b_a = hn::Sub(b, a), neg_ab = hn::Neg(ab);
  const auto ce = hn::Add(c, e);
  const auto store_four = [&](auto part, float* at) HWY_ATTR {
    hn::Store(hn::Add(ab, part), d, at);
    hn::Store(hn::Add(b_a, part), d, at + stride);
    hn::Store(hn::Add(a_b, part), d, at + 2 * stride);
    hn::Store(hn::Add(neg_ab, part), d, at + 3 * stride);
  };
  store_four(ce, pattern);
  store_four(hn::Sub(e, c), pattern + 4 * stride);
  store_four(hn::Sub(c, e), pattern + 8 * stride);
  store_four(hn::Neg(ce), pattern + 12 * stride);
}

// Two vectors of columns at x by codes that are read once for both, two sums of each at a time.
HWY_INLINE void mix_two(Wide d, float* x, const uint8_t* codes, int64_t order, int64_t run,
                        float* table) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t groups = order / 4, stride = 2 * lanes, group_stride = kPatterns * stride;
  for (int64_t g = 0; g < groups; ++g) {
    signed_sums(d, x + 4 * g * run, run, table + g * group_stride, stride);
    signed_sums(d, x + 4 * g * run + lanes, run, table + g * group_stride + lanes, stride);
  }
  for (int64_t p = 0; p < order; p += 2) {
    const uint8_t *code = codes + p * groups, *other = code + groups;
    const float *t = table + code[0] * stride, *o = table + other[0] * stride;
    auto t0 = hn::Load(d, t), t1 = hn::Load(d, t + lanes), o0 = hn::Load(d, o),
         o1 = hn::Load(d, o + lanes);
    for (int64_t g = 1; g < groups; ++g) {
      t = table + g * group_stride + code[g] * stride;
      o = table + g * group_stride + other[g] * stride;
      t0 = hn::Add(t0, hn::Load(d, t));
      t1 = hn::Add(t1, hn::Load(d, t + lanes));
      o0 = hn::Add(o0, hn::Load(d, o));
      o1 = hn::Add(o1, hn::Load(d, o + lanes));
    }
    hn::StoreU(t0, d, x + p * run);
    hn::StoreU(t1, d, x + p * run + lanes);
    hn::StoreU(o0, d, x + (p + 1) * run);
    hn::StoreU(o1, d, x + (p + 1) * run + lanes);
  }
}

// One vector of columns, four sums at a time, which hides the latency of an addition.
HWY_INLINE void mix_one(Wide d, float* x, const uint8_t* codes, int64_t order, int64_t run,
                        float* table) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t groups = order / 4;
  for (int64_t g = 0; g < groups; ++g)
    signed_sums(d, x + 4 * g * run, run, table + g * kPatterns * lanes, lanes);
  for (int64_t p = 0; p < order; p += 4) {
    const uint8_t* code = codes + p * groups;
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t g = 0; g < groups; ++g) {
      const float* patterns = table + g * kPatterns * lanes;
      const auto term = [&](int64_t i) HWY_ATTR {
        return hn::Load(d, patterns + code[i * groups + g] * lanes);
      };
      s0 = g == 0 ? term(0) : hn::Add(s0, term(0));
      s1 = g == 0 ? term(1) : hn::Add(s1, term(1));
      s2 = g == 0 ? term(2) : hn::Add(s2, term(2));
      s3 = g == 0 ? term(3) : hn::Add(s3, term(3));
    }
    hn::StoreU(s0, d, x + p * run);
    hn::StoreU(s1, d, x + (p + 1) * run);
    hn::StoreU(s2, d, x + (p + 2) * run);
    hn::StoreU(s3, d, x + (p + 3) * run);
  }
}

void mix(float* x, const uint8_t* codes, int64_t order, int64_t run) {
  const Wide d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float table[kTableSize];
  // Sums of two vectors pay while they fit into the first cache.
  const bool by_two =
      order / 4 * kPatterns * 2 * lanes * int64_t{sizeof(float)} <= int64_t{24} * 1024;
  int64_t u = 0;
  for (; by_two && u + 2 * lanes <= run; u += 2 * lanes)
    mix_two(d, x + u, codes, order, run, table);
  for (; u + lanes <= run; u += lanes) mix_one(d, x + u, codes, order, run, table);
  scalar::mix(x, codes, order, run, u, run);
}

// Vectors of SVE and RVV cannot be kept in structures.
#if !HWY_HAVE_SCALABLE
// A vector of complex numbers.
using WideVec = hn::Vec<Wide>;
struct Complex {
  WideVec re, im;
};
HWY_INLINE Complex operator+(Complex a, Complex b) {
  return {hn::Add(a.re, b.re), hn::Add(a.im, b.im)};
}
HWY_INLINE Complex operator-(Complex a, Complex b) {
  return {hn::Sub(a.re, b.re), hn::Sub(a.im, b.im)};
}
// a + i b and a - i b
HWY_INLINE Complex plus_i(Complex a, Complex b) {
  return {hn::Sub(a.re, b.im), hn::Add(a.im, b.re)};
}
HWY_INLINE Complex minus_i(Complex a, Complex b) {
  return {hn::Add(a.re, b.im), hn::Sub(a.im, b.re)};
}
HWY_INLINE Complex load(Wide d, const float* at) {
  return {hn::Load(d, at), hn::Load(d, at + hn::Lanes(d))};
}
HWY_INLINE void store(Wide d, Complex z, float* at) {
  hn::Store(z.re, d, at);
  hn::Store(z.im, d, at + hn::Lanes(d));
}

// x[f] <- sum_b x[b] exp(-2 pi i f b / 8)
HWY_INLINE void dft8(Wide d, Complex (&x)[8]) {
  const WideVec root_half = hn::Set(d, 0.70710678118654752f);
  // Of even and of odd f: four sums and four differences, then four points each.
  const Complex even[4] = {x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]};
  const Complex odd[4] = {x[0] - x[4], x[1] - x[5], x[2] - x[6], x[3] - x[7]};
  // odd[1] exp(-pi i / 4), and odd[3] exp(-pi i / 4): -i times that is its own factor.
  const auto eighth = [&](Complex z) HWY_ATTR {
    return Complex{hn::Mul(root_half, hn::Add(z.re, z.im)),
                   hn::Mul(root_half, hn::Sub(z.im, z.re))};
  };
  const Complex e1 = eighth(odd[1]), e3 = eighth(odd[3]);
  {
    const Complex s0 = even[0] + even[2], s1 = even[1] + even[3], d0 = even[0] - even[2],
                  d1 = even[1] - even[3];
    x[0] = s0 + s1;
    x[4] = s0 - s1;
    x[2] = minus_i(d0, d1);
    x[6] = plus_i(d0, d1);
  }
  const Complex s0 = minus_i(odd[0], odd[2]), d0 = plus_i(odd[0], odd[2]), s1 = minus_i(e1, e3),
                d1 = plus_i(e1, e3);
  x[1] = s0 + s1;
  x[5] = s0 - s1;
  x[3] = minus_i(d0, d1);
  x[7] = plus_i(d0, d1);
}

// x[g] <- sum_a x[a] exp(-2 pi i a g / 5)
HWY_INLINE void dft5(Wide d, Complex (&x)[5]) {
  const WideVec cos1 = hn::Set(d, 0.30901699437494742f), cos2 = hn::Set(d, -0.80901699437494742f),
                sin1 = hn::Set(d, 0.95105651629515357f), sin2 = hn::Set(d, 0.58778525229247313f);
  const Complex s1 = x[1] + x[4], d1 = x[1] - x[4], s2 = x[2] + x[3], d2 = x[2] - x[3];
  const auto even = [&](WideVec c1, WideVec c2) HWY_ATTR {
    return Complex{hn::MulAdd(c1, s1.re, hn::MulAdd(c2, s2.re, x[0].re)),
                   hn::MulAdd(c1, s1.im, hn::MulAdd(c2, s2.im, x[0].im))};
  };
  const Complex even1 = even(cos1, cos2), even2 = even(cos2, cos1);
  const Complex odd1 = {hn::MulAdd(sin2, d2.re, hn::Mul(sin1, d1.re)),
                        hn::MulAdd(sin2, d2.im, hn::Mul(sin1, d1.im))};
  const Complex odd2 = {hn::NegMulAdd(sin1, d2.re, hn::Mul(sin2, d1.re)),
                        hn::NegMulAdd(sin1, d2.im, hn::Mul(sin2, d1.im))};
  x[0] = x[0] + (s1 + s2);
  x[1] = minus_i(even1, odd1);
  x[4] = plus_i(even1, odd1);
  x[2] = minus_i(even2, odd2);
  x[3] = plus_i(even2, odd2);
}

// One vector of columns, inputs `run` apart.
HWY_INLINE void mix_paley80_one(Wide d, float* x, const Paley80& paley, int64_t run) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float points[80 * kMaxLanes];
  const auto point = [&](int64_t f, int64_t a)
                         HWY_ATTR { return points + (5 * f + a) * 2 * lanes; };
  for (int64_t a = 0; a < 5; ++a) {
    const auto twisted = [&](int64_t b) HWY_ATTR {
      const Paley80::Pair& pair = paley.pairs[static_cast<size_t>(8 * a + b)];
      const auto low = hn::LoadU(d, x + pair.low * run), high = hn::LoadU(d, x + pair.high * run);
      return Complex{hn::NegMulAdd(high, hn::Set(d, pair.twist_high.imag()),
                                   hn::Mul(low, hn::Set(d, pair.twist_low.real()))),
                     hn::MulAdd(high, hn::Set(d, pair.twist_high.real()),
                                hn::Mul(low, hn::Set(d, pair.twist_low.imag())))};
    };
    Complex z[8] = {twisted(0), twisted(1), twisted(2), twisted(3),
                    twisted(4), twisted(5), twisted(6), twisted(7)};
    dft8(d, z);
    for (int64_t f = 0; f < 8; ++f) store(d, z[f], point(f, a));
  }
  for (int64_t f = 0; f < 8; ++f) {
    Complex z[5] = {load(d, point(f, 0)), load(d, point(f, 1)), load(d, point(f, 2)),
                    load(d, point(f, 3)), load(d, point(f, 4))};
    dft5(d, z);
    for (int64_t g = 0; g < 5; ++g) {
      const std::complex<float> factor = paley.spectrum[static_cast<size_t>(5 * f + g)];
      const WideVec re = hn::Set(d, factor.real()), im = hn::Set(d, factor.imag());
      z[g] = {hn::NegMulAdd(z[g].im, im, hn::Mul(z[g].re, re)),
              hn::MulAdd(z[g].re, im, hn::Mul(z[g].im, re))};
    }
    dft5(d, z);  // and back: the same, but that the result for a stands at -a
    for (int64_t a = 0; a < 5; ++a) store(d, z[a], point(f, (5 - a) % 5));
  }
  for (int64_t a = 0; a < 5; ++a) {
    // Back are frequencies -f; 4 on, which gives every second result the other sign.
    Complex z[8] = {load(d, point(4, a)), load(d, point(3, a)), load(d, point(2, a)),
                    load(d, point(1, a)), load(d, point(0, a)), load(d, point(7, a)),
                    load(d, point(6, a)), load(d, point(5, a))};
    dft8(d, z);
    for (int64_t b = 0; b < 8; ++b) {
      const Paley80::Pair& pair = paley.pairs[static_cast<size_t>(8 * a + b)];
      float *low = x + pair.low * run, *high = x + pair.high * run;
      hn::StoreU(
          hn::MulAdd(z[b].im, hn::Set(d, pair.twist_low.imag()),
                     hn::MulAdd(z[b].re, hn::Set(d, pair.twist_low.real()), hn::LoadU(d, low))),
          d, low);
      hn::StoreU(hn::NegMulAdd(
                     z[b].re, hn::Set(d, pair.twist_high.imag()),
                     hn::MulAdd(z[b].im, hn::Set(d, pair.twist_high.real()), hn::LoadU(d, high))),
                 d, high);
    }
  }
}

#endif  // !HWY_HAVE_SCALABLE

void mix_paley80(float* x, const uint8_t* codes, const Paley80& paley, int64_t run) {
#if HWY_HAVE_SCALABLE
  (void)paley;
  mix(x, codes, 80, run);
#else
  const Wide d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t u = 0;
  for (; u + lanes <= run; u += lanes) mix_paley80_one(d, x + u, paley, run);
  scalar::mix(x, codes, 80, run, u, run);
#endif
}

}  // namespace laos::linalg::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::linalg::kernels {

HWY_EXPORT(butterflies);
HWY_EXPORT(butterfly);
HWY_EXPORT(mix);
HWY_EXPORT(mix_paley80);

void butterflies(float* x, const float* signs, int64_t n, int64_t run) noexcept {
  if (scalar_only()) return scalar::butterflies(x, signs, n, run);
  HWY_DYNAMIC_DISPATCH(butterflies)(x, signs, n, run);
}
void butterfly(float* x, int64_t half) noexcept {
  if (scalar_only()) return scalar::butterfly(x, half);
  HWY_DYNAMIC_DISPATCH(butterfly)(x, half);
}
void mix(float* x, const uint8_t* codes, int64_t order, int64_t run) noexcept {
  if (scalar_only()) return scalar::mix(x, codes, order, run, 0, run);
  HWY_DYNAMIC_DISPATCH(mix)(x, codes, order, run);
}
void mix_paley80(float* x, const uint8_t* codes, const Paley80& paley, int64_t run) noexcept {
  if (scalar_only()) return scalar::mix(x, codes, 80, run, 0, run);
  HWY_DYNAMIC_DISPATCH(mix_paley80)(x, codes, paley, run);
}

}  // namespace laos::linalg::kernels
#endif  // HWY_ONCE
