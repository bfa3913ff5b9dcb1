// One step of beam search, after each beam's list of best tokens: the best continuations of a batch item.
//
// Every list is in order, so an element's place among all is its place in its own list plus, for each other list, how
// many precede it there, which a binary search tells. A thread for each element; no sorting, no shared memory, and
// scores of different batch items never meet. (LightSeq, arXiv 2010.13887, sorts a whole batch at once, with an offset
// in the scores that costs them their last bits.)
#ifndef GRAPHWRIGHT_HARS_BEAM_CUH
#define GRAPHWRIGHT_HARS_BEAM_CUH

#include "block.cuh"

namespace hars {

constexpr int BEAM_THREADS = 256;

struct BeamMerge {
  const float *values, *scores;
  const void *indices;
  float *best_scores;
  int64_t *best_beams, *best_tokens;
  int64_t elements;  // of all batch items
  int beams, listed, keep, indices_are_int32;
};

HARS_DEVICE float continued_score(const BeamMerge &p, int64_t item, int beam, int place) {
  const float score = p.scores[item * p.beams + beam];
  // A beam that has not started gives no continuation, whatever its logits are.
  if (score < 0.0f && fabsf(score) > 3.4028234e38f) return score;
  return add(score, p.values[(item * p.beams + beam) * p.listed + place]);
}

// Larger is earlier: by score, then by beam, then by place in the list.
HARS_DEVICE uint64_t continuation_key(const BeamMerge &p, int64_t item, int beam, int place) {
  const auto position = static_cast<uint32_t>(beam * p.listed + place);
  return element_key(ordered_key(continued_score(p, item, beam, place)), position);
}

HARS_DEVICE int preceding_in_list(const BeamMerge &p, int64_t item, int beam, uint64_t own) {
  // Plus infinity and minus infinity make NaN, which is out of the list's order.
  if (p.scores[item * p.beams + beam] > 3.4028234e38f) {
    int precede = 0;
    for (int place = 0; place < p.listed; ++place) precede += continuation_key(p, item, beam, place) > own;
    return precede;
  }
  int low = 0, high = p.listed;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (continuation_key(p, item, beam, middle) > own)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

HARS_DEVICE void merge_one(const BeamMerge &p) {
  const int64_t element = block_index() * BEAM_THREADS + thread_index();
  if (element >= p.elements) return;
  const int of_item = p.beams * p.listed;
  const int64_t item = element / of_item;
  const int position = static_cast<int>(element % of_item);
  const int beam = position / p.listed, place = position % p.listed;
  const uint64_t own = continuation_key(p, item, beam, place);
  int precede = 0;
  for (int other = 0; other < p.beams && precede < p.keep; ++other) precede += preceding_in_list(p, item, other, own);
  if (precede >= p.keep) return;
  const int64_t at = item * p.keep + precede;
  p.best_scores[at] = continued_score(p, item, beam, place);
  p.best_beams[at] = beam;
  p.best_tokens[at] = p.indices_are_int32 ? static_cast<const int32_t *>(p.indices)[element]
                                          : static_cast<const int64_t *>(p.indices)[element];
}

}  // namespace hars

#endif
