// The random numbers of sampling, and its weights exp(x - maximum): float64, step by step as search/weights.py has
// them, so that the same seed draws the same token everywhere. No step may be fused into another.
// Philox4x32-10: Salmon, Moraes, Dror, Shaw, SC'11, doi:10.1145/2063384.2063405.
#ifndef GRAPHWRIGHT_HARS_WEIGHTS_CUH
#define GRAPHWRIGHT_HARS_WEIGHTS_CUH

#include "statistics.cuh"

namespace hars {

// In [0, 1): the first of the four words, over 2^32.
HARS_DEVICE double uniform_number(uint64_t seed, uint64_t offset, uint64_t row) {
  uint32_t a = static_cast<uint32_t>(offset), b = static_cast<uint32_t>(offset >> 32);
  uint32_t c = static_cast<uint32_t>(row), d = static_cast<uint32_t>(row >> 32);
  uint32_t left = static_cast<uint32_t>(seed), right = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    constexpr uint32_t FIRST = 0xD2511F53u, SECOND = 0xCD9E8D57u;
    const uint32_t high = multiply_high(FIRST, a), low = FIRST * a;
    const uint32_t other_high = multiply_high(SECOND, c), other_low = SECOND * c;
    a = other_high ^ b ^ left;
    b = other_low;
    c = high ^ d ^ right;
    d = low;
    left += 0x9E3779B9u;
    right += 0xBB67AE85u;
  }
  return multiply(static_cast<double>(a), 1.0 / 4294967296.0);
}

// exp(x - maximum), where x <= maximum and the maximum is finite. ln 2 in two parts (Cody and Waite), a Taylor series.
HARS_DEVICE double weight_of(float x, float maximum) {
  constexpr double LOG2_E_DOUBLE = 1.4426950408889634;
  constexpr double LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33;
  const double distance = add(static_cast<double>(x), -static_cast<double>(maximum));
  if (distance < -708.0) return 0.0;
  const double whole = rint(multiply(distance, LOG2_E_DOUBLE));
  const double rest = add(add(distance, -multiply(whole, LN2_HIGH)), -multiply(whole, LN2_LOW));
  double power = 1.0 / 39916800;
  const double coefficients[11] = {1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                                   1.0 / 24,      1.0 / 6,      1.0 / 2,     1.0,        1.0};
#pragma unroll
  for (int i = 0; i < 11; ++i) power = add(multiply(power, rest), coefficients[i]);
  // At least 2^-1022, so that the product is exact.
  return multiply(power, as_double(static_cast<uint64_t>(static_cast<int64_t>(whole) + 1023) << 52));
}

template <class W>
HARS_DEVICE float number_at(const W &work, int index) {
  float x = number_in_word(typename W::Type(), load_one(work.row.begin + index), 0);
  if constexpr (W::EDITED) {
    if (work.edit.bias.begin != nullptr) x = add(x, as_float(load_one(work.edit.bias.begin + index)));
    x = multiply(x, work.edit.scale);
  }
  return x;
}

// In index order, weights are added in leaves of 32 and blocks of 32 leaves, both by halving, then block after block.
constexpr int LEAF = 32;
constexpr int WEIGHT_BLOCK = LEAF * LEAF;

template <class W>
HARS_DEVICE double weight_at(const W &work, int index, float maximum) {
  return index < work.p.width ? weight_of(number_at(work, index), maximum) : 0.0;
}

// A warp's work: lane i gets the sum of leaf i.
template <class W>
HARS_DEVICE double leaf_of_lane(const W &work, int block, float maximum) {
  const int lane = thread_index() & 31;
  double own = 0.0;
  for (int leaf = 0; leaf < LEAF; ++leaf) {
    const double sum = warp_sum_in_order(weight_at(work, block * WEIGHT_BLOCK + leaf * LEAF + lane, maximum));
    own = leaf == lane ? sum : own;
  }
  return own;
}

HARS_HOST_DEVICE int weight_blocks(int width) { return (width + WEIGHT_BLOCK - 1) / WEIGHT_BLOCK; }

// The sum of every block, for all threads of the block to see.
template <class W>
HARS_DEVICE void fill_block_sums(const W &work, float maximum, double *sums) {
  const int total = weight_blocks(work.p.width);
  for (int block = thread_index() / 32; block < total; block += W::Team::THREADS / 32) {
    const double sum = warp_sum_in_order(leaf_of_lane(work, block, maximum));
    if (thread_index() % 32 == 0) sums[block] = sum;
  }
  work.team.sync();
}

template <class W>
HARS_DEVICE double total_of_blocks(const W &work, const double *sums) {
  double total = sums[0];
  for (int block = 1; block < weight_blocks(work.p.width); ++block) total = add(total, sums[block]);
  return total;
}

// The first place where `before` plus the running sum exceeds the target; `before` becomes the sum before it. Sums by
// halving and one by one may differ in the last bit; where none exceeds it for that reason, the last that is not 0.
HARS_DEVICE int place_passing(const double *values, int count, double target, double &before) {
  int last = 0;
  double running = before, before_last = before;
  for (int i = 0; i < count; ++i) {
    if (values[i] != 0.0) {
      last = i;
      before_last = running;
    }
    const double next = add(running, values[i]);
    if (next > target) {
      before = running;
      return i;
    }
    running = next;
  }
  before = before_last;
  return last;
}

}  // namespace hars

#endif
