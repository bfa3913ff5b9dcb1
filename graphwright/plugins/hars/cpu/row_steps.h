// The steps of row.h, written once over lanes (a vector of floats) and over the type of the logits. Each row_*.cpp
// includes this after its lanes; the unnamed namespace keeps the copies apart.
#ifndef GRAPHWRIGHT_HARS_ROW_STEPS_H
#define GRAPHWRIGHT_HARS_ROW_STEPS_H

#include "keys.h"
#include "row.h"
#include "row_source.h"
#include "row_together.h"
#include "select.h"

namespace {

using hars::Blocks;

// The largest of [begin, end), NaN left out; notes in `nan` whether there was one.
template <class L, class S>
float block_maximum(const S &x, int64_t begin, int64_t end, typename L::Flags &nan) {
  constexpr int W = L::kWidth;
  auto a = L::fill(-kInfinity), b = a, c = a, d = a;
  int64_t i = begin;
  for (; i + 4 * W <= end; i += 4 * W) {
    const auto x0 = x.at(i), x1 = x.at(i + W), x2 = x.at(i + 2 * W), x3 = x.at(i + 3 * W);
    a = L::larger(x0, a), b = L::larger(x1, b), c = L::larger(x2, c), d = L::larger(x3, d);
    nan = L::note_nan(L::note_nan(nan, x0, x1), x2, x3);
  }
  for (; i < end; i += W) {
    const auto x0 = end - i < W ? x.part(i, int(end - i)) : x.at(i);
    a = L::larger(x0, a);
    nan = L::note_nan(nan, x0, x0);
  }
  return L::largest_lane(L::larger(L::larger(a, b), L::larger(c, d)));
}

// The sum of exp(x - maximum) over [begin, end).
template <class L, class S>
float block_sum(const S &x, int64_t begin, int64_t end, float maximum) {
  constexpr int W = L::kWidth;
  if (maximum == -kInfinity) return 0.0f;
  const auto most = L::fill(maximum);
  const auto base = L::base(0.0f);
  auto sum = L::fill(0.0f);
  for (int64_t i = begin; i < end; i += W) {
    const auto x0 = end - i < W ? x.part(i, int(end - i)) : x.at(i);
    sum = L::add_exp(sum, L::subtract(x0, most), base);
  }
  return L::sum_lanes(sum);
}

struct Block {
  float maximum, sum;
};

// The maximum and the sum of exp(x - base) in one reading. The sum is NaN if the block has a NaN or +inf.
template <class L, class S>
Block block_at_once(const S &x, int64_t begin, int64_t end, typename L::Base base) {
  constexpr int W = L::kWidth, N = L::kSums;
  typename L::Floats most[N], sum[N];
  for (int j = 0; j < N; ++j) most[j] = L::fill(-kInfinity), sum[j] = L::fill(0.0f);
  const auto note = [&](typename L::Floats x0, int j) {
    most[j] = L::larger(x0, most[j]);
    sum[j] = L::add_exp(sum[j], x0, base);
  };
  int64_t i = begin;
  for (; i + N * W <= end; i += N * W) {
    for (int j = 0; j < N; ++j) note(x.at(i + j * W), j);
  }
  for (; i < end; i += W) note(end - i < W ? x.part(i, int(end - i)) : x.at(i), 0);
  for (int j = 1; j < N; ++j) most[0] = L::larger(most[j], most[0]), sum[0] = L::add(sum[j], sum[0]);
  return {L::largest_lane(most[0]), L::sum_lanes(sum[0])};
}

// The sums of a row's blocks are relative to a reference, the maximum of the first block, so that a block can be summed
// before its own maximum is known. But a block that goes beyond this limit is summed relative to its own. The limit is
// NaN, and every block beyond it, where the first block's maximum is no fit reference.
template <class L>
float limit_of(float reference) {
  return reference >= -L::kFarthest && reference <= L::kFarthest ? reference + L::kReach : float_of(0x7fc00000u);
}

template <class L, class S>
void summarize_block(const S &x, int64_t begin, int64_t end, float reference, typename L::Flags &nan, float &maximum,
                     float &sum) {
  const float limit = limit_of<L>(reference);
  if (!is_nan(limit)) {
    const Block block = block_at_once<L>(x, begin, end, L::base(reference));
    maximum = block.maximum;
    sum = block.sum;
    if (!is_nan(sum) && maximum <= limit) return;
  }
  maximum = block_maximum<L>(x, begin, end, nan);
  sum = block_sum<L>(x, begin, end, maximum);
}

template <class L>
bool summarize(const Row &row, Blocks blocks, int64_t first, int64_t last, float *maxima, float *sums) {
  return with_source<L>(row, [&](const auto &x) {
    auto nan = L::no_flags();
    const auto end_of = [&](int64_t i) {
      return (i + 1) * blocks.block < row.width ? (i + 1) * blocks.block : row.width;
    };
    if (!sums) {
      for (int64_t i = first; i < last; ++i) maxima[i] = block_maximum<L>(x, i * blocks.block, end_of(i), nan);
      return L::any(nan);
    }
    const float reference = block_maximum<L>(x, 0, end_of(0), nan);
    for (int64_t i = first; i < last; ++i) {
      summarize_block<L>(x, i * blocks.block, end_of(i), reference, nan, maxima[i], sums[i]);
    }
    return L::any(nan);
  });
}

template <class L>
double combine(const float *maxima, const float *sums, int64_t count, float maximum) {
  constexpr int N = 8;  // separate sums, which the compiler turns into vectors
  const float limit = limit_of<L>(maxima[0]);
  double parts[N] = {};
  int64_t within = 0, i = 0;
  const auto add = [&](int64_t block, int j) {
    const bool is_within = maxima[block] <= limit;
    parts[j] += is_within ? double(sums[block]) : 0.0;
    within += is_within;
  };
  for (; i + N <= count; i += N) {
    for (int j = 0; j < N; ++j) add(i + j, j);
  }
  for (; i < count; ++i) add(i, 0);
  double total = 0;
  for (const double part : parts) total += part;
  if (within) total *= L::weight(maxima[0], maximum);
  for (i = 0; within < count && i < count; ++i) {
    if (!(maxima[i] <= limit)) total += double(sums[i]) * __builtin_exp(double(maxima[i]) - maximum);
  }
  return total;
}

// A buffer of keys has room for so many, and a block more.
inline int64_t most_candidates(int64_t k) { return 2 * k + 64; }

// Appends the keys of [begin, end) that are at least `bound`; returns the new count. Few are, so that one look at 64
// numbers decides for most.
template <class L, class S>
int64_t collect(const S &x, int64_t begin, int64_t end, float bound, int64_t *keys, int64_t count) {
  constexpr int W = L::kWidth;
  const auto least = L::fill(bound);
  const auto append = [&](uint64_t hits, int64_t first) {
    for (; hits; hits &= hits - 1) {
      const int64_t index = first + __builtin_ctzll(hits);
      keys[count++] = key_of(x.one(index), index);
    }
  };
  int64_t i = begin;
  for (; i + 64 <= end; i += 64) {
    uint64_t hits = 0;
    for (int j = 0; j < 64; j += W) hits |= uint64_t(L::at_least(x.at(i + j), least)) << j;
    append(hits, i);
  }
  for (; i < end; i += W) {
    const int n = end - i < W ? int(end - i) : W;
    append(L::at_least(n < W ? x.part(i, n) : x.at(i), least) & ((1u << n) - 1), i);
  }
  return count;
}

// What retrieve() does where the blocks' numbers come in a bad order, such as ascending: best block first, until the
// next one's best number cannot enter, and with a bound that rises.
template <class L, class S>
int64_t retrieve_descending(const S &x, int64_t width, int64_t block, const int64_t *winners, int64_t k,
                            int64_t *keys) {
  int64_t count = 0, worst_kept = INT64_MIN;
  float bound = value_of_order(order_of_key(winners[k - 1]));
  for (int64_t i = 0; i < k; ++i) {
    const int64_t begin = index_of(winners[i]) * block;
    const float maximum = value_of_order(order_of_key(winners[i]));
    if (key_of(maximum, begin) < worst_kept) break;
    count = collect<L>(x, begin, begin + block < width ? begin + block : width, bound, keys, count);
    if (count <= most_candidates(k)) continue;
    worst_kept = hars::keep_largest(keys, count, k);
    bound = value_of_order(order_of_key(worst_kept));
    count = k;
  }
  return count;
}

// A top-k number outside the k blocks with the largest maxima would have k larger ones before it: those maxima. So
// only these are read again, and few of their numbers reach the least of those maxima.
template <class L>
void retrieve(const Row &row, Blocks blocks, const float *maxima, int64_t k, int64_t *keys, int64_t *spare) {
  const Values<L> all = {maxima};
  const Threshold threshold = find_threshold(all, blocks.count, k, k + k / 8);
  int64_t *winners = spare;
  const int64_t won = collect_above(all, blocks.count, k, threshold, winners);
  const float bound = value_of_order(threshold.low);
  const int64_t found = with_source<L>(row, [&](const auto &x) {
    int64_t count = 0;
    for (int64_t i = 0; i < won && count <= most_candidates(k); ++i) {
      const int64_t begin = index_of(winners[i]) * blocks.block;
      const int64_t end = begin + blocks.block < row.width ? begin + blocks.block : row.width;
      count = collect<L>(x, begin, end, bound, keys, count);
    }
    if (count <= most_candidates(k)) return count;
    sort_keys<L>(winners, won, k, keys);
    return retrieve_descending<L>(x, row.width, blocks.block, winners, k, keys);
  });
  sort_keys<L>(keys, found, k, spare);
}

template <class L>
bool widen_row(const Row &row, float *values) {
  constexpr int W = L::kWidth;
  return with_source<L>(row, [&](const auto &x) {
    auto nan = L::no_flags();
    int64_t i = 0;
    for (; i + W <= row.width; i += W) {
      const auto x0 = x.at(i);
      nan = L::note_nan(nan, x0, x0);
      L::store(values + i, x0);
    }
    if (i == row.width) return L::any(nan);
    const int n = int(row.width - i);
    const auto x0 = x.part(i, n);
    nan = L::note_nan(nan, x0, x0);
    float lanes[W];
    L::store(lanes, x0);
    memcpy(values + i, lanes, sizeof(float) * unsigned(n));
    return L::any(nan);
  });
}

template <class L>
float exps(const float *values, int64_t count, float reference, float *powers) {
  constexpr int W = L::kWidth;
  const Values<L> x = {values};
  const auto base = L::fill(reference);
  auto sum = L::fill(0.0f);
  for (int64_t i = 0; i < count; i += W) {
    const auto x0 = count - i < W ? x.part(i, int(count - i), -kInfinity) : x.at(i);
    const auto power = L::exp(L::subtract(x0, base));
    sum = L::add(sum, power);
    L::store(powers + i, power);
  }
  return L::sum_lanes(sum);
}

template <class L>
constexpr hars::RowSteps steps_of() {
  return {summarize<L>, combine<L>, retrieve<L>, largest<L>, widen_row<L>, range_of<L>, exps<L>,
          rank_together<L>, L::kWidth};
}

}  // namespace

#endif
