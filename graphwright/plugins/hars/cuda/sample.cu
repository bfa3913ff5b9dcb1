// The kernel of sample.cuh and its C interface.
#include "sample.cuh"

#include <cmath>

#include "hars_cuda.h"
#include "launch.cuh"

namespace hars {
namespace {

template <class Type, bool EDITED>
HARS_KERNEL(BlockTeam::THREADS, 3) sample(HARS_ARGUMENTS Sample p) {
  sample_of_block<Type, EDITED>(p);
}

using Request = hars_cuda_sample_request;

// How many a list without top_k begins with: nearly always more than top_p or min_p keep.
constexpr int64_t FIRST_LIST = 256;

bool is_sound(const Request *r) {
  if (r == nullptr || r->dtype < 0 || r->dtype > 2 || r->rows < 0 || r->rows >= int64_t{1} << 31) return false;
  if (r->width < 1 || r->width > HARS_CUDA_MAX_SAMPLED_WIDTH || r->top_k < 0) return false;
  if (!(r->top_p >= 0.0 && r->top_p <= 1.0 && r->min_p >= 0.0 && r->min_p <= 1.0)) return false;
  if (!(r->temperature > 0.0f) || !std::isfinite(r->temperature) || (r->bias != nullptr && r->bias_rows < 1))
    return false;
  const bool has_numbers = r->seeds != nullptr && r->offsets != nullptr && r->row_numbers != nullptr;
  return r->rows == 0 || (has_numbers && r->logits != nullptr && r->tokens != nullptr && r->logprobs != nullptr);
}

bool is_cut(const Request &r) { return r.top_k > 0 && r.top_k < r.width; }

int64_t list_length(const Request &r) {
  if (is_cut(r)) return r.top_k;
  if (r.top_p >= 1.0 && r.min_p <= 0.0) return 0;
  return r.width < FIRST_LIST ? r.width : FIRST_LIST;
}

// Each part of the scratch begins at a multiple of 16 bytes.
int64_t list_bytes(const Request &r) { return (r.rows * list_length(r) * 4 + 15) & ~int64_t{15}; }

hars_cuda_softmax_topk_request request_of_list(const Request &r, unsigned char *scratch) {
  hars_cuda_softmax_topk_request list = {};
  list.logits = r.logits;
  list.dtype = r.dtype;
  list.mode = LOGIT;
  list.rows = r.rows;
  list.width = r.width;
  list.row_stride = r.row_stride;
  list.k = list_length(r);
  list.bias = r.bias;
  list.bias_rows = r.bias_rows;
  list.temperature = r.temperature;
  list.values = reinterpret_cast<float *>(scratch);
  list.indices = scratch + list_bytes(r);
  list.indices_are_int32 = 1;
  return list;
}

SoftmaxTopk row_of(const Request &r) {
  SoftmaxTopk row = {};
  row.logits = r.logits;
  row.bias = r.bias;
  row.rows = r.rows;
  row.row_stride = r.row_stride;
  row.bias_rows = r.bias_rows;
  row.width = row.k = static_cast<int>(r.width);
  row.selection = IN_CHUNKS;
  row.candidates = SAMPLE_CHUNK;
  row.splits = 1;
  row.scale = 1.0f / r.temperature;
  return row;
}

template <class Type>
int32_t launch_sample(const Sample &p, bool edited, void *stream) {
  const Grid grid = {p.row.rows, BlockTeam::THREADS, 1, sample_bytes(p.row, Type::VECTOR)};
  return edited ? launch(sample<Type, true>, grid, p, stream) : launch(sample<Type, false>, grid, p, stream);
}

int32_t launch_sample(const Request &r, const Sample &p, void *stream) {
  const bool edited = r.bias != nullptr || r.temperature != 1.0f;
  if (r.dtype == 0) return launch_sample<Float32>(p, edited, stream);
  return r.dtype == 1 ? launch_sample<Float16>(p, edited, stream) : launch_sample<Bfloat16>(p, edited, stream);
}

}  // namespace
}  // namespace hars

extern "C" {

int64_t hars_cuda_sample_scratch(const hars_cuda_sample_request *request) {
  using namespace hars;
  if (!is_sound(request)) return BAD_REQUEST;
  if (request->rows == 0 || list_length(*request) == 0) return 0;
  unsigned char *somewhere = reinterpret_cast<unsigned char *>(uintptr_t{16});  // asked about, not written to
  const hars_cuda_softmax_topk_request list = request_of_list(*request, somewhere);
  const int64_t own = hars_cuda_softmax_topk_scratch(&list);
  return own < 0 ? own : 2 * list_bytes(*request) + own;
}

int32_t hars_cuda_sample(const hars_cuda_sample_request *request, void *scratch, int64_t scratch_bytes, void *stream) {
  using namespace hars;
  const int64_t needed = hars_cuda_sample_scratch(request);
  if (needed < 0 || (needed > 0 && (scratch == nullptr || scratch_bytes < needed))) return BAD_REQUEST;
  const Request &r = *request;
  if (r.rows == 0) return 0;
  Sample p = {};
  p.row = row_of(r);
  p.listed = static_cast<int>(list_length(r));
  p.is_cut = is_cut(r);
  p.top_p = r.top_p;
  p.min_p = r.min_p;
  p.seeds = r.seeds;
  p.offsets = r.offsets;
  p.row_numbers = r.row_numbers;
  p.tokens = r.tokens;
  p.logprobs = r.logprobs;
  if (p.listed > 0) {
    auto *memory = static_cast<unsigned char *>(scratch);
    const hars_cuda_softmax_topk_request list = request_of_list(r, memory);
    p.listed_values = list.values;
    p.listed_indices = static_cast<const int32_t *>(list.indices);
    const int64_t used = 2 * list_bytes(r);
    const int32_t status = hars_cuda_softmax_topk(&list, memory + used, scratch_bytes - used, stream);
    if (status != 0) return status;
  }
  return launch_sample(r, p, stream);
}

}  // extern "C"
