// The threads that work on one row together: a warp, or a block of 8 warps. Both have the same functions, which all
// threads of the team call together. Sums of floats have one fixed order, so that they always give the same bits.
#ifndef GRAPHWRIGHT_HARS_TEAM_CUH
#define GRAPHWRIGHT_HARS_TEAM_CUH

#include "block.cuh"

namespace hars {

template <class Number>
HARS_DEVICE Number warp_sum_in_order(Number n) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) n += shuffle_xor(n, lanes);
  return n;
}

struct WarpTeam {
  static constexpr int THREADS = 32;
  static constexpr int SCRATCH_WORDS = 0;
  uint32_t *scratch;

  HARS_DEVICE int rank() const { return thread_index() & 31; }
  HARS_DEVICE void sync() const { warp_sync(); }
  HARS_DEVICE int count(bool yes) const { return count_bits(warp_ballot(yes)); }
  HARS_DEVICE int sum(int n) const { return static_cast<int>(warp_sum(static_cast<uint32_t>(n))); }
  HARS_DEVICE uint32_t max(uint32_t n) const { return warp_max(n); }
  HARS_DEVICE uint32_t min(uint32_t n) const { return warp_min(n); }
  template <class Number>
  HARS_DEVICE Number sum_in_order(Number n) const {
    return warp_sum_in_order(n);
  }
};

struct BlockTeam {
  static constexpr int WARPS = 8;
  static constexpr int THREADS = 32 * WARPS;
  static constexpr int SCRATCH_WORDS = 2 * WARPS;  // a double of each warp
  uint32_t *scratch;

  HARS_DEVICE int rank() const { return thread_index(); }
  HARS_DEVICE void sync() const { block_sync(); }
  HARS_DEVICE int count(bool yes) const { return block_count(yes); }
  HARS_DEVICE int sum(int n) const {
    const auto of_warp = warp_sum(static_cast<uint32_t>(n));
    return static_cast<int>(fold(of_warp, [](uint32_t a, uint32_t b) { return a + b; }));
  }
  HARS_DEVICE uint32_t max(uint32_t n) const {
    return fold(warp_max(n), [](uint32_t a, uint32_t b) { return a > b ? a : b; });
  }
  HARS_DEVICE uint32_t min(uint32_t n) const {
    return fold(warp_min(n), [](uint32_t a, uint32_t b) { return a < b ? a : b; });
  }
  template <class Number>
  HARS_DEVICE Number sum_in_order(Number n) const {
    return fold(warp_sum_in_order(n), [](Number a, Number b) { return a + b; });
  }

 private:
  template <class Number, class Fold>
  HARS_DEVICE Number fold(Number of_warp, Fold both) const {
    auto *warps = reinterpret_cast<Number *>(scratch);
    if (thread_index() % 32 == 0) warps[thread_index() / 32] = of_warp;
    sync();
    Number result = warps[0];
#pragma unroll
    for (int i = 1; i < WARPS; ++i) result = both(result, warps[i]);
    sync();  // the next call may write
    return result;
  }
};

}  // namespace hars

#endif
