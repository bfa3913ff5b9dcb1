// The kernel of one quick TensorRT plugin (plugins/hars/tensorrt.py): one launch, a block for each row, no scratch memory.
// TensorRT passes the inputs, then whole numbers of 32 bits, then the outputs; a real number comes as its bits.
// A row with fewer than k numbers is left unwritten: TensorRT has no way to hear of it.
//
// HARS_ROUTER   0 softmax_topk, 1 router_topk
// HARS_TYPE     Float32, Float16 or Bfloat16: what the logits are
// HARS_BIAS     1 where there is a second input
// HARS_MORE     1 where there are statistics, or zero experts
// HARS_EDITED   1 where a bias or a temperature changes the logits
#if HARS_ROUTER
#include "router.cuh"
#else
#include "plan.cuh"
#include "softmax_topk.cuh"
#endif

#if HARS_BIAS
#define HARS_OFFSETS const float *bias,
#else
#define HARS_OFFSETS
#endif

#if HARS_ROUTER

#if HARS_MORE
#define HARS_IDENTITY , float *identity_weight
#else
#define HARS_IDENTITY
#endif

extern "C" HARS_KERNEL(32, 16) hars_router_topk_entry(const void *scores, HARS_OFFSETS int32_t experts, int32_t k,
                                                      int32_t scoring, int32_t renormalize, uint32_t scale,
                                                      int32_t zero_experts, int32_t scale_zero_experts, int32_t groups,
                                                      int32_t top_groups, float *weights,
                                                      int32_t *chosen HARS_IDENTITY) {
  using namespace hars;
  if (k < 1 || k > experts) return;
  RouterTopk p = {};
  p.scores = scores;
  p.weights = weights;
  p.chosen = chosen;
  p.chosen_is_int32 = 1;
#if HARS_BIAS
  p.bias = bias;
#endif
#if HARS_MORE
  p.identity_weight = identity_weight;
#endif
  p.rows = block_total();
  p.tokens_of_block = 1;
  p.experts = experts;
  p.k = k;
  p.scoring = scoring;
  p.renormalize = renormalize;
  p.scale = as_float(scale);
  p.zero_experts = zero_experts;
  p.scale_zero_experts = scale_zero_experts;
  p.groups = groups;
  p.top_groups = top_groups;
  router_topk_of_warp<HARS_TYPE>(p);
}

#else

#if HARS_BIAS
#define HARS_BIAS_ROWS int32_t bias_rows,
#else
#define HARS_BIAS_ROWS
#endif
#if HARS_MORE
#define HARS_STATISTICS , float *maximum, float *log_sum
#else
#define HARS_STATISTICS
#endif

extern "C" HARS_KERNEL(hars::BlockTeam::THREADS, 3)
    hars_softmax_topk_entry(const void *logits, HARS_OFFSETS int32_t width, int32_t k, int32_t mode, uint32_t scale,
                            HARS_BIAS_ROWS float *values, int32_t *indices HARS_STATISTICS) {
  using namespace hars;
  if (k < 1 || k > width) return;
  SoftmaxTopk p = {};
  p.logits = logits;
#if HARS_BIAS
  p.bias = bias;
  p.bias_rows = bias_rows;
#endif
  p.values = values;
  p.indices = indices;
  p.indices_are_int32 = 1;
#if HARS_MORE
  p.maximum = maximum;
  p.log_sum = log_sum;
#endif
  p.rows = block_total();
  p.row_stride = p.width = width;
  p.k = k;
  p.mode = mode;
  p.needs_sum = HARS_MORE || mode == LOGPROB || mode == PROB;
  p.scale = as_float(scale);
  p.splits = 1;
  p.stage = WHOLE;
  choose_selection(p, HARS_TYPE::VECTOR, BlockTeam::THREADS);
  softmax_topk_of_block<HARS_TYPE, HARS_EDITED>(p);
}

#endif
