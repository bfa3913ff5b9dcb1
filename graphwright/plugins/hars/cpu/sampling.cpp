// Sampling: top-k, top-p and min-p on a sorted beginning of the row, which grows until it holds all that they keep;
// without any of them, blocks of the row in index order.
#include <math.h>

#include <algorithm>
#include <vector>

#include "number.h"
#include "philox.h"
#include "search_rows.h"
#include "weights.h"

namespace {

// How many are sorted at first, and how many times as many whenever these are too few.
constexpr int64_t kFirst = 128;
constexpr int64_t kGrowth = 8;

struct Drawn {
  int64_t token;
  float x;
  double total;
};

struct Place {
  int64_t index;
  double before;
};

// The first place at which `before` plus the running sum exceeds the target, else the last that is not 0.
Place passed(const double *values, int64_t count, double before, double target) {
  Place last = {0, before};
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] != 0) last = {i, before};
    const double sum = before + values[i];
    if (sum > target) return {i, before};
    before = sum;
  }
  return last;
}

class Sampler {
 public:
  Sampler(const hars_sample_request &request, int32_t isa)
      : request_(request), isa_(isa), row_steps_(hars::steps_for(isa)), steps_(hars::weight_steps(isa)),
        is_filtered_(request.top_k > 0 || request.top_p < 1 || request.min_p > 0) {}

  // How many of each row are to be sorted before draw() is called.
  int64_t first() const {
    if (!is_filtered_) return 1;
    return std::min(request_.rows.width, request_.top_k > 0 ? request_.top_k : kFirst);
  }

  int32_t draw(int64_t row, const float *best, const int64_t *tokens) const {
    const float maximum = best[0];
    if (!(fabsf(maximum) < kInfinity)) {
      request_.tokens[row] = tokens[0];
      request_.logprobs[row] = maximum == -kInfinity ? -kInfinity : NAN;
      return HARS_OK;
    }
    const double u = hars::uniform(request_.seeds[row], request_.offsets[row], request_.row_numbers[row]);
    Drawn drawn;
    const int32_t status = is_filtered_ ? draw_sorted(row, u, best, tokens, drawn) : draw_any(row, u, maximum, drawn);
    if (status != HARS_OK) return status;
    request_.tokens[row] = drawn.token;
    request_.logprobs[row] = float((double(drawn.x) - double(maximum)) - log(drawn.total));
    return HARS_OK;
  }

 private:
  // x of the block that starts at a column; what lies behind the row's end is -inf, with weight 0.
  void widen(int64_t row, int64_t column, int64_t room, float *x) const {
    const int64_t count = std::min(room, request_.rows.width - column);
    row_steps_->widen(hars::part_of(request_.rows, row, column, count), x);
    std::fill(x + count, x + room, -kInfinity);
  }

  // The sums of the leaves in index order, whole blocks; returns the sums of the blocks.
  std::vector<double> sum(int64_t row, float maximum, std::vector<double> &leaves) const {
    const int64_t blocks = (request_.rows.width + hars::kWeightBlock - 1) / hars::kWeightBlock;
    leaves.resize(size_t(blocks * hars::kLeaf));
    std::vector<double> sums(static_cast<size_t>(blocks));
    float x[hars::kWeightBlock];
    for (int64_t block = 0; block < blocks; ++block) {
      widen(row, block * hars::kWeightBlock, hars::kWeightBlock, x);
      double *sums_of_leaves = leaves.data() + block * hars::kLeaf;
      steps_.sum_leaves(x, hars::kLeaf, maximum, sums_of_leaves);
      sums[size_t(block)] = hars::halved(sums_of_leaves);
    }
    return sums;
  }

  static double total_of(const std::vector<double> &sums) {
    double total = 0;
    for (const double sum : sums) total += sum;
    return total;
  }

  int32_t draw_any(int64_t row, double u, float maximum, Drawn &drawn) const {
    std::vector<double> leaves;
    const std::vector<double> sums = sum(row, maximum, leaves);
    drawn.total = total_of(sums);
    const double target = u * drawn.total;
    const Place block = passed(sums.data(), int64_t(sums.size()), 0, target);
    const Place leaf = passed(leaves.data() + block.index * hars::kLeaf, hars::kLeaf, block.before, target);
    const int64_t start = (block.index * hars::kLeaf + leaf.index) * hars::kLeaf;
    float x[hars::kLeaf];
    double weights[hars::kLeaf];
    widen(row, start, hars::kLeaf, x);
    steps_.weigh(x, 1, maximum, weights);
    const int64_t place = passed(weights, hars::kLeaf, leaf.before, target).index;
    drawn.token = start + place;
    drawn.x = x[place];
    return HARS_OK;
  }

  // best and tokens: the first() best of the row.
  int32_t draw_sorted(int64_t row, double u, const float *best, const int64_t *tokens, Drawn &drawn) const {
    double mass = 0;  // what top-p has to reach; 0 until it is known
    if (request_.top_p < 1 && request_.top_k == 0) {
      std::vector<double> leaves;
      mass = request_.top_p * total_of(sum(row, best[0], leaves));
    }
    int64_t count = first();
    if (draw_from(best, tokens, count, u, mass, drawn)) return HARS_OK;
    std::vector<float> more;
    std::vector<int64_t> more_tokens;
    do {
      count = std::min(request_.rows.width, count * kGrowth);
      const int32_t status = sort(row, count, more, more_tokens);
      if (status != HARS_OK) return status;
    } while (!draw_from(more.data(), more_tokens.data(), count, u, mass, drawn));
    return HARS_OK;
  }

