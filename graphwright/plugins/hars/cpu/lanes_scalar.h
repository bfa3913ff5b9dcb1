// No instruction set in particular, for every processor: four floats at a time in the vector types of GCC and Clang,
// which become SSE2, NEON or single numbers.
#ifndef GRAPHWRIGHT_HARS_LANES_SCALAR_H
#define GRAPHWRIGHT_HARS_LANES_SCALAR_H

#include "number.h"

namespace {

struct Scalar {
  static constexpr int kWidth = 4;
  static constexpr int kKeys = 1;
  static constexpr int kSums = 2;  // running sums that fit in the registers beside the constants of add_exp
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  typedef uint32_t Words __attribute__((vector_size(16)));
  using Flags = Ints;

  // What exp is relative to.
  using Base = float;
  static constexpr float kReach = 8, kFarthest = 1e30f;  // of x above the base, and of the base from 0
  static Base base(float reference) { return reference; }

  static Floats load(const float *from) {
    Floats x;
    memcpy(&x, from, sizeof x);
    return x;
  }
  template <class T>
  static Floats load(const T *from) {
    return Floats{widen(from[0]), widen(from[1]), widen(from[2]), widen(from[3])};
  }
  // The first `count` numbers; the other lanes are 0 and nothing is read for them.
  template <class T>
  static Floats load_part(const T *from, int count) {
    Floats x = fill(0.0f);
    for (int i = 0; i < count; ++i) x[i] = widen(from[i]);
    return x;
  }
  static void store(float *to, Floats x) { memcpy(to, &x, sizeof x); }

  static Floats fill(float x) { return Floats{x, x, x, x}; }
  static Floats first(Floats x, int count, Floats rest) {
    return select(Ints{0, 1, 2, 3} < Ints{count, count, count, count}, x, rest);
  }
  static Floats add(Floats a, Floats b) { return a + b; }
  static Floats subtract(Floats a, Floats b) { return a - b; }
  static Floats multiply(Floats a, Floats b) { return a * b; }

  // Where x is NaN, both return best.
  static Floats larger(Floats x, Floats best) { return select(x > best, x, best); }
  static Floats smaller(Floats x, Floats best) { return select(x < best, x, best); }

  // One bit a lane; a NaN is never at least anything.
  static uint32_t at_least(Floats x, Floats bound) {
    const Ints hits = (x >= bound) & Ints{1, 2, 4, 8};
    return uint32_t(hits[0] | hits[1] | hits[2] | hits[3]);
  }

  static Flags no_flags() { return Ints{}; }
  static Flags note_nan(Flags flags, Floats a, Floats b) { return flags | (a != a) | (b != b); }
  static Flags or_above(Flags flags, Floats a, Floats b) { return flags | (a > b); }
  static Floats choose(Flags flags, Floats yes, Floats no) { return select(flags, yes, no); }
  static bool any(Flags flags) { return (flags[0] | flags[1] | flags[2] | flags[3]) != 0; }

  static float largest_lane(Floats x) {
    for (int i = 1; i < kWidth; ++i) x[0] = x[i] > x[0] ? x[i] : x[0];
    return x[0];
  }
  static float smallest_lane(Floats x) {
    for (int i = 1; i < kWidth; ++i) x[0] = x[i] < x[0] ? x[i] : x[0];
    return x[0];
  }
  static float sum_lanes(Floats x) { return (x[0] + x[2]) + (x[1] + x[3]); }

  static Floats exp(Floats d) { return add_exp(fill(0.0f), d, 0.0f); }

  // total + exp(x - base) for x <= base + kReach, x more than 87 below taken as that. With d = x - base this is
  // 2^n * exp(rest), n = d log2(e) rounded to an integer by adding kMagic; log(2) in two parts, so that n times the
  // first is exact (there may be no fused multiply-add here). Then the series to the sixth power (relative error 1e-7).
  static Floats add_exp(Floats total, Floats x, Base base) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
    const Floats low = fill(-87.0f);
    const Floats d = select(x - base < low, low, x - base);
    const Floats shifted = d * 1.44269504f + kMagic;
    const Floats n = shifted - kMagic;
    const Floats rest = (d - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats series = rest * 0.0013888889f + 0.0083333333f;
    series = series * rest + 0.041666667f;
    series = series * rest + 0.16666667f;
    series = series * rest + 0.5f;
    series = series * rest + 1.0f;
    series = series * rest + 1.0f;
    Words bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + bits_of(1.0f);
    Floats power;
    memcpy(&power, &bits, sizeof power);
    return total + series * power;
  }

  // exp(base - maximum).
  static double weight(float base, float maximum) { return __builtin_exp(double(base) - maximum); }

  // How many of `count` keys are larger than one.
  static void ranks(const int64_t *one, const int64_t *keys, int64_t count, int64_t *result) {
    int64_t rank = 0;
    for (int64_t i = 0; i < count; ++i) rank += keys[i] > *one;
    *result = rank;
  }

 private:
  static Floats select(Ints mask, Floats yes, Floats no) {
    Ints a, b;
    memcpy(&a, &yes, sizeof a);
    memcpy(&b, &no, sizeof b);
    a = (a & mask) | (b & ~mask);
    memcpy(&yes, &a, sizeof a);
    return yes;
  }
};

}  // namespace

#endif
