// How a row is divided, and what the kernel's arguments and shared memory are.
//
// A tile is four vectors of each thread. A chain is a run of tiles, a group what one thread reads of one chain; a row
// has at most 16 chains. All this follows from the row's width alone, never from the number of rows, so that a group's
// maximum and sum are the same bits however many blocks share a row.
#ifndef GRAPHWRIGHT_HARS_LAYOUT_CUH
#define GRAPHWRIGHT_HARS_LAYOUT_CUH

#include "rows.cuh"
#include "team.cuh"

namespace hars {

constexpr int TILE_VECTORS = 4;  // of each thread
constexpr int MAX_CHAINS = 16;

enum Mode { LOGIT = 0, LOGPROB = 1, PROB = 2, PROB_RENORM = 3 };
enum Selection {
  FROM_EVERYTHING = 0,  // the row fits into the buffer of candidates
  FROM_GROUPS = 1,      // the groups with the largest maxima hold the top k
  IN_CHUNKS = 2,        // k is large: several exact selections, each of as many as the buffer holds
};
enum Stage {
  WHOLE = 0,    // a block reads a row and selects
  CLUSTER = 1,  // the blocks of a cluster read a row, the first of them selects
  PARTIAL = 2,  // several blocks read a row and leave each group's maximum and sum in memory
  MERGE = 3,    // a block selects from what PARTIAL left
};

struct SoftmaxTopk {
  const void *logits;
  const float *bias;
  float *values;
  void *indices;
  float *maximum, *log_sum;
  uint32_t *group_keys;  // [rows, groups], from PARTIAL to MERGE
  float *group_sums;
  int64_t rows, row_stride, bias_rows;
  int width, k;
  int mode, selection, stage, splits;
  int candidates, winners;  // the buffers' sizes; `candidates` is a power of two
  int indices_are_int32, needs_sum;
  float scale;
};

struct Layout {
  int vectors, tiles, chains;
  int least_tiles, longer;  // of each chain; the first `longer` chains have one more

  HARS_HOST_DEVICE int first_tile(int chain) const { return chain * least_tiles + (chain < longer ? chain : longer); }
  HARS_HOST_DEVICE int most_tiles() const { return least_tiles + (longer > 0 ? 1 : 0); }
};

HARS_HOST_DEVICE Layout layout_of(int width, int vector, int threads) {
  Layout layout;
  layout.vectors = (width + vector - 1) / vector;
  const int per_tile = threads * TILE_VECTORS;
  layout.tiles = (layout.vectors + per_tile - 1) / per_tile;
  layout.chains = layout.tiles < MAX_CHAINS ? layout.tiles : MAX_CHAINS;
  layout.least_tiles = layout.tiles / layout.chains;
  layout.longer = layout.tiles - layout.least_tiles * layout.chains;
  return layout;
}

// Up to this many candidates are ordered by counting, for each, how many precede it.
HARS_HOST_DEVICE constexpr int most_to_count(int threads) { return threads < 64 ? 128 : 256; }

HARS_HOST_DEVICE int larger_of(int a, int b) { return a > b ? a : b; }
HARS_HOST_DEVICE int round_up_16(int bytes) { return (bytes + 15) & ~15; }

constexpr int CONTROL_BYTES = 128;  // scratch of the team, then the counter
constexpr int COUNTER_WORD = 24;
constexpr int BINS = 256;  // of IN_CHUNKS

// The offsets of the buffers of one team; two share memory where one is no longer needed when the other begins.
struct SharedPlan {
  int keys;        // each group's key; later the sorted elements
  int sums;        // each group's sum; later the candidates
  int winners;     // the numbers of the chosen groups; or the bins
  int total_bytes;
};

HARS_HOST_DEVICE SharedPlan shared_plan(const SoftmaxTopk &p, int vector, int threads) {
  const int groups = layout_of(p.width, vector, threads).chains * threads;
  const int counted = p.k < most_to_count(threads) ? p.k : most_to_count(threads);
  SharedPlan plan;
  plan.keys = CONTROL_BYTES;
  plan.sums = plan.keys + round_up_16(larger_of(groups * 4, counted * 8));
  plan.winners = plan.sums + round_up_16(larger_of(p.needs_sum ? groups * 4 : 0, p.candidates * 8));
  plan.total_bytes = plan.winners + round_up_16(p.selection == IN_CHUNKS ? BINS * 4 : p.winners * 2);
  return plan;
}

struct Shared {
  uint32_t *keys;
  float *sums;
  uint64_t *sorted, *candidates;
  uint16_t *winners;
  uint32_t *bins, *counter;
};

HARS_DEVICE Shared shared_at(unsigned char *pool, const SharedPlan &plan) {
  Shared shared;
  shared.counter = reinterpret_cast<uint32_t *>(pool) + COUNTER_WORD;
  shared.keys = reinterpret_cast<uint32_t *>(pool + plan.keys);
  shared.sorted = reinterpret_cast<uint64_t *>(pool + plan.keys);
  shared.sums = reinterpret_cast<float *>(pool + plan.sums);
  shared.candidates = reinterpret_cast<uint64_t *>(pool + plan.sums);
  shared.winners = reinterpret_cast<uint16_t *>(pool + plan.winners);
  shared.bins = reinterpret_cast<uint32_t *>(pool + plan.winners);
  return shared;
}

// One team's row: what all phases share.
template <class TeamType, class TypeOfLogits, bool IS_EDITED>
struct Work {
  using Team = TeamType;
  using Type = TypeOfLogits;
  static constexpr bool EDITED = IS_EDITED;
  const SoftmaxTopk &p;
  Team team;
  Layout layout;
  Shared shared;
  Row<Type> row;
  Edit edit;
  int64_t row_number;
};

template <class W>
HARS_DEVICE W work_on(const SoftmaxTopk &p, int64_t row_number, unsigned char *pool) {
  using Type = typename W::Type;
  constexpr int THREADS = W::Team::THREADS;
  W work{p, {reinterpret_cast<uint32_t *>(pool)}, layout_of(p.width, Type::VECTOR, THREADS),
         shared_at(pool, shared_plan(p, Type::VECTOR, THREADS)),
         row_at<Type>(p.logits, row_number * p.row_stride, p.width), {}, row_number};
  work.edit.scale = p.scale;
  work.edit.bias.begin = nullptr;
  if (W::EDITED && p.bias != nullptr)
    work.edit.bias = row_at<Float32>(p.bias, row_number % p.bias_rows * p.width, p.width);
  return work;
}

}  // namespace hars

#endif