  int32_t sort(int64_t row, int64_t count, std::vector<float> &best, std::vector<int64_t> &tokens) const {
    best.resize(size_t(count));
    tokens.resize(size_t(count));
    hars_search_rows one = request_.rows;
    const hars::Row part = hars::part_of(one, row, 0, one.width);
    one.logits = part.logits;
    one.bias = part.bias;
    one.bias_row = nullptr;
    one.rows = 1;
    hars_softmax_topk_request request = hars::best_of(one, count, HARS_LOGIT);
    request.values = best.data();
    request.indices = tokens.data();
    const hars_workers alone = {isa_, 1, nullptr, nullptr};
    return hars_softmax_topk(&request, &alone);
  }

  // Draws from the sorted beginning of the row; returns false where the filters keep more than that.
  bool draw_from(const float *best, const int64_t *tokens, int64_t count, double u, double mass, Drawn &drawn) const {
    const std::vector<double> running = running_of(best, count);
    if (request_.top_p < 1 && request_.top_k > 0) mass = request_.top_p * running.back();
    int64_t kept = count;
    bool is_complete = request_.top_k > 0 || count == request_.rows.width;
    if (request_.top_p < 1) {
      const auto reached = std::lower_bound(running.begin(), running.end(), mass);
      is_complete = is_complete || reached != running.end();
      kept = std::min(kept, int64_t(reached - running.begin()) + 1);
    }
    const int64_t large = count_of_large(best, kept);
    if (large < kept) {
      is_complete = true;
      kept = large;
    }
    if (!is_complete) return false;
    drawn.total = running[size_t(kept - 1)];
    const auto end = running.begin() + kept;
    const int64_t place = std::upper_bound(running.begin(), end, u * drawn.total) - running.begin();
    drawn.token = tokens[place];
    drawn.x = best[place];
    return true;
  }

  // The running sums of the weights of sorted numbers.
  std::vector<double> running_of(const float *best, int64_t count) const {
    std::vector<double> running(static_cast<size_t>(count));
    double sum = 0;
    for (int64_t start = 0; start < count; start += hars::kLeaf) {
      double weights[hars::kLeaf];
      const int64_t part = weigh(best, start, count, weights);
      for (int64_t i = 0; i < part; ++i) running[size_t(start + i)] = sum += weights[i];
    }
    return running;
  }

  // How many of the first `count` sorted numbers stand before the first weight below min-p; at least one.
  int64_t count_of_large(const float *best, int64_t count) const {
    if (request_.min_p <= 0) return count;
    for (int64_t start = 0; start < count; start += hars::kLeaf) {
      double weights[hars::kLeaf];
      const int64_t part = weigh(best, start, count, weights);
      for (int64_t i = 0; i < part; ++i) {
        if (weights[i] < request_.min_p) return std::max<int64_t>(1, start + i);
      }
    }
    return count;
  }

  // A leaf of weights from `start` on; returns how many of them are there.
  int64_t weigh(const float *best, int64_t start, int64_t count, double *weights) const {
    const int64_t part = std::min(hars::kLeaf, count - start);
    float x[hars::kLeaf];
    std::copy(best + start, best + start + part, x);
    std::fill(x + part, x + hars::kLeaf, -kInfinity);
    steps_.weigh(x, 1, best[0], weights);
    return part;
  }

  const hars_sample_request &request_;
  const int32_t isa_;
  const hars::RowSteps *row_steps_;
  const hars::WeightSteps steps_;
  const bool is_filtered_;
};

int32_t sample(const hars_sample_request &request, const hars_workers &workers) {
  const int64_t rows = request.rows.rows;
  if (!hars::steps_for(workers.isa)) return HARS_NO_SUCH_ISA;
  const Sampler sampler(request, workers.isa == HARS_AUTO ? hars_best_isa() : workers.isa);
  const int64_t first = sampler.first();
  std::vector<float> best(static_cast<size_t>(rows * first));
  std::vector<int64_t> tokens(static_cast<size_t>(rows * first));
  hars_softmax_topk_request sorted = hars::best_of(request.rows, first, HARS_LOGIT);
  sorted.values = best.data();
  sorted.indices = tokens.data();
  const int32_t status = hars_softmax_topk(&sorted, &workers);
  if (status != HARS_OK) return status;
  return hars::spread(workers, rows * request.rows.width, rows, [&](int64_t row) {
    return sampler.draw(row, best.data() + row * first, tokens.data() + row * first);
  });
}

}  // namespace

int32_t hars_sample(const hars_sample_request *request, const hars_workers *workers) {
  const bool has_shares = request->top_p >= 0 && request->top_p <= 1 && request->min_p >= 0 && request->min_p <= 1;
  const bool fits = request->top_k >= 0 && request->top_k <= request->rows.width && has_shares;
  if (!hars::is_valid(request->rows) || !fits) return HARS_BAD_REQUEST;
  if (request->rows.rows == 0) return HARS_OK;
  try {
    return sample(*request, workers ? *workers : hars::kAlone);
  } catch (const std::bad_alloc &) {
    return HARS_NO_MEMORY;
  }
}
