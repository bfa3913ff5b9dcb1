// One row's softmax and top-k, cut into the steps that need the processor's vectors. One table of steps per
// instruction set; plan.cpp chooses the blocks, softmax_topk.cpp calls the steps in order.
#ifndef GRAPHWRIGHT_HARS_ROW_H
#define GRAPHWRIGHT_HARS_ROW_H

#include <stdint.h>

namespace hars {

// The numbers of one row: x[i] = (float32(logits[i]) + bias[i]) * scale, each step rounded to float32.
struct Row {
  const void *logits;
  const float *bias;  // or null
  float scale;
  int32_t dtype;
  int64_t width;
};

// How a row is cut: contiguous blocks of `block` numbers, the last one maybe shorter. A function of width and k alone,
// never of the batch or the threads, because the sums follow the blocks.
struct Blocks {
  int64_t block;
  int64_t count;
};

// Room in a buffer for k keys: retrieve() collects up to twice as many and a block more before it drops the worst, and
// keys are read in vectors past the last.
constexpr int64_t kLargestBlock = 1024;
constexpr int64_t kSpareKeys = 64 + kLargestBlock + 16;

constexpr int64_t kSparePowers = 16;

struct Range {
  float least, most;
};

// Rows as short as this are ranked several at once, each in a lane of its own.
constexpr int64_t kTogetherWidth = 64, kTogetherK = 8, kMostLanes = 16;

// What is found of them: the best numbers of each row, where they stand, exp(best[j] - best[0]), and the sum of
// exp(x - best[0]) over the row.
struct Together {
  float best[kTogetherK][kMostLanes], places[kTogetherK][kMostLanes], powers[kTogetherK][kMostLanes];
  float sums[kMostLanes];
};

struct RowSteps {
  // For the blocks [first, last): their maxima, NaN left out and -inf where nothing is left; unless sums is null, also
  // what combine() needs. Returns whether a NaN was met; the sums then mean nothing.
  bool (*summarize)(const Row &row, Blocks blocks, int64_t first, int64_t last, float *maxima, float *sums);

  // The sum of exp(x - maximum) over the row; maximum is finite and the largest of maxima.
  double (*combine)(const float *maxima, const float *sums, int64_t count, float maximum);

  // The k largest of the row as keys, best first; k <= blocks.count, and no number of the row is NaN.
  // keys and spare have room for 2 * k + kSpareKeys each, here and below.
  void (*retrieve)(const Row &row, Blocks blocks, const float *maxima, int64_t k, int64_t *keys, int64_t *spare);

  // The k largest of plain numbers, none of them NaN.
  void (*largest)(const float *values, int64_t count, int64_t k, int64_t *keys, int64_t *spare);

  // x as plain numbers; returns whether one is NaN.
  bool (*widen)(const Row &row, float *values);

  // The smallest and the largest of plain numbers, none of them NaN.
  Range (*range)(const float *values, int64_t count);

  // powers[i] = exp(values[i] - reference), taken at -87 where the difference is less; returns their sum. reference is
  // at least the largest value and finite. powers has room for count + kSparePowers.
  float (*exps)(const float *values, int64_t count, float reference, float *powers);

  // Ranks `lanes` rows of `width` numbers that lie one behind the other; powers and sums mean nothing for a row whose
  // best is infinite, and sums are made only where asked for. Returns a bit for each row without a NaN; the others'
  // results mean nothing.
  uint32_t (*rank_together)(const float *values, int64_t width, int64_t k, bool has_sums, Together *together);
  int64_t lanes;
};

const RowSteps *scalar_steps();
const RowSteps *avx2_steps();
const RowSteps *avx512_steps();

}  // namespace hars

#endif
