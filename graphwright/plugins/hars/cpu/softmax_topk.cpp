// hars_softmax_topk: checks the request, shares the rows out among threads, and calls the steps of row.h in order.
#include <math.h>

#include <atomic>

#include "dispatch.h"
#include "keys.h"
#include "memory.h"
#include "number.h"
#include "outputs.h"
#include "short_rows.h"

namespace hars {
namespace {

// What is the same for all rows of a request.
struct Plan {
  const hars_softmax_topk_request &request;
  const RowSteps &steps;
  Blocks blocks;
  bool whole_row;  // too few blocks for k: select among all the numbers
  bool has_sums;
  std::atomic<bool> out_of_memory{false};

  int64_t rows() const { return request.outer * request.inner; }
  int64_t number_size() const { return request.dtype == HARS_FLOAT32 ? 4 : 2; }
};

// Long blocks make few maxima to choose from and few sums to add up, short ones leave less to read again. Three times
// as many blocks as k keep the second reading under a third of the row, and the candidates near k.
Blocks blocks_for(int64_t width, int64_t k, bool has_sums) {
  int64_t block = has_sums ? kLargestBlock : kLargestBlock / 2;
  while (block > 32 && (width + block - 1) / block < 3 * k) block /= 2;
  return {block, (width + block - 1) / block};
}

// The memory that one thread needs for a row after another.
struct Scratch {
  Array<float> maxima, sums, values;
  Array<int64_t> keys, spare, all_keys;
  Array<char> gathered;

  explicit Scratch(const Plan &plan)
      : maxima(allocate<float>(plan.blocks.count)),
        sums(allocate<float>(plan.has_sums ? plan.blocks.count : 1)),
        keys(allocate<int64_t>(2 * plan.request.k + kSpareKeys)),
        spare(allocate<int64_t>(2 * plan.request.k + kSpareKeys)),
        gathered(allocate<char>(plan.request.inner > 1 ? plan.request.width * plan.number_size() : 1)) {}

  bool complete() const { return maxima && sums && keys && spare && gathered; }
};

template <class T>
void gather(const void *from, int64_t step, int64_t count, char *to) {
  const T *source = static_cast<const T *>(from);
  T *target = reinterpret_cast<T *>(to);
  for (int64_t i = 0; i < count; ++i) target[i] = source[i * step];
}

// Row `index` of outer * inner; with an inner axis its numbers lie apart, and are brought together first.
Row row_of(const Plan &plan, int64_t index, char *gathered) {
  const hars_softmax_topk_request &request = plan.request;
  const int64_t first = (index / request.inner) * request.width * request.inner + index % request.inner;
  const void *logits = static_cast<const char *>(request.logits) + first * plan.number_size();
  if (request.inner > 1) {
    (plan.number_size() == 4 ? gather<uint32_t> : gather<uint16_t>)(logits, request.inner, request.width, gathered);
    logits = gathered;
  }
  const int64_t bias_row = request.bias_row ? request.bias_row[index] : 0;
  const float *bias = request.bias ? request.bias + bias_row * request.width : nullptr;
  return {logits, bias, 1.0f / request.temperature, request.dtype, request.width};
}

// Leaves the sorted keys of the k largest in scratch.keys; false if memory ran out.
bool select(const Plan &plan, const Row &row, bool has_nan, const float *maxima, Scratch &scratch) {
  const int64_t k = plan.request.k;
  if (!has_nan && !plan.whole_row) {
    plan.steps.retrieve(row, plan.blocks, maxima, k, scratch.keys.get(), scratch.spare.get());
    return true;
  }
  if (!scratch.values) scratch.values = allocate<float>(row.width);
  if (has_nan && !scratch.all_keys) scratch.all_keys = allocate<int64_t>(row.width);
  if (!scratch.values || (has_nan && !scratch.all_keys)) return false;
  plan.steps.widen(row, scratch.values.get());
  if (has_nan) {
    largest_with_nan(scratch.values.get(), row.width, k, scratch.all_keys.get());
    memcpy(scratch.keys.get(), scratch.all_keys.get(), size_t(k) * sizeof(int64_t));
  } else {
    plan.steps.largest(scratch.values.get(), row.width, k, scratch.keys.get(), scratch.spare.get());
  }
  return true;
}

Summary summary_of(const Plan &plan, const Scratch &scratch, bool has_nan, const float *maxima, const float *sums) {
  if (has_nan) return {true, std::numeric_limits<float>::quiet_NaN(), 0};
  const float maximum = value_of_order(order_of_key(scratch.keys[0]));
  if (!plan.has_sums || isinf(maximum)) return {false, maximum, 0};
  return {false, maximum, plan.steps.combine(maxima, sums, plan.blocks.count, maximum)};
}

// The second half of a row's work: everything after its blocks were read.
void finish(Plan &plan, int64_t index, const Row &row, bool has_nan, const float *maxima, const float *sums,
            Scratch &scratch) {
  const hars_softmax_topk_request &request = plan.request;
  if (!select(plan, row, has_nan, maxima, scratch)) {
    plan.out_of_memory = true;
    return;
  }
  const Summary summary = summary_of(plan, scratch, has_nan, maxima, sums);
  const int64_t first = (index / request.inner) * request.k * request.inner + index % request.inner;
  write_selected(row, summary, request.mode, scratch.keys.get(), request.k, request.values + first,
                 request.indices + first, request.inner);
  if (request.maximum) request.maximum[index] = summary.maximum;
  if (request.log_sum) request.log_sum[index] = log_sum_of(summary);
}

// Many rows: each is one thread's from beginning to end; a task is a run of rows.
struct WholeRows {
  Plan &plan;
  int64_t tasks;

