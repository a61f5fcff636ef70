// The definitions of kernels/elementwise.h: read these first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace laos::model::kernels::scalar {

template <class T>
T rms_norm(const T* x, const T* gain, T eps, T* y, int64_t n) noexcept {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const T inv_rms = 1 / std::sqrt(sum / static_cast<T>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * inv_rms * gain[i];
  return inv_rms;
}

template <class T>
void rms_norm_backward(const T* d_y, const T* x, const T* gain, T inv_rms, bool accumulate, T* d_x,
                       int64_t n) noexcept {
  T dot = 0;
  for (int64_t i = 0; i < n; ++i) dot += gain[i] * d_y[i] * x[i];
  const T pull = dot * inv_rms * inv_rms * inv_rms / static_cast<T>(n);
  for (int64_t i = 0; i < n; ++i) {
    const T d = inv_rms * gain[i] * d_y[i] - x[i] * pull;
    d_x[i] = accumulate ? d_x[i] + d : d;
  }
}

template <class T>
void rope(T* x, const T* cos, const T* sin, bool backward, int64_t half) noexcept {
  for (int64_t i = 0; i < half; ++i) {
    const T s = backward ? -sin[i] : sin[i];
    const T a = x[i], b = x[i + half];
    x[i] = a * cos[i] - b * s;
    x[i + half] = b * cos[i] + a * s;
  }
}

template <class T>
T sigmoid(T x) noexcept {
  return 1 / (1 + std::exp(-x));
}

template <class T>
void silu_mul(const T* gate, const T* up, T* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

template <class T>
void silu_mul_backward(const T* d_y, const T* gate, const T* up, T* d_gate, T* d_up,
                       int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) {
    const T g = gate[i], u = up[i], s = sigmoid(g);
    d_gate[i] = d_y[i] * u * s * (1 + g * (1 - s));
    d_up[i] = d_y[i] * g * s;
  }
}

template <class T>
void softmax(T* x, T scale, int64_t n) noexcept {
  const T max = *std::max_element(x, x + n);
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(scale * (x[i] - max));
    sum += x[i];
  }
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

template <class T>
void softmax_backward(const T* p, T scale, T* d, int64_t n) noexcept {
  T dot = 0;
  for (int64_t i = 0; i < n; ++i) dot += p[i] * d[i];
  for (int64_t i = 0; i < n; ++i) d[i] = scale * p[i] * (d[i] - dot);
}

template <class T>
void add(const T* x, T* y, int64_t n) noexcept {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

template <class T>
double l1_loss(const T* y, const T* target, T d_loss, T* d_y, int64_t n) noexcept {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T error = y[i] - target[i];
    sum += static_cast<double>(std::fabs(error));
    d_y[i] = static_cast<T>((error > 0) - (error < 0)) * d_loss;
  }
  return sum;
}

}  // namespace laos::model::kernels::scalar
