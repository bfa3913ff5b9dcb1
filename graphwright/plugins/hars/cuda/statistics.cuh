// The row's maximum and the logarithm of the sum of exp(x - maximum), from the groups' maxima and sums.
#ifndef GRAPHWRIGHT_HARS_STATISTICS_CUH
#define GRAPHWRIGHT_HARS_STATISTICS_CUH

#include "stream.cuh"

namespace hars {

struct Statistics {
  float maximum;
  float sum;      // of exp(x - maximum)
  float log_sum;  // NaN where the maximum is NaN or infinite; minus infinity where all are
};

HARS_DEVICE bool is_finite(float x) { return fabsf(x) < as_float(0x7f800000u); }

// Every element of the row: visit(element key), in whatever order.
template <class W, class Visit>
HARS_DEVICE void visit_vector(const W &work, int vector, Visit visit) {
  using Type = typename W::Type;
  float x[Type::VECTOR];
  numbers_of_vector<Type>(load_any(work.row, vector), x);
  if constexpr (W::EDITED) edit_vector<Type>(work.edit, vector, x);
#pragma unroll
  for (int i = 0; i < Type::VECTOR; ++i) {
    const int index = vector * Type::VECTOR + i;
    if (index < work.p.width) visit(element_key(ordered_key(x[i]), static_cast<uint32_t>(index)));
  }
}
template <class W, class Visit>
HARS_DEVICE void visit_row(const W &work, Visit visit) {
  for (int vector = work.team.rank(); vector * W::Type::VECTOR < work.p.width; vector += W::Team::THREADS)
    visit_vector(work, vector, visit);
}

// For maxima so large that the units of phase 1 are too coarse: once more over the row, with differences.
template <class W>
HARS_DEVICE double careful_sum(const W &work, float maximum) {
  double sum = 0.0;
  visit_row(work, [&](uint64_t element) { sum += expf(add(number_of_element(element), -maximum)); });
  return work.team.sum_in_order(sum);
}

// `sums` may be overwritten after this: all threads have read it.
template <class W>
HARS_DEVICE Statistics statistics_of(const W &work, float maximum) {
  constexpr int THREADS = W::Team::THREADS;
  Statistics result{maximum, 1.0f, 0.0f};
  if (!is_finite(maximum)) {
    const bool all_minus_infinity = maximum < 0.0f;
    result.log_sum = all_minus_infinity ? maximum : as_float(0x7fffffffu);
    return result;
  }
  if (!work.p.needs_sum) return result;
  const float reference = multiply(maximum, LOG2_E);
  if (fabsf(reference) < LARGEST_REFERENCE) {
    float sum = 0.0f;
    for (int chain = 0; chain < work.layout.chains; ++chain) {
      const int slot = chain * THREADS + work.team.rank();
      const uint32_t key = work.shared.keys[slot];
      if (key == 0) continue;
      const float shift = add(reference_of(number_of_key(key)), -reference);
      sum = multiply_add(work.shared.sums[slot], exp2_fast(shift), sum);
    }
    sum = work.team.sum_in_order(sum);
    // 2^(maximum * log2(e) - reference), the term of the maximum itself, is not quite 1.
    const float residual = multiply_add(maximum, LOG2_E, -reference);
    result.sum = multiply(sum, exp2f(-residual));
    result.log_sum = multiply_add(-residual, LN_2, logf(sum));
  } else {
    result.sum = static_cast<float>(careful_sum(work, maximum));
    result.log_sum = logf(result.sum);
  }
  // The maximum alone gives exp(0) = 1: rounding must not make a probability larger than 1.
  result.sum = fmaxf(result.sum, 1.0f);
  result.log_sum = fmaxf(result.log_sum, 0.0f);
  return result;
}

}  // namespace hars

#endif
