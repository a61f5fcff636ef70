#include "linalg/kernels/hadamard.h"

#include <complex>

#include "core/isa.h"
#include "linalg/kernels/hadamard_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "linalg/kernels/hadamard.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/cache_control.h>
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

#if HWY_TARGET != HWY_SCALAR
// Signs of a vector in its butterflies of halves 1, 2 and 4: -1 in the upper half of each pair.
alignas(32) constexpr float kUpper1[] = {1, -1, 1, -1, 1, -1, 1, -1};
alignas(32) constexpr float kUpper2[] = {1, 1, -1, -1, 1, 1, -1, -1};
alignas(32) constexpr float kUpper4[] = {1, 1, 1, 1, -1, -1, -1, -1};

// The butterflies of halves 1, 2 and, in a vector of 8, 4. What is multiplied by a sign is exact.
// Step by step for all vectors: the processor sees only so far ahead.
template <class... V>
HWY_INLINE void inside(F32 d, V&... v) {
  const Vec upper1 = hn::Load(d, kUpper1), upper2 = hn::Load(d, kUpper2);
  ((v = hn::MulAdd(v, upper1, hn::Shuffle2301(v))), ...);
  ((v = hn::MulAdd(v, upper2, hn::Shuffle1032(v))), ...);
  if (hn::Lanes(d) < 8) return;
  const Vec upper4 = hn::Load(d, kUpper4);
  ((v = hn::MulAdd(v, upper4, hn::SwapAdjacentBlocks(v))), ...);
}
#endif

