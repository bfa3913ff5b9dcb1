// The C interface of the search functions for the CPU, in the library of hars.h. What they compute, to the order of
// equal scores and of additions: graphwright/plugins/hars/search/__init__.py. Arrays are contiguous.
#ifndef GRAPHWRIGHT_HARS_SEARCH_H
#define GRAPHWRIGHT_HARS_SEARCH_H

#include "hars.h"

#ifdef __cplusplus
extern "C" {
#endif

// The logits of every function: [rows, width] of dtype, with x = (logits + bias) / temperature.
struct hars_search_rows {
  const void *logits;
  int32_t dtype;  // hars_dtype
  int64_t rows, width;
  const float *bias;        // null, or rows of width numbers
  const int64_t *bias_row;  // which row of bias each row takes; null: all take row 0
  float temperature;        // > 0, finite
};

// rows = batch * beams; groups divides beams; 1 <= keep <= beams / groups * width.
struct hars_beam_step_request {
  struct hars_search_rows rows;
  int64_t beams, groups, keep;
  const float *scores;        // [batch, beams]
  float penalty;              // >= 0, finite; what a token loses for each time that an earlier group chose it
  const int64_t *end_tokens;  // [ends]; null where there are none
  int64_t ends;
  float *best_scores;    // [batch, groups, keep]
  int64_t *best_beams;   // [batch, groups, keep], 0 to beams - 1
  int64_t *best_tokens;  // [batch, groups, keep]
};

struct hars_edited_topk_request {
  struct hars_search_rows rows;
  int64_t k;              // 1 <= k <= width
  int64_t edits;          // how many changes a row has
  const int64_t *tokens;  // [rows, edits]; -1 for none
  const float *changes;   // [rows, edits]
  float *values;          // [rows, k]
  int64_t *indices;       // [rows, k]
};

struct hars_sample_request {
  struct hars_search_rows rows;
  int64_t top_k;                // 0: all
  double top_p, min_p;          // in [0, 1]; 1 and 0: all
  const uint64_t *seeds;        // [rows], and so the next two
  const uint64_t *offsets;
  const uint64_t *row_numbers;
  int64_t *tokens;              // [rows]
  float *logprobs;              // [rows]
};

HARS_API int32_t hars_beam_step(const struct hars_beam_step_request *request, const struct hars_workers *workers);

HARS_API int32_t hars_edited_topk(const struct hars_edited_topk_request *request, const struct hars_workers *workers);

HARS_API int32_t hars_sample(const struct hars_sample_request *request, const struct hars_workers *workers);

// For tests: the weights exp(x - maximum) of the 1024 numbers of one block, the sums of its 32 leaves, and their sum.
HARS_API int32_t hars_weights(int32_t isa, const float *x, float maximum, double *weights, double *leaves,
                              double *total);

#ifdef __cplusplus
}
#endif

#endif
