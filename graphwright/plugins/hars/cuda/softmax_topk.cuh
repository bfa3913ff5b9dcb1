// Exact softmax + top-k of rows of logits, with one read of them: retrieve by group maxima, then re-rank.
//
//   1  stream.cuh      every group's maximum, and its sum of exponentials where the normaliser is wanted
//      statistics.cuh  the row's maximum and log-sum from those
//   2  select.cuh      a threshold that at least k group maxima reach
//   3  select.cuh      the elements that reach it, read again from the few groups that can hold any
//   4  finish.cuh      their order, and the output
//      chunks.cuh      instead of 2 to 4 where k is too large for groups
//
// Sources: LightSeq (arXiv 2010.13887) for retrieve and re-rank; Dr. Top-k (SC'21, arXiv 2109.08219) for the k groups
// with the largest maxima in place of LightSeq's loosest threshold; online softmax (arXiv 1805.02867).
#ifndef GRAPHWRIGHT_HARS_SOFTMAX_TOPK_CUH
#define GRAPHWRIGHT_HARS_SOFTMAX_TOPK_CUH

#include "chunks.cuh"

namespace hars {

constexpr int ROWS_OF_WARP_BLOCK = 4;

// Phases 2 to 4, from the groups' keys and sums in shared memory. No barrier first: until the first one in here each
// thread reads only its own groups, which are what it has written (or, of a cluster, waited for).
template <class W>
HARS_DEVICE void select_and_write(const W &work) {
  uint32_t own = 0;
  for (int chain = 0; chain < work.layout.chains; ++chain) {
    const uint32_t key = work.shared.keys[chain * W::Team::THREADS + work.team.rank()];
    own = key > own ? key : own;
  }
  const uint32_t largest = work.team.max(own);
  const Statistics row = statistics_of(work, number_of_key(largest));
  write_statistics(work, row);
  if constexpr (W::Team::THREADS == BINS) {
    if (work.p.selection == IN_CHUNKS) {
      write_in_chunks(work, row);
      return;
    }
  }
  const int found = find_candidates(work, own, largest);
  write_sorted(work, in_order(work, found, work.p.k), row);
}

// A warp for each row of at most 4096.
template <class Type, bool EDITED>
HARS_DEVICE void softmax_topk_of_warp(const SoftmaxTopk &p) {
  using W = Work<WarpTeam, Type, EDITED>;
  const int warp = thread_index() / 32;
  const int64_t row = block_index() * ROWS_OF_WARP_BLOCK + warp;
  if (row >= p.rows) return;
  const int bytes = shared_plan(p, Type::VECTOR, 32).total_bytes;
  const W work = work_on<W>(p, row, shared_memory() + warp * bytes);
  stream(work, 0, work.layout.chains, work.shared.keys, work.shared.sums, [] {});
  select_and_write(work);
}

// What several blocks found, from memory into this block's shared memory.
template <class W>
HARS_DEVICE void fetch_groups(const W &work) {
  const int groups = work.layout.chains * W::Team::THREADS;
  const int64_t first = work.row_number * groups;
  for (int i = work.team.rank(); i < groups; i += W::Team::THREADS) {
    work.shared.keys[i] = work.p.group_keys[first + i];
    if (work.p.needs_sum) work.shared.sums[i] = work.p.group_sums[first + i];
  }
}

// A block's share of a row, left where the block that selects will find it. Returns whether this one selects.
template <class W>
HARS_DEVICE bool read_share(const W &work, int part) {
  const SoftmaxTopk &p = work.p;
  uint32_t *keys = work.shared.keys;
  float *sums = work.shared.sums;
  if (p.stage == PARTIAL) {
    const int64_t first = work.row_number * work.layout.chains * W::Team::THREADS;
    keys = p.group_keys + first;
    sums = p.group_sums + first;
  } else if (p.stage == CLUSTER) {
    cluster_announce();
    keys = in_block_of_cluster(keys, 0);
    sums = in_block_of_cluster(sums, 0);
  }
  const int begin = part * work.layout.chains / p.splits, end = (part + 1) * work.layout.chains / p.splits;
  stream(work, begin, end, keys, sums, [&] {
    // The first block must be there before others write into its memory.
    if (p.stage == CLUSTER) cluster_wait();
  });
  if (p.stage != CLUSTER) return p.stage == WHOLE;
  cluster_arrive();
  if (part != 0) return false;
  cluster_wait();
  return true;
}

// A block, or several, for each row.
template <class Type, bool EDITED>
HARS_DEVICE void softmax_topk_of_block(const SoftmaxTopk &p) {
  using W = Work<BlockTeam, Type, EDITED>;
  const W work = work_on<W>(p, block_index() / p.splits, shared_memory());
  if (p.stage == MERGE)
    fetch_groups(work);
  else if (!read_share(work, static_cast<int>(block_index() % p.splits)))
    return;
  select_and_write(work);
}

}  // namespace hars

#endif
