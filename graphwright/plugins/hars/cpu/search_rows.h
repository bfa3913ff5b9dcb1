// What beams.cpp and sampling.cpp share: requests turned into calls of softmax_topk, and work spread over threads.
#ifndef GRAPHWRIGHT_HARS_SEARCH_ROWS_H
#define GRAPHWRIGHT_HARS_SEARCH_ROWS_H

#include <atomic>
#include <new>

#include "dispatch.h"
#include "hars_search.h"

namespace hars {

// Who works where the caller does not say.
constexpr hars_workers kAlone = {HARS_AUTO, 1, nullptr, nullptr};

inline bool is_valid(const hars_search_rows &rows) {
  return rows.rows >= 0 && rows.width >= 1 && rows.width < (1LL << 32) && rows.dtype >= HARS_FLOAT32 && rows.dtype <= HARS_BFLOAT16;
}

// The request for the k best of each row; where its results go is the caller's to fill in.
inline hars_softmax_topk_request best_of(const hars_search_rows &rows, int64_t k, int32_t mode) {
  hars_softmax_topk_request request = {};
  request.logits = rows.logits;
  request.dtype = rows.dtype;
  request.mode = mode;
  request.outer = rows.rows;
  request.width = rows.width;
  request.inner = 1;
  request.k = k;
  request.bias = rows.bias;
  request.bias_row = rows.bias_row;
  request.temperature = rows.temperature;
  return request;
}

// Row numbers from a column on, for the steps of row.h.
inline Row part_of(const hars_search_rows &rows, int64_t row, int64_t column, int64_t count) {
  const int64_t size = rows.dtype == HARS_FLOAT32 ? 4 : 2;
  const char *logits = static_cast<const char *>(rows.logits) + (row * rows.width + column) * size;
  const int64_t bias_row = rows.bias_row ? rows.bias_row[row] : 0;
  const float *bias = rows.bias ? rows.bias + bias_row * rows.width + column : nullptr;
  return {logits, bias, 1.0f / rows.temperature, rows.dtype, count};
}

// x of one token.
inline float number_at(const hars_search_rows &rows, int64_t row, int64_t token) {
  float x;
  scalar_steps()->widen(part_of(rows, row, token, 1), &x);
  return x;
}

// Runs work(i), which returns a hars_status, for i in [0, count); returns the status of one that failed, if any did.
// `numbers` says how much work that is, in numbers read.
template <class Work>
int32_t spread(const hars_workers &workers, int64_t numbers, int64_t count, const Work &work) {
  struct Shared {
    const Work &work;
    std::atomic<int32_t> status;
  } shared = {work, {HARS_OK}};
  const hars_task task = [](void *data, int64_t index) {
    Shared &all = *static_cast<Shared *>(data);
    int32_t status;
    try {
      status = all.work(index);
    } catch (const std::bad_alloc &) {
      status = HARS_NO_MEMORY;
    }
    if (status != HARS_OK) all.status = status;
  };
  run_tasks(workers, threads_for(workers, numbers), task, &shared, count);
  return shared.status;
}

}  // namespace hars

#endif
