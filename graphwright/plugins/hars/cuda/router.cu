// The kernel of router.cuh and its C interface.
#include "router.cuh"

#include <cmath>

#include "hars_cuda.h"
#include "launch.cuh"

namespace hars {
namespace {

template <class Type>
HARS_KERNEL(32 * TOKENS_OF_BLOCK, 8) router_topk(HARS_ARGUMENTS RouterTopk p) {
  router_topk_of_warp<Type>(p);
}

using Request = hars_cuda_router_topk_request;

constexpr int64_t MAX_EXPERTS = HARS_CUDA_MAX_EXPERTS;
constexpr int MAX_SHARED_BYTES = 48 * 1024;

bool is_sound(const Request *r) {
  if (r == nullptr || r->dtype < 0 || r->dtype > 2 || r->scoring < SOFTMAX || r->scoring > SIGMOID) return false;
  if (r->rows < 0 || r->rows >= int64_t{1} << 31 || r->experts < 1 || r->experts > MAX_EXPERTS) return false;
  if (r->k < 1 || r->k > r->experts || r->zero_experts < 0 || r->zero_experts > r->experts) return false;
  if (r->groups < 1 || r->experts % r->groups != 0 || r->top_groups < 1 || r->top_groups > r->groups) return false;
  const int64_t of_group = r->experts / r->groups;
  if (r->groups > 1 && (of_group < 2 || r->top_groups * of_group < r->k)) return false;
  return r->rows == 0 || (r->scores != nullptr && r->weights != nullptr && r->chosen != nullptr);
}

RouterTopk arguments_of(const Request &r) {
  RouterTopk p = {};
  p.scores = r.scores;
  p.bias = r.bias;
  p.weights = r.weights;
  p.identity_weight = r.identity_weight;
  p.chosen = r.chosen;
  p.rows = r.rows;
  p.experts = static_cast<int>(r.experts);
  p.k = static_cast<int>(r.k);
  p.scoring = r.scoring;
  p.groups = static_cast<int>(r.groups);
  p.top_groups = static_cast<int>(r.top_groups);
  p.renormalize = r.renormalize;
  p.scale_zero_experts = r.scale_zero_experts;
  p.zero_experts = static_cast<int>(r.zero_experts);
  p.chosen_is_int32 = r.chosen_is_int32;
  p.scale = r.scale;
  return p;
}

}  // namespace
}  // namespace hars

extern "C" int32_t hars_cuda_router_topk(const hars_cuda_router_topk_request *request, void *stream) {
  using namespace hars;
  if (!is_sound(request)) return BAD_REQUEST;
  if (request->rows == 0) return 0;
  RouterTopk p = arguments_of(*request);
  const int of_token = (router_bytes(p.experts, p.groups) + 15) & ~15;
  p.tokens_of_block = of_token * TOKENS_OF_BLOCK <= MAX_SHARED_BYTES ? TOKENS_OF_BLOCK : 1;
  const int64_t blocks = (p.rows + p.tokens_of_block - 1) / p.tokens_of_block;
  const Grid grid = {blocks, 32 * p.tokens_of_block, 1, of_token * p.tokens_of_block};
  if (request->dtype == 0) return launch(router_topk<Float32>, grid, p, stream);
  if (request->dtype == 1) return launch(router_topk<Float16>, grid, p, stream);
  return launch(router_topk<Bfloat16>, grid, p, stream);
}
