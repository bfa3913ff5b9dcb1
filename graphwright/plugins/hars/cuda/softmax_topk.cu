// The kernels of softmax_topk.cuh, how a call chooses among them, and the C interface.
#include "softmax_topk.cuh"

#include <cmath>

#include "hars_cuda.h"
#include "launch.cuh"
#include "plan.cuh"

namespace hars {
namespace {

template <class Type, bool EDITED>
HARS_KERNEL(32 * ROWS_OF_WARP_BLOCK, EDITED ? 5 : 8) softmax_topk_warp(HARS_ARGUMENTS SoftmaxTopk p) {
  softmax_topk_of_warp<Type, EDITED>(p);
}

template <class Type, bool EDITED>
HARS_KERNEL(BlockTeam::THREADS, EDITED ? 3 : 4) softmax_topk_block(HARS_ARGUMENTS SoftmaxTopk p) {
  softmax_topk_of_block<Type, EDITED>(p);
}

using Request = hars_cuda_softmax_topk_request;
using Kernel = void (*)(SoftmaxTopk);

struct Kernels {
  Kernel warp, block;
  int vector;
  int number;  // for largest_cluster
};

template <class Type>
Kernels kernels_of(bool edited, int number) {
  if (edited) return {softmax_topk_warp<Type, true>, softmax_topk_block<Type, true>, Type::VECTOR, 2 * number + 1};
  return {softmax_topk_warp<Type, false>, softmax_topk_block<Type, false>, Type::VECTOR, 2 * number};
}

Kernels kernels_of(const Request &request) {
  const bool edited = request.bias != nullptr || request.temperature != 1.0f;
  if (request.dtype == 0) return kernels_of<Float32>(edited, 0);
  return request.dtype == 1 ? kernels_of<Float16>(edited, 1) : kernels_of<Bfloat16>(edited, 2);
}

constexpr int64_t LARGEST_WIDTH = (int64_t{1} << 31) - (1 << 15);  // room for the padding of the last tile
constexpr int64_t LARGEST_GRID = (int64_t{1} << 31) - 1;
constexpr int WARP_WIDTH = 4096;

bool is_sound(const Request *r) {
  if (r == nullptr || r->dtype < 0 || r->dtype > 2 || r->mode < LOGIT || r->mode > PROB_RENORM) return false;
  if (r->rows < 0 || r->rows > LARGEST_GRID / MAX_CHAINS || r->width < 1 || r->width > LARGEST_WIDTH) return false;
  if (r->k < 1 || r->k > r->width || !(r->temperature > 0.0f) || !std::isfinite(r->temperature)) return false;
  if (r->bias != nullptr && r->bias_rows < 1) return false;
  return r->rows == 0 || (r->logits != nullptr && r->values != nullptr && r->indices != nullptr);
}

bool warp_serves(SoftmaxTopk &p, int vector) {
  choose_selection(p, vector, WarpTeam::THREADS);
  return p.selection != IN_CHUNKS && shared_plan(p, vector, WarpTeam::THREADS).total_bytes <= 12 * 1024;
}

// Enough blocks for all multiprocessors, and no more than the row's chains.
int splits_for(int64_t rows, int chains, int device) {
  constexpr int BLOCKS_AT_ONCE = 4;
  int splits = 1;
  while (splits * 2 <= chains && rows * splits * 2 <= static_cast<int64_t>(multiprocessors(device)) * BLOCKS_AT_ONCE)
    splits *= 2;
  return splits;
}

SoftmaxTopk arguments_of(const Request &r) {
  SoftmaxTopk p = {};
  p.logits = r.logits;
  p.bias = r.bias;
  p.values = r.values;
  p.indices = r.indices;
  p.maximum = r.maximum;
  p.log_sum = r.log_sum;
  p.rows = r.rows;
  p.row_stride = r.row_stride;
  p.bias_rows = r.bias_rows;
  p.width = static_cast<int>(r.width);
  p.k = static_cast<int>(r.k);
  p.mode = r.mode;
  p.indices_are_int32 = r.indices_are_int32;
  p.needs_sum = r.mode == LOGPROB || r.mode == PROB || r.log_sum != nullptr;
  p.scale = 1.0f / r.temperature;
  p.splits = 1;
  p.stage = WHOLE;
  return p;
}

struct Plan {
  int way;  // hars_cuda_way, never HARS_CUDA_AUTO
  int splits;
};

int64_t scratch_of(const SoftmaxTopk &p, int vector) {
  const int groups = layout_of(p.width, vector, BlockTeam::THREADS).chains * BlockTeam::THREADS;
  return p.rows * groups * static_cast<int64_t>(sizeof(uint32_t) + sizeof(float));
}

// Fills in what the way needs. false: this way cannot serve the request.
bool plan_for(SoftmaxTopk &p, const Kernels &kernels, int way, int splits, Plan &plan) {
  const int device = current_device();
  if (device < 0) return false;
  const bool warp_can = way <= HARS_CUDA_WARP && warp_serves(p, kernels.vector);
  plan = {HARS_CUDA_WARP, 1};
  if (warp_can && (way == HARS_CUDA_WARP || p.width <= WARP_WIDTH)) return true;
  if (way == HARS_CUDA_WARP) return false;
  choose_selection(p, kernels.vector, BlockTeam::THREADS);
  plan = {HARS_CUDA_ROW, 1};
  if (way == HARS_CUDA_ROW) return true;
  const int chains = layout_of(p.width, kernels.vector, BlockTeam::THREADS).chains;
  if (splits <= 0) splits = p.selection == FROM_GROUPS ? splits_for(p.rows, chains, device) : 1;
  if (splits > chains) return false;
  const int shared_bytes = shared_plan(p, kernels.vector, BlockTeam::THREADS).total_bytes;
  const bool may_cluster = way == HARS_CUDA_AUTO || way == HARS_CUDA_CLUSTER;
  const int cluster =
      may_cluster && splits > 1 ? largest_cluster(kernels.block, kernels.number, BlockTeam::THREADS, shared_bytes) : 1;
  if (way == HARS_CUDA_CLUSTER && splits > cluster) return false;
  if (way == HARS_CUDA_AUTO && splits == 1) return true;
  if (way == HARS_CUDA_AUTO && cluster > 1)
    plan = {HARS_CUDA_CLUSTER, splits < cluster ? splits : cluster};
  else
    plan = {way == HARS_CUDA_AUTO ? HARS_CUDA_TWO_KERNELS : way, splits};
  return true;
}

int32_t run_two_kernels(SoftmaxTopk &p, const Kernels &kernels, Grid grid, void *stream) {
  p.stage = PARTIAL;
  const int32_t status = launch(kernels.block, grid, p, stream);
  if (status != 0) return status;
  p.stage = MERGE;
  p.splits = 1;
  grid.blocks = p.rows;
  return launch(kernels.block, grid, p, stream);
}

int32_t run(SoftmaxTopk &p, const Kernels &kernels, const Plan &plan, void *scratch, int64_t bytes, void *stream) {
  if (plan.way == HARS_CUDA_WARP) {
    const int of_warp = shared_plan(p, kernels.vector, WarpTeam::THREADS).total_bytes;
    const int64_t blocks = (p.rows + ROWS_OF_WARP_BLOCK - 1) / ROWS_OF_WARP_BLOCK;
    return launch(kernels.warp, {blocks, 32 * ROWS_OF_WARP_BLOCK, 1, of_warp * ROWS_OF_WARP_BLOCK}, p, stream);
  }
  const int shared_bytes = shared_plan(p, kernels.vector, BlockTeam::THREADS).total_bytes;
  p.splits = plan.splits;
  Grid grid = {p.rows * p.splits, BlockTeam::THREADS, 1, shared_bytes};
  if (plan.way == HARS_CUDA_TWO_KERNELS) {
    if (scratch == nullptr || bytes < scratch_of(p, kernels.vector)) return BAD_REQUEST;
    p.group_keys = static_cast<uint32_t *>(scratch);
    p.group_sums = reinterpret_cast<float *>(p.group_keys + scratch_of(p, kernels.vector) / 8);
    return run_two_kernels(p, kernels, grid, stream);
  }
  if (plan.way == HARS_CUDA_CLUSTER && p.splits > 1) {
    p.stage = CLUSTER;
    grid.cluster = p.splits;
  }
  return launch(kernels.block, grid, p, stream);
}

}  // namespace
}  // namespace hars

