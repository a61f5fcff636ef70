#include "linalg/kernels/dot.h"

#include "core/isa.h"
#include "linalg/kernels/dot_scalar.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "linalg/kernels/dot.cpp"
#include <hwy/foreach_target.h>  // compiles this file once per instruction set

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace laos::linalg::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What tiles are made of: a vector of products is loaded, multiplied and summed in one way,
// whatever the shape of the tile, and what is left of k beyond whole vectors is summed by itself.
struct F32Math {
  using X = float;
  using Y = float;
  using Tag = hn::ScalableTag<float>;
  using Vec = hn::Vec<Tag>;

  static int64_t lanes() { return static_cast<int64_t>(hn::Lanes(Tag())); }
  static HWY_INLINE Vec load(const float* p) { return hn::LoadU(Tag(), p); }
  static HWY_INLINE Vec load(const uint16_t* p) {
    const hn::RebindToUnsigned<Tag> d32;
    const hn::Rebind<uint16_t, Tag> d16;
    return hn::BitCast(Tag(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, p))));
  }
  static HWY_INLINE Vec zero() { return hn::Zero(Tag()); }
  static HWY_INLINE void add(Vec x, Vec w, Vec& sum, Vec& /*more*/) { sum = hn::MulAdd(x, w, sum); }
  static HWY_INLINE float total(Vec sum, Vec /*more*/) {
    return hn::GetLane(hn::SumOfLanes(Tag(), sum));
  }
};

#if HWY_TARGET != HWY_SCALAR  // which has no vector of two halves
struct S8Math {
  using X = int8_t;
  using Y = int32_t;
  using Tag = hn::ScalableTag<int32_t>;
  using Tag16 = hn::RepartitionToNarrow<Tag>;
  using Vec = hn::Vec<Tag16>;
  using Sum = hn::Vec<Tag>;

  static int64_t lanes() { return static_cast<int64_t>(hn::Lanes(Tag16())); }
  static HWY_INLINE Vec load(const int8_t* p) {
    return hn::PromoteTo(Tag16(), hn::LoadU(hn::Rebind<int8_t, Tag16>(), p));
  }
  static HWY_INLINE Sum zero() { return hn::Zero(Tag()); }
  static HWY_INLINE void add(Vec x, Vec w, Sum& sum, Sum& more) {
    sum = hn::ReorderWidenMulAccumulate(Tag(), x, w, sum, more);
  }
  static HWY_INLINE int32_t total(Sum sum, Sum more) {
    return hn::GetLane(hn::SumOfLanes(Tag(), hn::Add(sum, more)));
  }
};
#endif

template <class M, class W>
HWY_INLINE typename M::Y rest_of(const typename M::X* x, const W* w, int64_t n) {
  typename M::Y sum = 0;
  for (int64_t p = 0; p < n; ++p) sum += scalar::widened(x[p]) * scalar::widened(w[p]);
  return sum;
}

// Vectors of a variable number of lanes cannot stand in arrays, hence the spelled-out tiles.
template <class M, class W>
HWY_INLINE void tile_4x2(const typename M::X* x, int64_t xs, const W* w, int64_t ws, int64_t k,
                         typename M::Y* y, int64_t ys) {
  auto s00 = M::zero(), s01 = M::zero(), s10 = M::zero(), s11 = M::zero();
  auto s20 = M::zero(), s21 = M::zero(), s30 = M::zero(), s31 = M::zero();
  auto m00 = M::zero(), m01 = M::zero(), m10 = M::zero(), m11 = M::zero();
  auto m20 = M::zero(), m21 = M::zero(), m30 = M::zero(), m31 = M::zero();
  const int64_t lanes = M::lanes();
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) {
    const auto w0 = M::load(w + p), w1 = M::load(w + ws + p);
    const auto x0 = M::load(x + p);
    M::add(x0, w0, s00, m00);
    M::add(x0, w1, s01, m01);
    const auto x1 = M::load(x + xs + p);
    M::add(x1, w0, s10, m10);
    M::add(x1, w1, s11, m11);
    const auto x2 = M::load(x + 2 * xs + p);
    M::add(x2, w0, s20, m20);
    M::add(x2, w1, s21, m21);
    const auto x3 = M::load(x + 3 * xs + p);
    M::add(x3, w0, s30, m30);
    M::add(x3, w1, s31, m31);
  }
  const auto put = [&](int64_t i, int64_t j, auto sum, auto more) HWY_ATTR {
    y[i * ys + j] = M::total(sum, more) + rest_of<M>(x + i * xs + p, w + j * ws + p, k - p);
  };
  put(0, 0, s00, m00);
  put(0, 1, s01, m01);
  put(1, 0, s10, m10);
  put(1, 1, s11, m11);
  put(2, 0, s20, m20);
  put(2, 1, s21, m21);
  put(3, 0, s30, m30);
  put(3, 1, s31, m31);
}

template <class M, class W>
HWY_INLINE void tile_1x4(const typename M::X* x, const W* w, int64_t ws, int64_t k,
                         typename M::Y* y) {
  auto s0 = M::zero(), s1 = M::zero(), s2 = M::zero(), s3 = M::zero();
  auto m0 = M::zero(), m1 = M::zero(), m2 = M::zero(), m3 = M::zero();
  const int64_t lanes = M::lanes();
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) {
    const auto v = M::load(x + p);
    M::add(v, M::load(w + p), s0, m0);
    M::add(v, M::load(w + ws + p), s1, m1);
    M::add(v, M::load(w + 2 * ws + p), s2, m2);
    M::add(v, M::load(w + 3 * ws + p), s3, m3);
  }
  y[0] = M::total(s0, m0) + rest_of<M>(x + p, w + p, k - p);
  y[1] = M::total(s1, m1) + rest_of<M>(x + p, w + ws + p, k - p);
  y[2] = M::total(s2, m2) + rest_of<M>(x + p, w + 2 * ws + p, k - p);
  y[3] = M::total(s3, m3) + rest_of<M>(x + p, w + 3 * ws + p, k - p);
}

