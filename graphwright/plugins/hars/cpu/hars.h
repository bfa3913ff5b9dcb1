// The C interface of the HARS kernels for the CPU. What the operators mean: graphwright/plugins/hars/meaning.py.
// Every array is contiguous. No function allocates through the caller, throws, or keeps a pointer after it returns.
#ifndef GRAPHWRIGHT_HARS_H
#define GRAPHWRIGHT_HARS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HARS_API __attribute__((visibility("default")))

// Rises with every change of this file that an older caller would not survive.
#define HARS_ABI_VERSION 1

enum hars_dtype { HARS_FLOAT32 = 0, HARS_FLOAT16 = 1, HARS_BFLOAT16 = 2 };
enum hars_isa { HARS_AUTO = 0, HARS_SCALAR = 1, HARS_AVX2 = 2, HARS_AVX512 = 3 };
enum hars_mode { HARS_LOGIT = 0, HARS_LOGPROB = 1, HARS_PROB = 2, HARS_PROB_RENORM = 3 };
enum hars_scoring { HARS_SOFTMAX = 0, HARS_SIGMOID = 1 };
enum hars_status { HARS_OK = 0, HARS_BAD_REQUEST = 1, HARS_NO_SUCH_ISA = 2, HARS_NO_MEMORY = 3 };

// Runs task(data, i) for i in [0, count), in any order, maybe at once; returns when all are done.
typedef void (*hars_task)(void *data, int64_t index);
typedef void (*hars_parallel_for)(void *pool, hars_task task, void *data, int64_t count);

// Who does the work: a thread pool of the caller's (run_all not null), else `threads` threads of the library's own pool.
struct hars_workers {
  int32_t isa;      // hars_isa
  int32_t threads;  // how many the pool has; 1 = the calling thread alone
  hars_parallel_for run_all;
  void *pool;
};

struct hars_softmax_topk_request {
  const void *logits;  // [outer, width, inner] of dtype; a row is the width numbers of one (outer, inner)
  int32_t dtype;       // hars_dtype
  int32_t mode;        // hars_mode
  int64_t outer, width, inner;
  int64_t k;               // 1 <= k <= width
  const float *bias;       // null, or rows of width numbers
  const int64_t *bias_row; // which row of bias each of the outer * inner rows takes; null: all take row 0
  float temperature;       // > 0, finite
  float *values;           // [outer, k, inner]
  int64_t *indices;        // [outer, k, inner]
  float *maximum;          // [outer, inner] or null
  float *log_sum;          // [outer, inner] or null; one of the two alone is fine
};

struct hars_router_topk_request {
  const void *scores;  // [rows, experts] of dtype
  int32_t dtype;
  int32_t scoring;  // hars_scoring
  int64_t rows, experts, k;
  const float *bias;  // null or [experts]
  int64_t groups, top_groups;
  int32_t renormalize, scale_zero_experts;
  float scale;
  int64_t zero_experts;
  float *weights;          // [rows, k]
  int64_t *chosen;         // [rows, k]; -1 for an identity expert
  float *identity_weight;  // [rows] or null
};

HARS_API int32_t hars_abi_version(void);

// The best instruction set of this processor that the library was built for: a hars_isa, never HARS_AUTO.
HARS_API int32_t hars_best_isa(void);

// Whether this processor and this build have an instruction set.
HARS_API int32_t hars_has_isa(int32_t isa);

HARS_API int32_t hars_softmax_topk(const struct hars_softmax_topk_request *request, const struct hars_workers *workers);

HARS_API int32_t hars_router_topk(const struct hars_router_topk_request *request, const struct hars_workers *workers);

#ifdef __cplusplus
}
#endif

#endif