extern "C" {

int32_t hars_cuda_abi_version(void) { return HARS_CUDA_ABI_VERSION; }

int64_t hars_cuda_softmax_topk_scratch_by(const hars_cuda_softmax_topk_request *request, int32_t way, int32_t splits) {
  using namespace hars;
  if (!is_sound(request) || way < HARS_CUDA_AUTO || way > HARS_CUDA_TWO_KERNELS) return BAD_REQUEST;
  if (request->rows == 0) return 0;
  const Kernels kernels = kernels_of(*request);
  SoftmaxTopk p = arguments_of(*request);
  Plan plan;
  if (!plan_for(p, kernels, way, splits, plan)) return BAD_REQUEST;
  return plan.way == HARS_CUDA_TWO_KERNELS ? scratch_of(p, kernels.vector) : 0;
}

int32_t hars_cuda_softmax_topk_by(const hars_cuda_softmax_topk_request *request, int32_t way, int32_t splits,
                                  void *scratch, int64_t scratch_bytes, void *stream) {
  using namespace hars;
  if (!is_sound(request) || way < HARS_CUDA_AUTO || way > HARS_CUDA_TWO_KERNELS) return BAD_REQUEST;
  if (request->rows == 0) return 0;
  const Kernels kernels = kernels_of(*request);
  SoftmaxTopk p = arguments_of(*request);
  Plan plan;
  if (!plan_for(p, kernels, way, splits, plan)) return BAD_REQUEST;
  const bool lacks_scratch = scratch == nullptr || scratch_bytes < scratch_of(p, kernels.vector);
  if (way == HARS_CUDA_AUTO && plan.way == HARS_CUDA_TWO_KERNELS && lacks_scratch) plan = {HARS_CUDA_ROW, 1};
  return run(p, kernels, plan, scratch, scratch_bytes, stream);
}

int64_t hars_cuda_softmax_topk_scratch(const hars_cuda_softmax_topk_request *request) {
  return hars_cuda_softmax_topk_scratch_by(request, HARS_CUDA_AUTO, 0);
}

int32_t hars_cuda_softmax_topk(const hars_cuda_softmax_topk_request *request, void *scratch, int64_t scratch_bytes,
                               void *stream) {
  return hars_cuda_softmax_topk_by(request, HARS_CUDA_AUTO, 0, scratch, scratch_bytes, stream);
}

}  // extern "C"
