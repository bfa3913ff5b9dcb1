// How the top k of a row are found, and how large the buffers for it are.
#ifndef GRAPHWRIGHT_HARS_PLAN_CUH
#define GRAPHWRIGHT_HARS_PLAN_CUH

#include "layout.cuh"

namespace hars {

// With more, groups give more candidates than the buffer holds.
constexpr int MAX_GROUPS_K = 1024;

// Groups that hold an element: all but some of the last chain.
HARS_HOST_DEVICE int groups_of(int width, int vector, int threads) {
  const Layout layout = layout_of(width, vector, threads);
  const int left = layout.vectors - layout.first_tile(layout.chains - 1) * TILE_VECTORS * threads;
  return (layout.chains - 1) * threads + (left < threads ? left : threads);
}

HARS_HOST_DEVICE int power_of_two(int n) {
  int power = 2;
  while (power < n) power *= 2;
  return power;
}

// Follows from width and k alone, so that a row's result does not depend on the number of rows. (Nor would it depend on
// the choice made here: that decides how much work there is, and no bit.)
HARS_HOST_DEVICE void choose_selection(SoftmaxTopk &p, int vector, int threads) {
  const bool is_warp = threads == WarpTeam::THREADS;
  const int fits = is_warp ? 512 : 1024;
  const bool has_groups = 2 * static_cast<int64_t>(p.k) <= groups_of(p.width, vector, threads) && p.k <= MAX_GROUPS_K;
  p.winners = 0;
  if (p.width <= most_to_count(threads) || (p.width <= fits && !has_groups)) {
    p.selection = FROM_EVERYTHING;
    p.candidates = power_of_two(p.width);
  } else if (has_groups) {
    p.selection = FROM_GROUPS;
    p.winners = p.k + larger_of(p.k / 2, 32) + threads;  // at least k + threads: see threshold_between
    p.candidates = is_warp ? power_of_two(larger_of(4 * p.k, 256)) : (p.k <= 256 ? 1024 : 2048);
  } else {
    p.selection = IN_CHUNKS;
    p.candidates = 2048;
  }
}

}  // namespace hars

#endif
