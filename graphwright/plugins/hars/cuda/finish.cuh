// Phase 4: the candidates in order, and what is written for them.
#ifndef GRAPHWRIGHT_HARS_FINISH_CUH
#define GRAPHWRIGHT_HARS_FINISH_CUH

#include "select.cuh"

namespace hars {

// Few elements: each counts those that precede it. No barriers between steps, and equal work for all threads.
template <class Team>
HARS_DEVICE void order_by_counting(const Team &team, const uint64_t *elements, int count, uint64_t *sorted,
                                   int wanted) {
  for (int i = team.rank(); i < count; i += Team::THREADS) {
    const uint64_t own = elements[i];
    int precede = 0;
    for (int j = 0; j < count; ++j) precede += elements[j] > own;
    if (precede < wanted) sorted[precede] = own;
  }
  team.sync();
}

// A bitonic network in place; the rest of the next power of two is filled with 0, which follows every element.
template <class Team>
HARS_DEVICE void order_by_network(const Team &team, uint64_t *elements, int count) {
  int total = 2;
  while (total < count) total *= 2;
  for (int i = count + team.rank(); i < total; i += Team::THREADS) elements[i] = 0;
  team.sync();
  for (int run = 2; run <= total; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int pair = team.rank(); pair < total / 2; pair += Team::THREADS) {
        const int i = 2 * pair - (pair & (stride - 1)), j = i + stride;
        const uint64_t first = elements[i], second = elements[j];
        const bool descending = (i & run) == 0;
        if ((first < second) == descending) {
          elements[i] = second;
          elements[j] = first;
        }
      }
      team.sync();
    }
  }
}

template <class W>
HARS_DEVICE const uint64_t *in_order(const W &work, int count, int wanted) {
  if (count <= most_to_count(W::Team::THREADS)) {
    order_by_counting(work.team, work.shared.candidates, count, work.shared.sorted, wanted);
    return work.shared.sorted;
  }
  order_by_network(work.team, work.shared.candidates, count);
  return work.shared.candidates;
}

// `sum` is that of the whole row for PROB, of the chosen for PROB_RENORM.
HARS_DEVICE float value_of(float x, int mode, const Statistics &row, float sum) {
  if (mode == LOGIT) return x;
  const bool all_minus_infinity = !is_finite(row.maximum) && row.maximum < 0.0f;
  if (mode == LOGPROB) return all_minus_infinity ? row.maximum : add(add(x, -row.maximum), -row.log_sum);
  if (all_minus_infinity) return 0.0f;
  return is_finite(row.maximum) ? expf(add(x, -row.maximum)) / sum : as_float(0x7fffffffu);
}

HARS_DEVICE void write_index(const SoftmaxTopk &p, int64_t at, uint32_t index) {
  if (p.indices_are_int32)
    static_cast<int32_t *>(p.indices)[at] = static_cast<int32_t>(index);
  else
    static_cast<int64_t *>(p.indices)[at] = index;
}

template <class W>
HARS_DEVICE void write_statistics(const W &work, const Statistics &row) {
  if (work.team.rank() != 0) return;
  if (work.p.maximum != nullptr) work.p.maximum[work.row_number] = row.maximum;
  if (work.p.log_sum != nullptr) work.p.log_sum[work.row_number] = row.log_sum;
}

template <class W>
HARS_DEVICE void write_sorted(const W &work, const uint64_t *sorted, const Statistics &row) {
  constexpr int THREADS = W::Team::THREADS;
  const SoftmaxTopk &p = work.p;
  float sum = row.sum;
  if (p.mode == PROB_RENORM) {
    float own = 0.0f;
    for (int i = work.team.rank(); i < p.k; i += THREADS)
      own += expf(add(number_of_element(sorted[i]), -row.maximum));
    sum = work.team.sum_in_order(own);
  }
  const int64_t first = work.row_number * p.k;
  for (int i = work.team.rank(); i < p.k; i += THREADS) {
    p.values[first + i] = value_of(number_of_element(sorted[i]), p.mode, row, sum);
    write_index(p, first + i, index_of_element(sorted[i]));
  }
}

}  // namespace hars

#endif
