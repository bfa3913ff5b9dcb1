// See weights.h. Written once with the compiler's vectors, and compiled for three processors: the length of the vectors
// changes no result.
#include "weights.h"

#include <string.h>

#include "hars_search.h"

namespace {

#define HARS_INLINE static inline __attribute__((always_inline))

// search/weights.py tells where the constants come from.
constexpr double kSmallest = -708.0;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2High = 0x1.62e42fee00000p-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kCoefficients[] = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                                    1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2,     1.0,        1.0};
// 1.5 * 2**52: added to a number below 2**51 it leaves no room behind the point, so the number is rounded to a whole
// one (ties to even), which then stands in the lowest bits.
constexpr double kWhole = 0x1.8p52;

// Vectors as long as the processor's: the compiler cuts longer ones through memory. Four at a time hide the time that
// one multiplication or addition waits for the one before it.
template <int N>
struct Vectors {
  typedef double Doubles __attribute__((vector_size(8 * N)));
  typedef int64_t Integers __attribute__((vector_size(8 * N)));
  typedef float Floats __attribute__((vector_size(4 * N)));
  static constexpr int kCount = 4;
  static constexpr int kNumbers = kCount * N;
};

template <int N>
HARS_INLINE void weigh_vectors(const float *x, double maximum, double *weights) {
  using V = Vectors<N>;
  typename V::Doubles rest[V::kCount], power[V::kCount];
  typename V::Integers is_zero[V::kCount], exponent[V::kCount];
  for (int i = 0; i < V::kCount; ++i) {
    typename V::Floats single;
    memcpy(&single, x + N * i, sizeof single);
    const typename V::Doubles distance = __builtin_convertvector(single, typename V::Doubles) - maximum;
    is_zero[i] = distance < kSmallest;
    const typename V::Doubles smallest = kSmallest - typename V::Doubles{};
    const typename V::Doubles clipped = is_zero[i] ? smallest : distance;
    const typename V::Doubles shifted = clipped * kLog2E + kWhole;
    const typename V::Doubles whole = shifted - kWhole;
    rest[i] = (clipped - whole * kLn2High) - whole * kLn2Low;
    exponent[i] = (typename V::Integers)shifted << 52;
    power[i] = kCoefficients[0] - typename V::Doubles{};
  }
  for (int j = 1; j < 12; ++j) {
    for (int i = 0; i < V::kCount; ++i) power[i] = power[i] * rest[i] + kCoefficients[j];
  }
  for (int i = 0; i < V::kCount; ++i) {
    // Times 2**whole: the result is no denormal, so adding to the exponent is exact.
    const typename V::Integers bits = ((typename V::Integers)power[i] + exponent[i]) & ~is_zero[i];
    memcpy(weights + N * i, &bits, sizeof bits);
  }
}

template <int N>
HARS_INLINE void weigh_leaves(const float *x, int64_t leaves, float maximum, double *weights) {
  for (int64_t i = 0; i < leaves * hars::kLeaf; i += Vectors<N>::kNumbers) {
    weigh_vectors<N>(x + i, maximum, weights + i);
  }
}

template <int N>
HARS_INLINE void sum_of_leaves(const float *x, int64_t leaves, float maximum, double *sums) {
  for (int64_t leaf = 0; leaf < leaves; ++leaf) {
    double part[hars::kLeaf];
    weigh_leaves<N>(x + leaf * hars::kLeaf, 1, maximum, part);
    for (int i = 0; i < 16; ++i) part[i] += part[i + 16];
    for (int i = 0; i < 8; ++i) part[i] += part[i + 8];
    for (int i = 0; i < 4; ++i) part[i] += part[i + 4];
    sums[leaf] = (part[0] + part[2]) + (part[1] + part[3]);
  }
}

#define HARS_WEIGHTS(NAME, N, TARGET)                                                        \
  TARGET void weigh_##NAME(const float *x, int64_t leaves, float maximum, double *weights) { \
    weigh_leaves<N>(x, leaves, maximum, weights);                                            \
  }                                                                                          \
  TARGET void sum_##NAME(const float *x, int64_t leaves, float maximum, double *sums) {      \
    sum_of_leaves<N>(x, leaves, maximum, sums);                                              \
  }

HARS_WEIGHTS(scalar, 2, )
#if defined(__x86_64__)
HARS_WEIGHTS(avx2, 4, __attribute__((target("avx2"))))
HARS_WEIGHTS(avx512, 8, __attribute__((target("avx512f,prefer-vector-width=512"))))
#endif

}  // namespace

namespace hars {

WeightSteps weight_steps(int32_t isa) {
#if defined(__x86_64__)
  if (isa == HARS_AVX512) return {weigh_avx512, sum_avx512};
  if (isa == HARS_AVX2) return {weigh_avx2, sum_avx2};
#endif
  (void)isa;
  return {weigh_scalar, sum_scalar};
}

double halved(const double *values) {
  double part[kLeaf / 2];
  for (int64_t i = 0; i < kLeaf / 2; i++) part[i] = values[i] + values[i + kLeaf / 2];
  for (int64_t middle = kLeaf / 4; middle > 0; middle /= 2) {
    for (int64_t i = 0; i < middle; i++) part[i] += part[i + middle];
  }
  return part[0];
}

}  // namespace hars

int32_t hars_weights(int32_t isa, const float *x, float maximum, double *weights, double *leaves, double *total) {
  if (!hars_has_isa(isa)) return HARS_NO_SUCH_ISA;
  const hars::WeightSteps steps = hars::weight_steps(isa);
  steps.weigh(x, hars::kLeaf, maximum, weights);
  steps.sum_leaves(x, hars::kLeaf, maximum, leaves);
  *total = hars::halved(leaves);
  return HARS_OK;
}