  static void run(void *data, int64_t task) {
    auto &self = *static_cast<WholeRows *>(data);
    Plan &plan = self.plan;
    Scratch scratch(plan);
    if (!scratch.complete()) {
      plan.out_of_memory = true;
      return;
    }
    const bool are_short = are_short_rows(plan.request);
    const int64_t first = plan.rows() * task / self.tasks, last = plan.rows() * (task + 1) / self.tasks;
    const int64_t step = are_short ? plan.steps.lanes : 1;
    for (int64_t index = first; index < last; index += step) {
      const int64_t count = step < last - index ? step : last - index;
      const uint32_t done = are_short ? rank_short_rows(plan.request, plan.steps, index, count) : 0;
      for (int64_t i = 0; i < count; ++i) {
        if (!(done >> i & 1)) run_one(plan, index + i, scratch);
      }
    }
  }

  static void run_one(Plan &plan, int64_t index, Scratch &scratch) {
    const Row row = row_of(plan, index, scratch.gathered.get());
    float *sums = plan.has_sums ? scratch.sums.get() : nullptr;
    const bool has_nan = plan.steps.summarize(row, plan.blocks, 0, plan.blocks.count, scratch.maxima.get(), sums);
    finish(plan, index, row, has_nan, scratch.maxima.get(), sums, scratch);
  }
};

// Fewer rows than threads: the blocks of a row are read by several threads. A block's maximum and sum do not depend on
// who reads it, so the result has the same bits as with one thread.
struct SlicedRows {
  Plan &plan;
  int64_t slices;  // of each row
  Array<float> maxima, sums;
  Array<std::atomic<bool>> has_nan;

  static void read(void *data, int64_t task) {
    auto &self = *static_cast<SlicedRows *>(data);
    const int64_t index = task / self.slices, slice = task % self.slices, count = self.plan.blocks.count;
    const Row row = row_of(self.plan, index, nullptr);
    float *sums = self.sums ? self.sums.get() + index * count : nullptr;
    if (self.plan.steps.summarize(row, self.plan.blocks, count * slice / self.slices, count * (slice + 1) / self.slices,
                                  self.maxima.get() + index * count, sums)) {
      self.has_nan[index] = true;
    }
  }

