// hars_router_topk: the experts of each token. The rows are short, so all of one is kept as plain numbers.
#include <math.h>

#include <atomic>

#include "dispatch.h"
#include "keys.h"
#include "memory.h"
#include "number.h"

namespace hars {
namespace {

using Request = hars_router_topk_request;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// exps() goes no lower.
constexpr float kLeastExponent = -87.0f;
// Keeps the division defined where no selected expert has any weight; in the operator's meaning.
constexpr float kSmallestSum = 1e-20f;

struct Scratch {
  Array<float> scores, shares, keys;
  Array<int64_t> chosen, spare;

  explicit Scratch(const Request &request)
      : scores(allocate<float>(request.experts + kSparePowers)),
        shares(allocate<float>(request.experts + kSparePowers)),
        keys(allocate<float>(request.experts + kSparePowers)),
        chosen(allocate<int64_t>(request.experts + 2 * request.k + kSpareKeys)),
        spare(allocate<int64_t>(2 * request.k + kSpareKeys)) {}

  bool complete() const { return scores && shares && keys && chosen && spare; }
};

bool any_nan(const float *values, int64_t count) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) found |= int(is_nan(values[i]));
  return found != 0;
}

void softmax(const RowSteps &steps, const float *scores, bool has_nan, int64_t count, float *shares) {
  const Range range = steps.range(scores, count);
  if (has_nan || isinf(range.most)) {
    for (int64_t i = 0; i < count; ++i) shares[i] = kNan;
    return;
  }
  const float sum = steps.exps(scores, count, range.most, shares);
  if (range.least - range.most < kLeastExponent) {
    for (int64_t i = 0; i < count; ++i) {
      const float exponent = scores[i] - range.most;
      if (exponent < kLeastExponent) shares[i] = float(exp(double(exponent)));
    }
  }
  for (int64_t i = 0; i < count; ++i) shares[i] /= sum;
}

// 1 / (1 + exp(-x)), written with exp(-|x|) so that neither end loses its digits.
void sigmoid(const RowSteps &steps, const float *scores, bool has_nan, int64_t count, float *shares) {
  for (int64_t i = 0; i < count; ++i) shares[i] = -fabsf(scores[i]);
  const float least = steps.range(scores, count).least;
  steps.exps(shares, count, 0.0f, shares);
  // In double: close to 1, where scores tie, one rounding more would rank them otherwise.
  for (int64_t i = 0; i < count; ++i) {
    const double power = shares[i];
    shares[i] = float((scores[i] >= 0 ? 1.0 : power) / (1.0 + power));
  }
  if (!has_nan && least >= kLeastExponent) return;
  for (int64_t i = 0; i < count; ++i) {
    if (scores[i] < kLeastExponent) shares[i] = float(exp(double(scores[i])));
    if (is_nan(scores[i])) shares[i] = kNan;
  }
}

// The sum of the two largest of a run of keys, NaN counted as the largest.
float sum_of_two_largest(const float *keys, int64_t count) {
  int32_t first = order_of(-kInfinity), second = first;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t order = order_of(keys[i]), less = order < first ? order : first;
    second = less > second ? less : second;
    first = order > first ? order : first;
  }
  return first > order_of(kInfinity) ? kNan : value_of_order(first) + value_of_order(second);
}

// Sets the keys outside the best groups to -inf. `room` has space for as many floats as experts, `order` for as many
// keys.
void close_groups(const Request &request, float *keys, float *room, int64_t *order) {
  const int64_t size = request.experts / request.groups;
  for (int64_t i = 0; i < request.groups; ++i) room[i] = sum_of_two_largest(keys + i * size, size);
  largest_with_nan(room, request.groups, request.groups, order);
  for (int64_t i = request.top_groups; i < request.groups; ++i) {
    float *group = keys + index_of(order[i]) * size;
    for (int64_t j = 0; j < size; ++j) group[j] = -kInfinity;
  }
}

