// Large k: the top k in chunks of as many elements as the buffer of candidates holds. Each chunk's lower end is found
// exactly by radix selection over (value, index), eight bits a pass; every pass reads the row again. Slower than
// groups, but for any k up to the width, without memory other than the block's, and with no case that does not fit.
#ifndef GRAPHWRIGHT_HARS_CHUNKS_CUH
#define GRAPHWRIGHT_HARS_CHUNKS_CUH

#include "finish.cuh"

namespace hars {

// Counts, by the eight bits at `shift`, the elements up to `upper` whose bits above those equal `prefix`.
template <class W>
HARS_DEVICE void fill_bins(const W &work, uint64_t upper, uint64_t prefix, int shift) {
  for (int bin = work.team.rank(); bin < BINS; bin += W::Team::THREADS) work.shared.bins[bin] = 0;
  work.team.sync();
  visit_row(work, [&](uint64_t element) {
    const bool matches = shift == 56 || element >> (shift + 8) == prefix;
    if (matches && element <= upper) shared_add(&work.shared.bins[element >> shift & (BINS - 1)], 1);
  });
  work.team.sync();
}

// The key from which up to `upper` there are exactly `wanted` elements; there are at least that many up to `upper`.
template <class W>
HARS_DEVICE uint64_t lower_end(const W &work, uint64_t upper, int wanted) {
  static_assert(W::Team::THREADS == BINS, "each thread owns one bin");
  uint64_t prefix = 0;
  uint32_t left = static_cast<uint32_t>(wanted);
  for (int shift = 56;; shift -= 8) {
    fill_bins(work, upper, prefix, shift);
    const int bin = work.team.rank();
    uint32_t above = 0;
    for (int i = bin + 1; i < BINS; ++i) above += work.shared.bins[i];
    const uint32_t own = work.shared.bins[bin];
    if (above < left && left <= above + own) {
      // True for exactly one thread.
      work.shared.counter[0] = static_cast<uint32_t>(bin);
      work.shared.counter[1] = left - above;
      work.shared.counter[2] = own;
    }
    work.team.sync();
    prefix = prefix << 8 | work.shared.counter[0];
    left = work.shared.counter[1];
    // They are written again only after the barriers of the next pass.
    if (left == work.shared.counter[2] || shift == 0) return prefix << shift;
  }
}

template <class W>
HARS_DEVICE void write_chunk(const W &work, const uint64_t *sorted, int first, int count) {
  const int64_t at = work.row_number * work.p.k + first;
  for (int i = work.team.rank(); i < count; i += W::Team::THREADS) {
    work.p.values[at + i] = number_of_element(sorted[i]);
    write_index(work.p, at + i, index_of_element(sorted[i]));
  }
}

// The logits are written; now what the mode wants of them.
template <class W>
HARS_DEVICE void apply_mode(const W &work, const Statistics &row) {
  constexpr int THREADS = W::Team::THREADS;
  float *values = work.p.values + work.row_number * work.p.k;
  float sum = row.sum;
  if (work.p.mode == PROB_RENORM) {
    double own = 0.0;
    for (int i = work.team.rank(); i < work.p.k; i += THREADS) own += expf(add(values[i], -row.maximum));
    sum = static_cast<float>(work.team.sum_in_order(own));
  }
  for (int i = work.team.rank(); i < work.p.k; i += THREADS) values[i] = value_of(values[i], work.p.mode, row, sum);
}

template <class W>
HARS_DEVICE void write_in_chunks(const W &work, const Statistics &row) {
  uint64_t upper = ~uint64_t{0};
  for (int first = 0; first < work.p.k;) {
    const int left = work.p.k - first;
    const int count = left < work.p.candidates ? left : work.p.candidates;
    const uint64_t lower = lower_end(work, upper, count);
    collect(work, [&](auto visit) { visit_row(work, visit); },
            [&](uint64_t element) { return element >= lower && element <= upper; });
    write_chunk(work, in_order(work, count, count), first, count);
    work.team.sync();
    upper = lower - 1;
    first += count;
  }
  apply_mode(work, row);
}

}  // namespace hars

#endif
