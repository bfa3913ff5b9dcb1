// The three input types, read one number at a time, and the integers that carry the order of (value, index).
//
// Everything here is in an unnamed namespace on purpose: the files that include it are compiled for different
// processors, and the linker must never take one file's copy of a function for another's.
#ifndef GRAPHWRIGHT_HARS_NUMBER_H
#define GRAPHWRIGHT_HARS_NUMBER_H

#include <limits>
#include <stdint.h>
#include <string.h>

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Half {
  uint16_t bits;
};

struct Bfloat16 {
  uint16_t bits;
};

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

inline float widen(float x) { return x; }

inline float widen(Bfloat16 x) { return float_of(uint32_t(x.bits) << 16); }

inline float widen(Half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t rest = uint32_t(x.bits & 0x7fffu) << 13;
  // Exponents differ by 127 - 15; infinities and NaN keep the largest exponent; a subnormal half is an ordinary float.
  if (rest >= 0x0f800000u) return float_of(sign | 0x7f800000u | (rest & 0x007fffffu));
  if (rest >= 0x00800000u) return float_of(sign | (rest + (112u << 23)));
  const float magnitude = float(x.bits & 0x7fffu) * 0x1p-24f;
  return float_of(sign | bits_of(magnitude));
}

inline bool is_nan(float x) { return x != x; }

// Signed integers in the order of the floats: NaN of any kind above +inf, -0 the same as +0.
inline int32_t order_of(float x) {
  if (is_nan(x)) return 0x7fffffff;
  const int32_t bits = int32_t(bits_of(x + 0.0f));  // -0 + 0 is +0
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// The float that has this order; not for NaN.
inline float value_of_order(int32_t order) { return float_of(uint32_t(order ^ ((order >> 31) & 0x7fffffff))); }

// A key is larger where the value is larger or, for equal values, the index is lower; so keys never tie.
inline int64_t key_of(float x, int64_t index) {
  const uint64_t high = uint64_t(uint32_t(order_of(x))) << 32;
  return int64_t(high | (0xffffffffu - uint32_t(index)));
}

inline int64_t index_of(int64_t key) { return int64_t(0xffffffffu - uint32_t(uint64_t(key))); }

inline int32_t order_of_key(int64_t key) { return int32_t(key >> 32); }

}  // namespace

#endif
