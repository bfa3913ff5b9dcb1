// Sixteen floats at a time with AVX-512 (F, BW, DQ, VL).
#ifndef GRAPHWRIGHT_HARS_LANES_AVX512_H
#define GRAPHWRIGHT_HARS_LANES_AVX512_H

#include <immintrin.h>

#include "number.h"

namespace {

struct Avx512 {
  static constexpr int kWidth = 16;
  static constexpr int kKeys = 16;
  static constexpr int kSums = 2;  // running sums that fit in the registers beside the constants of add_exp
  using Floats = __m512;
  using Flags = __mmask16;

  // What exp is relative to; see add_exp.
  struct Base {
    Floats low, magic;
  };
  static constexpr float kReach = 40, kFarthest = 6e4f;  // of x above a reference, and of a reference from 0
  static Base base(float reference) { return {fill(reference - 87.0f), fill(kMagic - steps_to(reference))}; }

  static __mmask16 lowest(int count) { return __mmask16((1u << count) - 1); }

  static Floats load(const float *from) {
    Floats x = _mm512_loadu_ps(from);
    asm("" : "+v"(x));  // GCC would rather load twice than keep a number for its second use
    return x;
  }
  static Floats load(const Half *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }
  static Floats load(const Bfloat16 *from) { return high_half(_mm256_loadu_si256((const __m256i *)from)); }

  // The first `count` numbers; the other lanes are 0 and nothing is read for them.
  static Floats load_part(const float *from, int count) { return _mm512_maskz_loadu_ps(lowest(count), from); }
  static Floats load_part(const Half *from, int count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lowest(count), from));
  }
  static Floats load_part(const Bfloat16 *from, int count) {
    return high_half(_mm256_maskz_loadu_epi16(lowest(count), from));
  }
  static void store(float *to, Floats x) { _mm512_storeu_ps(to, x); }

  static Floats fill(float x) { return _mm512_set1_ps(x); }
  static Floats first(Floats x, int count, Floats rest) { return _mm512_mask_mov_ps(rest, lowest(count), x); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }

  // Where x is NaN, both return best: the instructions give their second operand then.
  static Floats larger(Floats x, Floats best) { return _mm512_max_ps(x, best); }
  static Floats smaller(Floats x, Floats best) { return _mm512_min_ps(x, best); }

  // One bit a lane; a NaN is never at least anything.
  static uint32_t at_least(Floats x, Floats bound) { return _mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ); }

  static Flags no_flags() { return 0; }
  static Flags note_nan(Flags flags, Floats a, Floats b) { return flags | _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
  static Flags or_above(Flags flags, Floats a, Floats b) { return flags | _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static Floats choose(Flags flags, Floats yes, Floats no) { return _mm512_mask_mov_ps(no, flags, yes); }
  static bool any(Flags flags) { return flags != 0; }

  static float largest_lane(Floats x) { return _mm512_reduce_max_ps(x); }
  static float smallest_lane(Floats x) { return _mm512_reduce_min_ps(x); }
  static float sum_lanes(Floats x) { return _mm512_reduce_add_ps(x); }

  static Floats exp(Floats d) { return add_exp(fill(0.0f), d, base(0.0f)); }

  // total + exp(x - base) for x <= reference + kReach, x more than 87 below taken as that. With t = 32 log2(e) (x -
  // base) rounded to an integer this is 2^(t / 32) times a minimax square in the rest (relative error 6e-8). The base
  // is the nearest to the reference that is a whole number q of such steps, so that no difference has to be rounded:
  // adding kMagic - q rounds, takes q off and leaves t in the low bits of the mantissa. Its five lowest pick from the
  // table, the others go to the exponent.
  static Floats add_exp(Floats total, Floats x, Base base) {
    x = _mm512_max_ps(base.low, x);
    const Floats shifted = _mm512_fmadd_ps(x, fill(kSteps), base.magic);
    const Floats rest = _mm512_fmsub_ps(x, fill(kSteps), _mm512_sub_ps(shifted, base.magic));
    const __m512i t = _mm512_castps_si512(shifted);
    const __m512i power = _mm512_permutex2var_epi32(_mm512_load_si512(kPowers), t, _mm512_load_si512(kPowers + 16));
    const __m512i scale = _mm512_add_epi32(_mm512_slli_epi32(t, 18), power);
    const Floats factor = _mm512_fmadd_ps(rest, fill(0.0002345963f), fill(0.0216611666f));
    return _mm512_fmadd_ps(_mm512_castsi512_ps(scale), _mm512_fmadd_ps(factor, rest, fill(1.0f)), total);
  }

  // exp(base - maximum), with the same rounded kSteps as above.
  static double weight(float reference, float maximum) {
    return __builtin_exp2((steps_to(reference) - double(kSteps) * maximum) / 32);
  }

  // For 16 keys, how many of `count` keys are larger than each.
  static void ranks(const int64_t *own, const int64_t *keys, int64_t count, int64_t *result) {
    const __m512i own0 = _mm512_loadu_si512(own), own1 = _mm512_loadu_si512(own + 8), one = _mm512_set1_epi64(1);
    __m512i rank0 = _mm512_setzero_si512(), rank1 = rank0;
    for (int64_t i = 0; i < count; ++i) {
      const __m512i key = _mm512_set1_epi64(keys[i]);
      rank0 = _mm512_mask_add_epi64(rank0, _mm512_cmpgt_epi64_mask(key, own0), rank0, one);
      rank1 = _mm512_mask_add_epi64(rank1, _mm512_cmpgt_epi64_mask(key, own1), rank1, one);
    }
    _mm512_storeu_si512(result, rank0);
    _mm512_storeu_si512(result + 8, rank1);
  }

 private:
  static constexpr float kMagic = 12582912.0f;           // 1.5 * 2^23
  static constexpr float kSteps = 46.166241308446828f;  // 32 log2(e)

  static float steps_to(float reference) { return (reference * kSteps + kMagic) - kMagic; }

  // The bits of 2^(j / 32), less what shifting t leaves in the mantissa: j << 18.
  alignas(64) static constexpr uint32_t kPowers[32] = {
        0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
        0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
        0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
        0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};

  static Floats high_half(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};

}  // namespace

#endif