template <class M, class W>
HWY_INLINE void tile_1x1(const typename M::X* x, const W* w, int64_t k, typename M::Y* y) {
  auto sum = M::zero(), more = M::zero();
  const int64_t lanes = M::lanes();
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) M::add(M::load(x + p), M::load(w + p), sum, more);
  *y = M::total(sum, more) + rest_of<M>(x + p, w + p, k - p);
}

template <class M, class W>
HWY_INLINE void dot(const typename M::X* x, int64_t xs, int64_t m, const W* w, int64_t ws,
                    int64_t n, int64_t k, typename M::Y* y, int64_t ys) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) {
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) tile_4x2<M>(x + i * xs, xs, w + j * ws, ws, k, y + i * ys + j, ys);
    if (j < n)
      for (int64_t r = i; r < i + 4; ++r) tile_1x1<M>(x + r * xs, w + j * ws, k, y + r * ys + j);
  }
  for (; i < m; ++i) {
    int64_t j = 0;
    for (; j + 4 <= n; j += 4) tile_1x4<M>(x + i * xs, w + j * ws, ws, k, y + i * ys + j);
    for (; j < n; ++j) tile_1x1<M>(x + i * xs, w + j * ws, k, y + i * ys + j);
  }
}

void dot_s8(const int8_t* x, int64_t xs, int64_t m, const int8_t* w, int64_t ws, int64_t n,
            int64_t k, int32_t* y, int64_t ys) {
#if HWY_TARGET == HWY_SCALAR
  scalar::dot(x, xs, m, w, ws, n, k, y, ys);
#else
  dot<S8Math>(x, xs, m, w, ws, n, k, y, ys);
#endif
}
void dot_f32(const float* x, int64_t xs, int64_t m, const float* w, int64_t ws, int64_t n,
             int64_t k, float* y, int64_t ys) {
  dot<F32Math>(x, xs, m, w, ws, n, k, y, ys);
}
void dot_bf16(const float* x, int64_t xs, int64_t m, const uint16_t* w, int64_t ws, int64_t n,
              int64_t k, float* y, int64_t ys) {
  dot<F32Math>(x, xs, m, w, ws, n, k, y, ys);
}

void weighted_sum(const float* p, const float* v, int64_t stride, int64_t n, int64_t cols,
                  float* y) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= cols; c += lanes) {
    auto sum = hn::Zero(d);
    for (int64_t j = 0; j < n; ++j)
      sum = hn::MulAdd(hn::Set(d, p[j]), hn::LoadU(d, v + j * stride + c), sum);
    hn::StoreU(sum, d, y + c);
  }
  scalar::weighted_sum(p, v + c, stride, n, cols - c, y + c);
}

void add_multiple(float factor, const float* x, float* y, int64_t n) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto f = hn::Set(d, factor);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Add(hn::LoadU(d, y + i), hn::Mul(f, hn::LoadU(d, x + i))), d, y + i);
  scalar::add_multiple(factor, x + i, y + i, n - i);
}

}  // namespace laos::linalg::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace laos::linalg::kernels {

HWY_EXPORT(dot_s8);
HWY_EXPORT(dot_f32);
HWY_EXPORT(dot_bf16);
HWY_EXPORT(weighted_sum);
HWY_EXPORT(add_multiple);

void dot_s8(const int8_t* x, int64_t x_stride, int64_t m, const int8_t* w, int64_t w_stride,
            int64_t n, int64_t k, int32_t* y, int64_t y_stride) noexcept {
  if (scalar_only()) return scalar::dot(x, x_stride, m, w, w_stride, n, k, y, y_stride);
  HWY_DYNAMIC_DISPATCH(dot_s8)(x, x_stride, m, w, w_stride, n, k, y, y_stride);
}
void dot_f32(const float* x, int64_t x_stride, int64_t m, const float* w, int64_t w_stride,
             int64_t n, int64_t k, float* y, int64_t y_stride) noexcept {
  if (scalar_only()) return scalar::dot(x, x_stride, m, w, w_stride, n, k, y, y_stride);
  HWY_DYNAMIC_DISPATCH(dot_f32)(x, x_stride, m, w, w_stride, n, k, y, y_stride);
}
void dot_bf16(const float* x, int64_t x_stride, int64_t m, const uint16_t* w, int64_t w_stride,
              int64_t n, int64_t k, float* y, int64_t y_stride) noexcept {
  if (scalar_only()) return scalar::dot(x, x_stride, m, w, w_stride, n, k, y, y_stride);
  HWY_DYNAMIC_DISPATCH(dot_bf16)(x, x_stride, m, w, w_stride, n, k, y, y_stride);
}
void weighted_sum(const float* p, const float* v, int64_t stride, int64_t n, int64_t cols,
                  float* y) noexcept {
  if (scalar_only()) return scalar::weighted_sum(p, v, stride, n, cols, y);
  HWY_DYNAMIC_DISPATCH(weighted_sum)(p, v, stride, n, cols, y);
}
void add_multiple(float factor, const float* x, float* y, int64_t n) noexcept {
  if (scalar_only()) return scalar::add_multiple(factor, x, y, n);
  HWY_DYNAMIC_DISPATCH(add_multiple)(factor, x, y, n);
}

}  // namespace laos::linalg::kernels
#endif  // HWY_ONCE
