#include "core/dtype.h"

#include <array>
#include <cmath>
#include <string>

#include "core/error.h"

namespace laos {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};
constexpr std::array kDTypes = {
    DTypeRow{DType::kF64, "F64", 8},   DTypeRow{DType::kF32, "F32", 4},
    DTypeRow{DType::kBF16, "BF16", 2}, DTypeRow{DType::kF16, "F16", 2},
    DTypeRow{DType::kI64, "I64", 8},   DTypeRow{DType::kI32, "I32", 4},
    DTypeRow{DType::kI16, "I16", 2},   DTypeRow{DType::kI8, "I8", 1},
    DTypeRow{DType::kU8, "U8", 1},     DTypeRow{DType::kBool, "BOOL", 1},
};

}  // namespace

int64_t size_of(DType dtype) noexcept { return kDTypes[static_cast<size_t>(dtype)].bytes; }

std::string_view to_string(DType dtype) noexcept {
  return kDTypes[static_cast<size_t>(dtype)].name;
}

DType dtype_from_string(std::string_view name) {
  for (const DTypeRow& row : kDTypes)
    if (row.name == name) return row.dtype;
  std::string known;
  for (const DTypeRow& row : kDTypes) known += (known.empty() ? "" : ", ") + std::string(row.name);
  throw Error(ErrorCode::kFormat,
              {.what = "dtype \"" + std::string(name) + "\" is not one of " + known,
               .where = "",
               .fix = "convert the tensor to BF16"});
}

float f16_to_float(uint16_t bits) noexcept {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in f32
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign ? -magnitude : magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_f16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: a multiple of 2^-24
    const auto steps =
        static_cast<uint16_t>(std::nearbyint(std::ldexp(std::bit_cast<float>(magnitude), 24)));
    return sign | steps;
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

float round_to(DType dtype, float value) noexcept {
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  if (dtype == DType::kF16) return f16_to_float(float_to_f16(value));
  return value;
}

}  // namespace laos
