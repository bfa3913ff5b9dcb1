// Stands in for the kernels: prints what the plugin asks of them.
#include <cstdio>

#include "hars_cuda.h"

int32_t hars_cuda_abi_version() { return HARS_CUDA_ABI_VERSION; }

// Fewer rows need more, as they do where long rows are cut into pieces. What is asked about must be a whole request.
int64_t hars_cuda_softmax_topk_scratch(const hars_cuda_softmax_topk_request *r) {
  if (r->logits == nullptr || r->values == nullptr || r->indices == nullptr) return -1;
  const int64_t more = (r->bias != nullptr ? 10000 : 0) + (r->log_sum != nullptr ? 20000 : 0);
  return more + (r->rows < 3 ? 5000 - r->rows : 100 + r->rows);
}

int32_t hars_cuda_softmax_topk(const hars_cuda_softmax_topk_request *r, void *scratch, int64_t bytes, void *) {
  printf("softmax_topk logits=%p dtype=%d mode=%d rows=%ld width=%ld stride=%ld k=%ld ", r->logits, r->dtype, r->mode,
         static_cast<long>(r->rows), static_cast<long>(r->width), static_cast<long>(r->row_stride),
         static_cast<long>(r->k));
  printf("bias=%p bias_rows=%ld temperature=%g values=%p indices=%p int32=%d maximum=%p log_sum=%p scratch=%p,%ld\n",
         static_cast<const void *>(r->bias), static_cast<long>(r->bias_rows), static_cast<double>(r->temperature),
         static_cast<void *>(r->values), r->indices, r->indices_are_int32, static_cast<void *>(r->maximum),
         static_cast<void *>(r->log_sum), scratch, static_cast<long>(bytes));
  return 0;
}

int32_t hars_cuda_router_topk(const hars_cuda_router_topk_request *r, void *) {
  printf("router_topk scores=%p dtype=%d scoring=%d rows=%ld experts=%ld k=%ld bias=%p groups=%ld top_groups=%ld ",
         r->scores, r->dtype, r->scoring, static_cast<long>(r->rows), static_cast<long>(r->experts),
         static_cast<long>(r->k), static_cast<const void *>(r->bias), static_cast<long>(r->groups),
         static_cast<long>(r->top_groups));
  printf("renormalize=%d scale=%g scale_zero_experts=%d zero_experts=%ld weights=%p chosen=%p int32=%d identity=%p\n",
         r->renormalize, static_cast<double>(r->scale), r->scale_zero_experts, static_cast<long>(r->zero_experts),
         static_cast<void *>(r->weights), r->chosen, r->chosen_is_int32, static_cast<void *>(r->identity_weight));
  return 0;
}
