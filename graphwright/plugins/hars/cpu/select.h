// The k largest of plain numbers, as sorted keys: used on the maxima of blocks, on short rows and on router scores.
#ifndef GRAPHWRIGHT_HARS_SELECT_H
#define GRAPHWRIGHT_HARS_SELECT_H

#include "keys.h"
#include "number.h"
#include "row.h"

namespace {

// Above this many keys, comparing each with each costs more than a sort.
constexpr int64_t kMostRanked = 256;

// Sorts keys so that the k largest are in front, best first; k <= count. spare has as much room.
template <class L>
void sort_keys(int64_t *keys, int64_t count, int64_t k, int64_t *spare) {
  if (count > kMostRanked) {
    if (count > k) hars::keep_largest(keys, count, k);
    return hars::sort_descending(keys, k);
  }
  for (int64_t i = 0; i < count; i += L::kKeys) {
    int64_t ranks[L::kKeys];
    L::ranks(keys + i, keys, count, ranks);
    const int64_t n = count - i < L::kKeys ? count - i : L::kKeys;
    for (int64_t j = 0; j < n; ++j) {
      if (ranks[j] < k) spare[ranks[j]] = keys[i + j];
    }
  }
  memcpy(keys, spare, sizeof(int64_t) * size_t(k));
}

template <class L>
struct Values {
  const float *values;

  typename L::Floats at(int64_t i) const { return L::load(values + i); }
  typename L::Floats part(int64_t i, int count, float rest) const {
    return L::first(L::load_part(values + i, count), count, L::fill(rest));
  }
};

template <class L>
hars::Range range_of(const float *values, int64_t count) {
  constexpr int W = L::kWidth;
  const Values<L> x = {values};
  auto least = L::fill(kInfinity), most = L::fill(-kInfinity);
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    least = L::smaller(x.at(i), least);
    most = L::larger(x.at(i), most);
  }
  if (i < count) {
    least = L::smaller(x.part(i, int(count - i), kInfinity), least);
    most = L::larger(x.part(i, int(count - i), -kInfinity), most);
  }
  return {L::smallest_lane(least), L::largest_lane(most)};
}

template <class L>
int64_t count_at_least(Values<L> x, int64_t count, float bound) {
  constexpr int W = L::kWidth;
  const auto least = L::fill(bound);
  int64_t hits = 0, i = 0;
  for (; i + W <= count; i += W) hits += __builtin_popcount(L::at_least(x.at(i), least));
  const int n = int(count - i);
  if (n) hits += __builtin_popcount(L::at_least(x.part(i, n, -kInfinity), least) & ((1u << n) - 1));
  return hits;
}

// Numbers of an order >= low are at least k; of an order >= high, fewer: `above`.
struct Threshold {
  int32_t low, high;
  int64_t above;
};

// Halves the interval of orders until at most `enough` numbers pass, or until only equal numbers are left in it.
template <class L>
Threshold find_threshold(Values<L> x, int64_t count, int64_t k, int64_t enough) {
  const hars::Range range = range_of<L>(x.values, count);
  Threshold found = {order_of(range.least), order_of(range.most), 0};
  const int64_t at_top = count_at_least(x, count, range.most);
  if (at_top >= k) return {found.high, found.high + 1, 0};
  found.above = at_top;
  int64_t passing = count;
  while (passing > enough && int64_t(found.high) - found.low > 1) {
    const int32_t middle = int32_t((int64_t(found.low) + found.high) >> 1);
    const int64_t hits = count_at_least(x, count, value_of_order(middle));
    if (hits >= k) {
      found.low = middle;
      passing = hits;
    } else {
      found.high = middle;
      found.above = hits;
    }
  }
  return found;
}

// The keys of the numbers above the threshold, and as many of those in its interval as are needed where these are all
// equal: the first ones.
template <class L>
int64_t collect_above(Values<L> x, int64_t count, int64_t k, Threshold threshold, int64_t *keys) {
  constexpr int W = L::kWidth;
  const auto least = L::fill(value_of_order(threshold.low));
  const bool all_equal = int64_t(threshold.high) - threshold.low == 1;
  int64_t ties = all_equal ? k - threshold.above : count;
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += W) {
    const int n = count - i < W ? int(count - i) : W;
    const auto x0 = n < W ? x.part(i, n, -kInfinity) : x.at(i);
    uint32_t hits = L::at_least(x0, least) & ((1u << n) - 1);
    for (; hits; hits &= hits - 1) {
      const int64_t key = key_of(x.values[i + __builtin_ctz(hits)], i + __builtin_ctz(hits));
      if (order_of_key(key) >= threshold.high || ties-- > 0) keys[found++] = key;
    }
  }
  return found;
}

// The k largest of count numbers, none of them NaN, best first; keys and spare have room for 2 * k + kSpareKeys.
template <class L>
void largest(const float *values, int64_t count, int64_t k, int64_t *keys, int64_t *spare) {
  const Values<L> x = {values};
  const int64_t enough = k + k / 8 + 8;
  const int64_t found = collect_above(x, count, k, find_threshold(x, count, k, enough), keys);
  sort_keys<L>(keys, found, k, spare);
}

}  // namespace

#endif
