// Row-wise arithmetic of the decoder layer. f32 runs on the machine's SIMD (one Highway source for
// every instruction set); f64 and LAOS_ISA=scalar run the definitions in
// kernels/elementwise_scalar.h. All take any alignment and length, and never fail.
#pragma once

#include <cstdint>

namespace laos::model::kernels {

// y[i] = x[i] * inv_rms * gain[i], inv_rms = 1 / sqrt(mean(x²) + eps). Returns inv_rms. y may be x.
float rms_norm(const float* x, const float* gain, float eps, float* y, int64_t n) noexcept;
double rms_norm(const double* x, const double* gain, double eps, double* y, int64_t n) noexcept;

// Inverts rms_norm's line: d_x[i] (+)= inv_rms * gain[i] * d_y[i] - x[i] * inv_rms³ / n * sum(gain
// * d_y * x); added to d_x when `accumulate`, else stored. d_x may be d_y.
void rms_norm_backward(const float* d_y, const float* x, const float* gain, float inv_rms,
                       bool accumulate, float* d_x, int64_t n) noexcept;
void rms_norm_backward(const double* d_y, const double* x, const double* gain, double inv_rms,
                       bool accumulate, double* d_x, int64_t n) noexcept;

// Rotates pairs (x[i], x[i + half]) by the angle of cos[i], sin[i] (Hugging Face's rotate_half), in
// place; x [2 half], cos and sin [half]. With sin negated it is its own inverse, which `backward`
// does.
void rope(float* x, const float* cos, const float* sin, bool backward, int64_t half) noexcept;
void rope(double* x, const double* cos, const double* sin, bool backward, int64_t half) noexcept;

// y[i] = gate[i] * sigmoid(gate[i]) * up[i].
void silu_mul(const float* gate, const float* up, float* y, int64_t n) noexcept;
void silu_mul(const double* gate, const double* up, double* y, int64_t n) noexcept;

// Inverts silu_mul: d_gate = d_y * up * s * (1 + gate * (1 - s)), d_up = d_y * gate * s, s =
// sigmoid(gate). d_gate may be gate and d_up may be up.
void silu_mul_backward(const float* d_y, const float* gate, const float* up, float* d_gate,
                       float* d_up, int64_t n) noexcept;
void silu_mul_backward(const double* d_y, const double* gate, const double* up, double* d_gate,
                       double* d_up, int64_t n) noexcept;

// x[i] = exp(scale * (x[i] - max)) / sum, over the n values, in place. n >= 1, scale > 0.
void softmax(float* x, float scale, int64_t n) noexcept;
void softmax(double* x, double scale, int64_t n) noexcept;

// Inverts softmax: d[i] = scale * p[i] * (d[i] - sum(p * d)), in place.
void softmax_backward(const float* p, float scale, float* d, int64_t n) noexcept;
void softmax_backward(const double* p, double scale, double* d, int64_t n) noexcept;

// y[i] += x[i].
void add(const float* x, float* y, int64_t n) noexcept;
void add(const double* x, double* y, int64_t n) noexcept;

// Returns sum |y[i] - target[i]| in f64 (blocks of f32 lanes) and sets d_y[i] = sign(y[i] -
// target[i]) * d_loss.
double l1_loss(const float* y, const float* target, float d_loss, float* d_y, int64_t n) noexcept;
double l1_loss(const double* y, const double* target, double d_loss, double* d_y,
               int64_t n) noexcept;

}  // namespace laos::model::kernels
