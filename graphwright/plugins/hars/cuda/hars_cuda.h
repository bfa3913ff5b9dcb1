// The C interface of the HARS kernels for CUDA. What the operators mean: graphwright/plugins/hars/meaning.py.
// Pointers are device pointers, arrays contiguous. Every call only enqueues on the stream: no allocation, no wait, no
// copy to the host, so it can be captured in a CUDA graph. Scratch memory is the caller's and needs no initial value.
#ifndef GRAPHWRIGHT_HARS_CUDA_H
#define GRAPHWRIGHT_HARS_CUDA_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HARS_API __attribute__((visibility("default")))
#define HARS_CUDA_ABI_VERSION 1

// The numbers of hars.h. width is at most 2^31 - 2^15.
struct hars_cuda_softmax_topk_request {
  const void *logits;  // [rows, width] of dtype; row r starts row_stride elements after row r - 1
  int32_t dtype;       // 0 float32, 1 float16, 2 bfloat16
  int32_t mode;        // 0 logit, 1 logprob, 2 prob, 3 prob_renorm
  int64_t rows, width, row_stride;
  int64_t k;                  // 1 <= k <= width
  const float *bias;          // null, or rows of width numbers
  int64_t bias_rows;          // row r takes row r % bias_rows of bias
  float temperature;          // > 0, finite
  float *values;              // [rows, k]
  void *indices;              // [rows, k]
  int32_t indices_are_int32;  // else int64
  float *maximum;             // [rows] or null
  float *log_sum;             // [rows] or null
};

// How a call divides the work. HARS_CUDA_AUTO chooses by the sizes; the others are there for tests and measurements.
// All ways give the same values and indices, and all but the first the same bits of log_sum.
enum hars_cuda_way {
  HARS_CUDA_AUTO = 0,
  HARS_CUDA_WARP = 1,         // a warp for each row; only where k is small, see -1 below
  HARS_CUDA_ROW = 2,          // a block for each row
  HARS_CUDA_CLUSTER = 3,      // a cluster of `splits` blocks for each row; compute capability 9.0 or later
  HARS_CUDA_TWO_KERNELS = 4,  // `splits` blocks for each row and a second kernel that merges, through scratch
};

#define HARS_CUDA_MAX_EXPERTS 6144  // more are a bad request: their keys would not fit into shared memory

struct hars_cuda_router_topk_request {
  const void *scores;  // [rows, experts] of dtype
  int32_t dtype;
  int32_t scoring;  // 0 softmax, 1 sigmoid
  int64_t rows, experts, k;
  const float *bias;  // null or [experts]
  int64_t groups, top_groups;
  int32_t renormalize, scale_zero_experts;
  float scale;
  int64_t zero_experts;
  float *weights;          // [rows, k]
  void *chosen;            // [rows, k]; -1 for an identity expert
  int32_t chosen_is_int32;
  float *identity_weight;  // [rows] or null
};

HARS_API int32_t hars_cuda_abi_version(void);

// Bytes of scratch that a call with these sizes needs on the current device; negative: a bad request.
HARS_API int64_t hars_cuda_softmax_topk_scratch(const struct hars_cuda_softmax_topk_request *request);

// 0, or a cudaError_t, or -1 for a bad request. `stream` is a cudaStream_t.
HARS_API int32_t hars_cuda_softmax_topk(const struct hars_cuda_softmax_topk_request *request, void *scratch,
                                        int64_t scratch_bytes, void *stream);

// The same with the way chosen by the caller; splits <= 0: chosen by the sizes. -1 where this way cannot serve the
// request.
HARS_API int64_t hars_cuda_softmax_topk_scratch_by(const struct hars_cuda_softmax_topk_request *request, int32_t way,
                                                   int32_t splits);
HARS_API int32_t hars_cuda_softmax_topk_by(const struct hars_cuda_softmax_topk_request *request, int32_t way,
                                           int32_t splits, void *scratch, int64_t scratch_bytes, void *stream);

HARS_API int32_t hars_cuda_router_topk(const struct hars_cuda_router_topk_request *request, void *stream);

// What follows is graphwright/plugins/hars/search: what it computes, to the order of equal scores and of additions, is
// in its __init__.py.

// The best continuations of each batch item, from the lists of its beams: softmax_topk (mode logprob) of the logits
// with k = min(keep, width). Longer lists are fine; shorter ones lose continuations.
struct hars_cuda_beam_merge_request {
  const float *values;  // [batch * beams, listed]
  const void *indices;  // [batch * beams, listed]
  int32_t indices_are_int32;
  int64_t batch, beams, listed, keep;  // 1 <= keep <= beams * listed < 2^31
  const float *scores;                 // [batch, beams]
  float *best_scores;                  // [batch, keep]
  int64_t *best_beams, *best_tokens;   // [batch, keep]
};

HARS_API int32_t hars_cuda_beam_merge(const struct hars_cuda_beam_merge_request *request, void *stream);

#define HARS_CUDA_MAX_SAMPLED_WIDTH 4194304

struct hars_cuda_sample_request {
  const void *logits;  // [rows, width] of dtype; row r starts row_stride elements after row r - 1
  int32_t dtype;
  int64_t rows, width, row_stride;  // width <= HARS_CUDA_MAX_SAMPLED_WIDTH
  const float *bias;
  int64_t bias_rows;
  float temperature;
  int64_t top_k;        // 0, or width or more: all
  double top_p, min_p;  // in [0, 1]; 1 and 0: all
  const uint64_t *seeds, *offsets, *row_numbers;  // [rows] each
  int64_t *tokens;                                // [rows]
  float *logprobs;                                // [rows]
};

HARS_API int64_t hars_cuda_sample_scratch(const struct hars_cuda_sample_request *request);

HARS_API int32_t hars_cuda_sample(const struct hars_cuda_sample_request *request, void *scratch,
                                  int64_t scratch_bytes, void *stream);

#ifdef __cplusplus
}
#endif

#endif
