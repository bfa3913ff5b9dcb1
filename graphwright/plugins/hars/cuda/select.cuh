// Phases 2 and 3: a threshold from the groups' maxima, then the candidates out of the groups that reach it.
//
// The k groups with the largest maxima hold the top k: were a top-k element in another group, k elements (those
// maxima) would precede it. So any threshold that at least k group maxima reach keeps all of the top k; which one is
// chosen only decides how many candidates there are. (Delegates: Dr. Top-k, SC'21, arXiv 2109.08219; retrieve and
// re-rank: LightSeq, arXiv 2010.13887.) Among equal maxima the earlier chain goes first: every index of it is lower.
// Buffers never overflow: if more would come than fit, the threshold is raised until at least k and at most that many
// are left, which is always possible since no two elements have equal keys.
#ifndef GRAPHWRIGHT_HARS_SELECT_CUH
#define GRAPHWRIGHT_HARS_SELECT_CUH

#include "statistics.cuh"

namespace hars {

// Which keys pass: key >= threshold, where a key is (ordered value, ~position).
// Given that more than `most` pass low << 32 and fewer than `least` pass high << 32; count(t) says how many pass t.
// Positions are below `positions`; one step in position lets at most most - least more through.
template <class Count>
HARS_DEVICE uint64_t threshold_between(Count count, uint64_t low, uint64_t high, int positions, int least, int most) {
  int few = -1, many = positions - 1;
  for (;;) {
    // In the end so many may be equal to `low` that their positions decide.
    const bool by_value = high - low > 1;
    const int position = few + (many - few) / 2;
    const uint64_t value = low + (high - low) / 2;
    if (!by_value && many - few <= 1) return element_key(static_cast<uint32_t>(low), static_cast<uint32_t>(many));
    const uint64_t threshold =
        by_value ? value << 32 : element_key(static_cast<uint32_t>(low), static_cast<uint32_t>(position));
    const int passed = count(threshold);
    if (passed >= least && passed <= most) return threshold;
    if (by_value)
      (passed > most ? low : high) = value;
    else
      (passed > most ? many : few) = position;
  }
}

// A value that at least k threads' own maxima reach: one number for each thread, so a step costs one barrier.
template <class Team>
HARS_DEVICE uint32_t threshold_of_threads(const Team &team, uint32_t own, uint32_t largest, int k) {
  const int enough = k + larger_of(8, k / 4);
  uint64_t low = team.min(own), high = static_cast<uint64_t>(largest) + 1;
  while (high - low > 1) {
    const uint64_t middle = low + (high - low) / 2;
    const int reach = team.count(own >= static_cast<uint32_t>(middle));
    (reach >= k ? low : high) = middle;
    if (reach >= k && reach <= enough) break;
  }
  return static_cast<uint32_t>(low);
}

template <class W>
HARS_DEVICE uint64_t group_key(const W &work, int chain) {
  const uint32_t key = work.shared.keys[chain * W::Team::THREADS + work.team.rank()];
  return element_key(key, static_cast<uint32_t>(chain));
}

template <class W>
HARS_DEVICE int count_groups(const W &work, uint64_t threshold) {
  int passed = 0;
  for (int chain = 0; chain < work.layout.chains; ++chain) passed += group_key(work, chain) >= threshold;
  return work.team.sum(passed);
}

// The winners' numbers go to shared.winners; returns how many, and the least maximum among them through `least`.
template <class W>
HARS_DEVICE int choose_groups(const W &work, uint32_t own, uint32_t largest, uint32_t &least) {
  constexpr int THREADS = W::Team::THREADS;
  const int k = work.p.k;
  // With k above half the threads, the groups themselves: 1 is below every key but that of an empty group.
  const uint32_t low = 2 * k <= THREADS ? threshold_of_threads(work.team, own, largest, k) : 1u;
  uint64_t threshold = static_cast<uint64_t>((low > 0 ? low : 1u)) << 32;
  const auto count = [&](uint64_t t) { return count_groups(work, t); };
  if (count(threshold) > work.p.winners) {
    threshold = threshold_between(count, threshold >> 32, static_cast<uint64_t>(largest) + 1, work.layout.chains, k,
                                  work.p.winners);
  }
  if (work.team.rank() == 0) *work.shared.counter = 0;
  work.team.sync();
  for (int chain = 0; chain < work.layout.chains; ++chain) {
    const int group = chain * THREADS + work.team.rank();
    if (group_key(work, chain) >= threshold)
      work.shared.winners[shared_add(work.shared.counter, 1)] = static_cast<uint16_t>(group);
  }
  work.team.sync();
  least = static_cast<uint32_t>(threshold >> 32);
  return static_cast<int>(*work.shared.counter);
}

template <class W, class Visit>
HARS_DEVICE void visit_groups(const W &work, int winners, Visit visit) {
  constexpr int THREADS = W::Team::THREADS;
  const int of_group = work.layout.most_tiles() * TILE_VECTORS;
  for (int i = work.team.rank(); i < winners * of_group; i += THREADS) {
    const int group = work.shared.winners[i / of_group];
    const int chain = group / THREADS, place = i % of_group;
    const int tile = work.layout.first_tile(chain) + place / TILE_VECTORS;
    const int vector = (tile * TILE_VECTORS + place % TILE_VECTORS) * THREADS + group % THREADS;
    if (tile < work.layout.first_tile(chain + 1) && vector * W::Type::VECTOR < work.p.width)
      visit_vector(work, vector, visit);
  }
}

// Puts the visited elements that `passes` lets through into shared.candidates; returns how many there are, which may
// be more than fit. All threads have read shared.counter before.
template <class W, class VisitAll, class Passes>
HARS_DEVICE int collect(const W &work, VisitAll visit_all, Passes passes) {
  work.team.sync();
  if (work.team.rank() == 0) *work.shared.counter = 0;
  work.team.sync();
  const uint32_t capacity = static_cast<uint32_t>(work.p.candidates);
  visit_all([&](uint64_t element) {
    if (!passes(element)) return;
    const uint32_t slot = shared_add(work.shared.counter, 1);
    if (slot < capacity) work.shared.candidates[slot] = element;
  });
  work.team.sync();
  return static_cast<int>(*work.shared.counter);
}

template <class W, class VisitAll>
HARS_DEVICE int collect_at_most(const W &work, VisitAll visit_all, uint32_t least, uint32_t largest) {
  uint64_t threshold = static_cast<uint64_t>(least) << 32;
  for (;;) {
    const int found = collect(work, visit_all, [&](uint64_t element) { return element >= threshold; });
    if (found <= work.p.candidates) return found;
    const auto count = [&](uint64_t t) {
      int passed = 0;
      visit_all([&](uint64_t element) { passed += element >= t; });
      return work.team.sum(passed);
    };
    threshold = threshold_between(count, least, static_cast<uint64_t>(largest) + 1, work.p.width, work.p.k,
                                  work.p.candidates);
  }
}

template <class W>
HARS_DEVICE int find_candidates(const W &work, uint32_t own, uint32_t largest) {
  if (work.p.selection == FROM_EVERYTHING) {
    return collect(work, [&](auto visit) { visit_row(work, visit); }, [](uint64_t) { return true; });
  }
  uint32_t least;
  const int winners = choose_groups(work, own, largest, least);
  return collect_at_most(work, [&](auto visit) { visit_groups(work, winners, visit); }, least, largest);
}

}  // namespace hars

#endif
