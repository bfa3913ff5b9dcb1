// Eight floats at a time with AVX2, FMA and F16C.
#ifndef GRAPHWRIGHT_HARS_LANES_AVX2_H
#define GRAPHWRIGHT_HARS_LANES_AVX2_H

#include <immintrin.h>

#include "number.h"

namespace {

struct Avx2 {
  static constexpr int kWidth = 8;
  static constexpr int kKeys = 8;
  static constexpr int kSums = 1;  // running sums that fit in the registers beside the constants of add_exp
  using Floats = __m256;
  using Flags = __m256;

  // What exp is relative to; see add_exp.
  struct Base {
    Floats low, magic;
  };
  static constexpr float kReach = 40, kFarthest = 6e4f;  // of x above a reference, and of a reference from 0
  static Base base(float reference) { return {fill(reference - 87.0f), fill(kMagic - steps_to(reference))}; }

  static Floats load(const float *from) {
    Floats x = _mm256_loadu_ps(from);
    asm("" : "+x"(x));  // GCC would rather load twice than keep a number for its second use
    return x;
  }
  static Floats load(const Half *from) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)); }
  static Floats load(const Bfloat16 *from) {
    const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
  }

  // The first `count` numbers; the other lanes are 0 and nothing is read for them.
  static Floats load_part(const float *from, int count) {
    return _mm256_maskload_ps(from, _mm256_castps_si256(lowest(count)));
  }
  template <class T>
  static Floats load_part(const T *from, int count) {
    T copy[kWidth] = {};
    memcpy(copy, from, sizeof(T) * unsigned(count));
    return load(copy);
  }
  static void store(float *to, Floats x) { _mm256_storeu_ps(to, x); }

  static Floats fill(float x) { return _mm256_set1_ps(x); }
  static Floats first(Floats x, int count, Floats rest) { return _mm256_blendv_ps(rest, x, lowest(count)); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }

  // Where x is NaN, both return best: the instructions give their second operand then.
  static Floats larger(Floats x, Floats best) { return _mm256_max_ps(x, best); }
  static Floats smaller(Floats x, Floats best) { return _mm256_min_ps(x, best); }

  // One bit a lane; a NaN is never at least anything.
  static uint32_t at_least(Floats x, Floats bound) {
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x, bound, _CMP_GE_OQ)));
  }

  static Flags no_flags() { return _mm256_setzero_ps(); }
  static Flags note_nan(Flags flags, Floats a, Floats b) {
    return _mm256_or_ps(flags, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
  }
  static Flags or_above(Flags flags, Floats a, Floats b) {
    return _mm256_or_ps(flags, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
  }
  static Floats choose(Flags flags, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, flags); }
  static bool any(Flags flags) { return _mm256_movemask_ps(flags) != 0; }

  static float largest_lane(Floats x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static float smallest_lane(Floats x) {
    const __m128 four = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
  }
  static float sum_lanes(Floats x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static Floats exp(Floats d) { return add_exp(fill(0.0f), d, base(0.0f)); }

  // total + exp(x - base) for x <= reference + kReach, x more than 87 below taken as that. With t = 8 log2(e) (x -
  // base) rounded to an integer this is 2^(t / 8) times a minimax cubic in the rest (relative error 3e-8). The base
  // is the nearest to the reference that is a whole number q of such steps, so that no difference has to be rounded:
  // adding kMagic - q rounds, takes q off and leaves t in the low bits of the mantissa. Its three lowest pick from
  // the table, the others go to the exponent.
  static Floats add_exp(Floats total, Floats x, Base base) {
    x = _mm256_max_ps(base.low, x);
    const Floats shifted = _mm256_fmadd_ps(x, fill(kSteps), base.magic);
    const Floats rest = _mm256_fmsub_ps(x, fill(kSteps), _mm256_sub_ps(shifted, base.magic));
    const __m256i t = _mm256_castps_si256(shifted);
    // The bits of 2^(j / 8), less what shifting t leaves in the mantissa: j << 20.
    const __m256i powers = _mm256_setr_epi32(0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a,
                                             0x3f7744fd, 0x3f7ac0c7);
    const __m256i scale = _mm256_add_epi32(_mm256_slli_epi32(t, 20), _mm256_permutevar8x32_epi32(powers, t));
    Floats polynomial = _mm256_fmadd_ps(rest, fill(0.00010840014f), fill(0.0037540244f));
    polynomial = _mm256_fmadd_ps(polynomial, rest, fill(0.0866434f));
    polynomial = _mm256_fmadd_ps(polynomial, rest, fill(1.0f));
    return _mm256_fmadd_ps(_mm256_castsi256_ps(scale), polynomial, total);
  }

  // exp(base - maximum), with the same rounded kSteps as above.
  static double weight(float reference, float maximum) {
    return __builtin_exp2((steps_to(reference) - double(kSteps) * maximum) / 8);
  }

  // For eight keys, how many of `count` keys are larger than each.
  static void ranks(const int64_t *own, const int64_t *keys, int64_t count, int64_t *result) {
    const __m256i own0 = _mm256_loadu_si256((const __m256i *)own);
    const __m256i own1 = _mm256_loadu_si256((const __m256i *)(own + 4));
    __m256i rank0 = _mm256_setzero_si256(), rank1 = rank0;
    for (int64_t i = 0; i < count; ++i) {
      const __m256i key = _mm256_set1_epi64x(keys[i]);
      rank0 = _mm256_sub_epi64(rank0, _mm256_cmpgt_epi64(key, own0));
      rank1 = _mm256_sub_epi64(rank1, _mm256_cmpgt_epi64(key, own1));
    }
    _mm256_storeu_si256((__m256i *)result, rank0);
    _mm256_storeu_si256((__m256i *)(result + 4), rank1);
  }

 private:
  static constexpr float kMagic = 12582912.0f;           // 1.5 * 2^23
  static constexpr float kSteps = 11.541560327111707f;  // 8 log2(e)

  static float steps_to(float reference) { return (reference * kSteps + kMagic) - kMagic; }

  static __m256 lowest(int count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
  }
};

}  // namespace

#endif