// Leaves the sorted keys of the k experts in scratch.chosen, and the weights of all in scratch.shares.
void choose(const Request &request, const RowSteps &steps, const Row &row, Scratch &scratch) {
  const int64_t count = request.experts;
  float *scores = scratch.scores.get(), *shares = scratch.shares.get();
  bool has_nan = steps.widen(row, scores);
  (request.scoring == HARS_SOFTMAX ? softmax : sigmoid)(steps, scores, has_nan, count, shares);
  float *keys = scores;
  if (request.bias || request.groups > 1) {
    keys = scratch.keys.get();
    for (int64_t i = 0; i < count; ++i) keys[i] = request.bias ? shares[i] + request.bias[i] : shares[i];
    if (request.groups > 1) close_groups(request, keys, scores, scratch.chosen.get());
    has_nan = any_nan(keys, count);
  }
  if (has_nan) {
    largest_with_nan(keys, count, request.k, scratch.chosen.get());
  } else {
    steps.largest(keys, count, request.k, scratch.chosen.get(), scratch.spare.get());
  }
}

void write_experts(const Request &request, const Scratch &scratch, int64_t row) {
  float *weights = request.weights + row * request.k, identity = 0, sum = 0;
  int64_t *chosen = request.chosen + row * request.k;
  for (int64_t i = 0; i < request.k; ++i) {
    chosen[i] = index_of(scratch.chosen[i]);
    weights[i] = scratch.shares[chosen[i]];
    sum += weights[i];
  }
  for (int64_t i = 0; i < request.k; ++i) {
    const bool is_identity = chosen[i] >= request.experts - request.zero_experts;
    float weight = request.renormalize ? weights[i] / (sum + kSmallestSum) : weights[i];
    if (!is_identity || request.scale_zero_experts) weight *= request.scale;
    if (is_nan(weight)) weight = 0;
    if (is_identity) identity += weight;
    weights[i] = is_identity ? 0 : weight;
    if (is_identity) chosen[i] = -1;
  }
  if (request.identity_weight) request.identity_weight[row] = identity;
}

struct Rows {
  const Request &request;
  const RowSteps &steps;
  int64_t tasks;
  std::atomic<bool> out_of_memory{false};

  static void run(void *data, int64_t task) {
    auto &self = *static_cast<Rows *>(data);
    const Request &request = self.request;
    Scratch scratch(request);
    if (!scratch.complete()) {
      self.out_of_memory = true;
      return;
    }
    const int64_t bytes = request.experts * (request.dtype == HARS_FLOAT32 ? 4 : 2);
    const int64_t last = request.rows * (task + 1) / self.tasks;
    for (int64_t i = request.rows * task / self.tasks; i < last; ++i) {
      const void *scores = static_cast<const char *>(request.scores) + i * bytes;
      choose(request, self.steps, {scores, nullptr, 1.0f, request.dtype, request.experts}, scratch);
      write_experts(request, scratch, i);
    }
  }
};

bool is_sound(const Request &request) {
  const int64_t experts = request.experts;
  const bool sizes = request.rows >= 0 && experts >= 1 && experts < (1LL << 31) && request.k >= 1 &&
                     request.k <= experts && request.zero_experts >= 0 && request.zero_experts <= experts;
  const bool options = request.dtype >= HARS_FLOAT32 && request.dtype <= HARS_BFLOAT16 &&
                       (request.scoring == HARS_SOFTMAX || request.scoring == HARS_SIGMOID);
  if (!sizes || !options || request.groups < 1 || request.top_groups < 1 || request.top_groups > request.groups) {
    return false;
  }
  const bool groups = request.groups == 1 || (experts % request.groups == 0 && experts / request.groups >= 2 &&
                                              request.top_groups * (experts / request.groups) >= request.k);
  return groups && (request.rows == 0 || (request.scores && request.weights && request.chosen));
}

}  // namespace
}  // namespace hars

int32_t hars_router_topk(const struct hars_router_topk_request *request, const struct hars_workers *workers) {
  using namespace hars;
  const hars_workers alone = {HARS_AUTO, 1, nullptr, nullptr};
  if (!workers) workers = &alone;
  if (!request || !is_sound(*request)) return HARS_BAD_REQUEST;
  const RowSteps *steps = steps_for(workers->isa);
  if (!steps) return HARS_NO_SUCH_ISA;
  if (request->rows == 0) return HARS_OK;
  const int32_t threads = threads_for(*workers, request->rows * request->experts);
  const int64_t tasks = threads == 1 ? 1 : request->rows < 4 * threads ? request->rows : 4 * int64_t(threads);
  Rows rows{*request, *steps, tasks};
  run_tasks(*workers, threads, Rows::run, &rows, tasks);
  return rows.out_of_memory ? HARS_NO_MEMORY : HARS_OK;
}