void butterflies(float* x, const float* signs, int64_t n, int64_t run, bool is_doubled,
                 const float* next) {
#if HWY_TARGET == HWY_SCALAR
  (void)next;
  scalar::butterflies(x, signs, n, run, is_doubled);
#else
  const F32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  if (lanes < 4 || run < lanes) return scalar::butterflies(x, signs, n, run, is_doubled);
  const auto signed_at = [&](int64_t j) HWY_ATTR {
    hwy::Prefetch(next + j);
    return hn::Mul(hn::LoadU(d, x + j), hn::LoadU(d, signs + j));
  };
  const auto store_four = [&](Vec a, Vec b, Vec c, Vec e, int64_t j) HWY_ATTR {
    hn::StoreU(a, d, x + j);
    hn::StoreU(b, d, x + j + lanes);
    hn::StoreU(c, d, x + j + 2 * lanes);
    hn::StoreU(e, d, x + j + 3 * lanes);
  };
  if (is_doubled && run == 4 * lanes) {  // all in one pass
    for (int64_t j = 0; j < n / 2; j += 4 * lanes) {
      const int64_t i = j + n / 2;
      Vec a = signed_at(j), b = signed_at(j + lanes), c = signed_at(j + 2 * lanes),
          e = signed_at(j + 3 * lanes), a2 = signed_at(i), b2 = signed_at(i + lanes),
          c2 = signed_at(i + 2 * lanes), e2 = signed_at(i + 3 * lanes);
      inside(d, a, b, c, e, a2, b2, c2, e2);
      two_halves(a, b, c, e);
      two_halves(a2, b2, c2, e2);
      sum_and_difference(a, a2);
      sum_and_difference(b, b2);
      sum_and_difference(c, c2);
      sum_and_difference(e, e2);
      store_four(a, b, c, e, j);
      store_four(a2, b2, c2, e2, i);
    }
    return;
  }
  int64_t half = lanes;
  if (run >= 4 * lanes) {  // the next two halves in the same pass
    for (int64_t j = 0; j < n; j += 4 * lanes) {
      Vec a = signed_at(j), b = signed_at(j + lanes), c = signed_at(j + 2 * lanes),
          e = signed_at(j + 3 * lanes);
      inside(d, a, b, c, e);
      two_halves(a, b, c, e);
      store_four(a, b, c, e, j);
    }
    half *= 4;
  } else {
    for (int64_t j = 0; j < n; j += lanes) {
      Vec v = signed_at(j);
      inside(d, v);
      hn::StoreU(v, d, x + j);
    }
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
    for (int64_t start = 0; start < n; start += 2 * half) butterfly(x + start, half);
  if (is_doubled) butterfly(x, n / 2);
#endif
}

using Wide = hn::CappedTag<float, 16>;
constexpr int64_t kMaxGroups = 128, kPatterns = 16, kMaxLanes = 16;
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

HWY_INLINE Complex times(Wide d, Complex z, std::complex<float> factor) {
  const WideVec re = hn::Set(d, factor.real()), im = hn::Set(d, factor.imag());
  return {hn::NegMulAdd(z.im, im, hn::Mul(z.re, re)), hn::MulAdd(z.re, im, hn::Mul(z.im, re))};
}

// a + r b and a - r b; a - i r b and a + i r b.
HWY_INLINE Complex plus(Complex a, WideVec r, Complex b) {
  return {hn::MulAdd(r, b.re, a.re), hn::MulAdd(r, b.im, a.im)};
}
HWY_INLINE Complex minus(Complex a, WideVec r, Complex b) {
  return {hn::NegMulAdd(r, b.re, a.re), hn::NegMulAdd(r, b.im, a.im)};
}
HWY_INLINE Complex plus_i(Complex a, WideVec r, Complex b) {
  return {hn::NegMulAdd(r, b.im, a.re), hn::MulAdd(r, b.re, a.im)};
}
HWY_INLINE Complex minus_i(Complex a, WideVec r, Complex b) {
  return {hn::MulAdd(r, b.im, a.re), hn::NegMulAdd(r, b.re, a.im)};
}

// sqrt(2) exp(-pi i / 4) z
HWY_INLINE Complex eighth(Complex z) { return {hn::Add(z.re, z.im), hn::Sub(z.im, z.re)}; }

// points[b] <- sum_f X[f] spectrum[f] exp(2 pi i f b / 8), X[f] = sum_b points[b] exp(-2 pi i f b /
// 8). Even and odd f one after the other, so that registers hold what is at work.
HWY_INLINE void convolve8(Wide d, float* points, const std::complex<float>* spectrum) {
  const auto at = [&](int64_t b) HWY_ATTR { return points + b * 2 * hn::Lanes(d); };
  const auto sum = [&](int64_t b) HWY_ATTR { return load(d, at(b)) + load(d, at(b + 4)); };
  const auto difference = [&](int64_t b) HWY_ATTR { return load(d, at(b)) - load(d, at(b + 4)); };
  const auto weighted = [&](int64_t f, Complex z) HWY_ATTR { return times(d, z, spectrum[f]); };
  const WideVec r = hn::Set(d, 0.70710678118654752f);
  struct Half {
    Complex s, t, u, v;
  };
  const auto even_half = [&]() HWY_ATTR {
    const Complex x0 = sum(0), x1 = sum(1), x2 = sum(2), x3 = sum(3);
    const Complex s0 = x0 + x2, s1 = x1 + x3, d0 = x0 - x2, d1 = x1 - x3;
    const Complex f0 = weighted(0, s0 + s1), f4 = weighted(4, s0 - s1),
                  f2 = weighted(2, minus_i(d0, d1)), f6 = weighted(6, plus_i(d0, d1));
    const Complex a0 = f0 + f4, b0 = f0 - f4, a2 = f2 + f6, b2 = f2 - f6;
    return Half{a0 + a2, a0 - a2, minus_i(b0, b2), plus_i(b0, b2)};
  };
  const auto odd_half = [&]() HWY_ATTR {
    const Complex x0 = difference(0), x1 = eighth(difference(1)), x2 = difference(2),
                  x3 = eighth(difference(3));
    const Complex s0 = minus_i(x0, x2), s1 = minus_i(x1, x3), d0 = plus_i(x0, x2),
                  d1 = plus_i(x1, x3);
    const Complex f1 = weighted(1, plus(s0, r, s1)), f5 = weighted(5, minus(s0, r, s1)),
                  f3 = weighted(3, minus_i(d0, r, d1)), f7 = weighted(7, plus_i(d0, r, d1));
    const Complex a1 = f1 + f5, b1 = eighth(f1 - f5), a3 = f3 + f7, b3 = eighth(f3 - f7);
    return Half{a1 + a3, a1 - a3, minus_i(b1, b3), plus_i(b1, b3)};
  };
  const Half even = even_half(), odd = odd_half();
  // Transformed forth once more, what belongs to b stands at -b.
  store(d, even.s + odd.s, at(0));
  store(d, even.s - odd.s, at(4));
  store(d, minus_i(even.t, odd.t), at(6));
  store(d, plus_i(even.t, odd.t), at(2));
  store(d, plus(even.u, r, odd.u), at(7));
  store(d, minus(even.u, r, odd.u), at(3));
  store(d, minus_i(even.v, r, odd.v), at(5));
  store(d, plus_i(even.v, r, odd.v), at(1));
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

// One vector of columns; inputs [b][a], re and im, are at these places of x.
HWY_INLINE void mix_paley80_one(Wide d, float* x, const Paley80& paley,
                                const int64_t (&at)[8][5][2]) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float points[80 * kMaxLanes];
  const auto point = [&](int64_t g, int64_t b)
                         HWY_ATTR { return points + (8 * g + b) * 2 * lanes; };
  for (int64_t b = 0; b < 8; ++b) {
    const auto input = [&](int64_t a) HWY_ATTR {
      return Complex{hn::LoadU(d, x + at[b][a][0]), hn::LoadU(d, x + at[b][a][1])};
    };
    Complex z[5] = {input(0), input(1), input(2), input(3), input(4)};
    dft5(d, z);
    const std::complex<float> twist = paley.twists[static_cast<size_t>(b)];
    for (int64_t g = 0; g < 5; ++g) store(d, times(d, z[g], twist), point(g, b));
  }
  for (int64_t g = 0; g < 5; ++g) convolve8(d, point(g, 0), paley.spectrum.data() + 8 * g);
  for (int64_t b = 0; b < 8; ++b) {
    const auto z_g = [&](int64_t g) HWY_ATTR { return load(d, point(g, b)); };
    Complex z[5] = {z_g(0), z_g(4), z_g(3), z_g(2), z_g(1)};  // back again
    dft5(d, z);
    const std::complex<float> twist = paley.untwists[static_cast<size_t>(b)];
    const WideVec re = hn::Set(d, twist.real()), im = hn::Set(d, twist.imag());
    for (int64_t a = 0; a < 5; ++a) {
      const Paley80::Pair& pair = paley.pairs[static_cast<size_t>(b)][static_cast<size_t>(a)];
      float *low = x + at[b][a][0], *high = x + at[b][a][1];
      const WideVec y_low = hn::NegMulAdd(z[a].im, im, hn::MulAdd(z[a].re, re, hn::LoadU(d, low))),
                    y_high = hn::MulAdd(z[a].re, im, hn::MulAdd(z[a].im, re, hn::LoadU(d, high)));
      hn::StoreU(hn::Mul(y_low, hn::Set(d, pair.sign_low)), d, low);
      hn::StoreU(hn::Mul(y_high, hn::Set(d, pair.sign_high)), d, high);
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
  int64_t at[8][5][2];
  for (size_t b = 0; b < 8; ++b) {
    for (size_t a = 0; a < 5; ++a) {
      at[b][a][0] = paley.pairs[b][a].low * run;
      at[b][a][1] = paley.pairs[b][a].high * run;
    }
  }
  int64_t u = 0;
  for (; u + lanes <= run; u += lanes) mix_paley80_one(d, x + u, paley, at);
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

void butterflies(float* x, const float* signs, int64_t n, int64_t run, bool is_doubled,
                 const float* next) noexcept {
  if (scalar_only()) return scalar::butterflies(x, signs, n, run, is_doubled);
  HWY_DYNAMIC_DISPATCH(butterflies)(x, signs, n, run, is_doubled, next);
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