  static void finish_row(void *data, int64_t index) {
    auto &self = *static_cast<SlicedRows *>(data);
    Scratch scratch(self.plan);
    if (!scratch.complete()) {
      self.plan.out_of_memory = true;
      return;
    }
    const int64_t first = index * self.plan.blocks.count;
    finish(self.plan, index, row_of(self.plan, index, nullptr), self.has_nan[index], self.maxima.get() + first,
           self.sums ? self.sums.get() + first : nullptr, scratch);
  }
};

void run_whole_rows(Plan &plan, const hars_workers &workers, int32_t threads) {
  const int64_t rows = plan.rows(), tasks = threads == 1 ? 1 : rows < 4 * threads ? rows : 4 * int64_t(threads);
  WholeRows work{plan, tasks};
  run_tasks(workers, threads, WholeRows::run, &work, tasks);
}

void run_sliced_rows(Plan &plan, const hars_workers &workers, int32_t threads) {
  const int64_t rows = plan.rows(), count = plan.blocks.count;
  int64_t slices = (2 * int64_t(threads) + rows - 1) / rows;
  slices = slices < count ? slices : count;
  SlicedRows work{plan, slices, allocate<float>(rows * count), nullptr, allocate<std::atomic<bool>>(rows)};
  if (plan.has_sums) work.sums = allocate<float>(rows * count);
  if (!work.maxima || !work.has_nan || (plan.has_sums && !work.sums)) {
    plan.out_of_memory = true;
    return;
  }
  for (int64_t i = 0; i < rows; ++i) work.has_nan[i] = false;
  run_tasks(workers, threads, SlicedRows::read, &work, rows * slices);
  run_tasks(workers, threads, SlicedRows::finish_row, &work, rows);
}

bool is_sound(const hars_softmax_topk_request &request) {
  // A key has 32 bits for the index.
  const bool sizes = request.outer >= 0 && request.inner >= 0 && request.width >= 1 && request.width < (1LL << 32) &&
                     request.k >= 1 && request.k <= request.width;
  const bool options = request.dtype >= HARS_FLOAT32 && request.dtype <= HARS_BFLOAT16 &&
                       request.mode >= HARS_LOGIT && request.mode <= HARS_PROB_RENORM && request.temperature > 0 &&
                       isfinite(request.temperature);
  if (!sizes || !options) return false;
  const bool empty = request.outer == 0 || request.inner == 0;
  return empty || (request.logits && request.values && request.indices);
}

}  // namespace
}  // namespace hars

int32_t hars_softmax_topk(const struct hars_softmax_topk_request *request, const struct hars_workers *workers) {
  using namespace hars;
  const hars_workers alone = {HARS_AUTO, 1, nullptr, nullptr};
  if (!workers) workers = &alone;
  if (!request || !is_sound(*request)) return HARS_BAD_REQUEST;
  const RowSteps *steps = steps_for(workers->isa);
  if (!steps) return HARS_NO_SUCH_ISA;
  const bool has_sums = request->log_sum || request->mode == HARS_LOGPROB || request->mode == HARS_PROB;
  const Blocks blocks = blocks_for(request->width, request->k, has_sums);
  const bool whole_row = blocks.count < 2 * request->k || request->width <= 64;
  Plan plan{*request, *steps, blocks, whole_row, has_sums};
  if (plan.rows() == 0) return HARS_OK;
  const int32_t threads = threads_for(*workers, plan.rows() * request->width);
  const bool sliced = threads > 1 && plan.rows() < 2 * int64_t(threads) && request->inner == 1;
  (sliced ? run_sliced_rows : run_whole_rows)(plan, *workers, threads);
  return plan.out_of_memory ? HARS_NO_MEMORY : HARS_OK;
}
