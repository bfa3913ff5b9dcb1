// Beam steps, with groups and their penalties, and top-k after sparse edits: all on the short lists that one pass of
// softmax_topk leaves of each row.
#include <algorithm>
#include <limits>
#include <vector>

#include "keys.h"
#include "number.h"
#include "search_rows.h"

namespace {

using hars::best_of;
using hars::spread;

// Sorting one key costs about as much as reading so many logits.
constexpr int64_t kNumbersPerKey = 64;

// Numbers and the tokens that they belong to; equal numbers keep their order when the list is sorted.
struct List {
  std::vector<float> values;
  std::vector<int64_t> tokens;

  void resize(int64_t count) {
    values.resize(size_t(count));
    tokens.resize(size_t(count));
  }
  int64_t size() const { return int64_t(values.size()); }
};

struct Edit {
  int64_t token;
  float change;
};

// Adds each change to its token's number, then takes the k best; order is room for their places.
void edit(List &list, const std::vector<Edit> &edits, int64_t k, List &best, std::vector<int64_t> &order) {
  const int64_t count = list.size();
  for (const Edit &one : edits) {
    for (int64_t i = 0; i < count; ++i) {
      if (list.tokens[size_t(i)] == one.token) list.values[size_t(i)] += one.change;
    }
  }
  order.resize(size_t(count));
  hars::largest_with_nan(list.values.data(), count, k, order.data());
  best.resize(k);
  for (int64_t i = 0; i < k; ++i) {
    const size_t place = size_t(index_of(order[size_t(i)]));
    best.values[size_t(i)] = list.values[place];
    best.tokens[size_t(i)] = list.tokens[place];
  }
}

// One batch item of a beam step.
class Step {
 public:
  Step(const hars_beam_step_request &request, const List &lists, int64_t item)
      : request_(request), lists_(lists), item_(item), each_(request.beams / request.groups),
        listed_(lists.size() / request.rows.rows), per_row_(std::min(request.keep, request.rows.width)) {}

  void run() {
    for (int64_t group = 0; group < request_.groups; ++group) {
      candidates_.resize(each_ * per_row_);
      for (int64_t beam = 0; beam < each_; ++beam) list_candidates(group * each_ + beam, beam * per_row_);
      merge(group);
    }
  }

 private:
  // Puts a beam's best at `start` among the candidates of its group, with their scores.
  void list_candidates(int64_t beam, int64_t start) {
    const int64_t row = item_ * request_.beams + beam;
    const float *values = lists_.values.data() + row * listed_;
    const int64_t *tokens = lists_.tokens.data() + row * listed_;
    if (!edits_.empty()) {
      list_.values.assign(values, values + listed_);
      list_.tokens.assign(tokens, tokens + listed_);
      edit(list_, edits_, per_row_, best_, order_);
      values = best_.values.data();
      tokens = best_.tokens.data();
    }
    const float score = request_.scores[row];
    const bool has_started = score != -kInfinity;
    for (int64_t i = 0; i < per_row_; ++i) {
      candidates_.values[size_t(start + i)] = has_started ? score + values[i] : -kInfinity;
      candidates_.tokens[size_t(start + i)] = tokens[i];
    }
  }

  void merge(int64_t group) {
    order_.resize(candidates_.values.size());
    hars::largest_with_nan(candidates_.values.data(), candidates_.size(), request_.keep, order_.data());
    const int64_t start = (item_ * request_.groups + group) * request_.keep;
    int64_t going_on = 0;
    for (int64_t i = 0; i < request_.keep; ++i) {
      const int64_t place = index_of(order_[size_t(i)]);
      const float score = candidates_.values[size_t(place)];
      const int64_t token = candidates_.tokens[size_t(place)];
      request_.best_scores[start + i] = score;
      request_.best_beams[start + i] = group * each_ + place / per_row_;
      request_.best_tokens[start + i] = token;
      if (going_on < each_ && score != -kInfinity && !is_end(token)) {
        choose(token);
        ++going_on;
      }
    }
    for (size_t i = 0; i < edits_.size(); ++i) edits_[i].change = -(request_.penalty * float(times_[i]));
  }

  bool is_end(int64_t token) const {
    return std::find(request_.end_tokens, request_.end_tokens + request_.ends, token) !=
           request_.end_tokens + request_.ends;
  }

  void choose(int64_t token) {
    for (size_t i = 0; i < edits_.size(); ++i) {
      if (edits_[i].token == token) {
        ++times_[i];
        return;
      }
    }
    edits_.push_back({token, 0.0f});
    times_.push_back(1);
  }

  const hars_beam_step_request &request_;
  const List &lists_;
  const int64_t item_, each_, listed_, per_row_;
  List candidates_, list_, best_;
  std::vector<Edit> edits_;
  std::vector<int64_t> times_, order_;
};

bool is_valid(const hars_beam_step_request &request) {
  const int64_t beams = request.beams, groups = request.groups;
  return hars::is_valid(request.rows) && beams >= 1 && groups >= 1 && beams % groups == 0 &&
         request.rows.rows % beams == 0 && request.keep >= 1 &&
         request.keep <= beams / groups * request.rows.width && request.penalty >= 0;
}

int32_t beam_step(const hars_beam_step_request &request, const hars_workers &workers) {
  const int64_t width = request.rows.width, others = request.beams - request.beams / request.groups;
  const int64_t listed = std::min(width, std::min(request.keep, width) + others);
  List lists;
  lists.resize(request.rows.rows * listed);
  hars_softmax_topk_request best = best_of(request.rows, listed, HARS_LOGPROB);
  best.values = lists.values.data();
  best.indices = lists.tokens.data();
  const int32_t status = hars_softmax_topk(&best, &workers);
  if (status != HARS_OK) return status;
  return spread(workers, kNumbersPerKey * lists.size(), request.rows.rows / request.beams, [&](int64_t item) {
    Step(request, lists, item).run();
    return HARS_OK;
  });
}

// The lists of each row that softmax_topk makes, and what is needed for the log-probability of any other token.
struct Lists {
  List best;
  std::vector<float> maximum, log_sum;
  int64_t each;
};

struct Changed {
  float x, value;
  int64_t token;
};

// The tokens that change and are not in the list, each once, in the order of x and then of the tokens.
std::vector<Changed> outside(const hars_edited_topk_request &request, const Lists &lists, const List &list, int64_t row,
                             std::vector<Edit> &edits) {
  std::vector<Changed> found;
  for (int64_t i = 0; i < request.edits; ++i) {
    const int64_t token = request.tokens[row * request.edits + i];
    if (token < 0) continue;
    edits.push_back({token, request.changes[row * request.edits + i]});
    const bool is_known = std::find(list.tokens.begin(), list.tokens.end(), token) != list.tokens.end() ||
                          std::any_of(found.begin(), found.end(), [&](const Changed &c) { return c.token == token; });
    if (is_known) continue;
    const float x = hars::number_at(request.rows, row, token);
    const float maximum = lists.maximum[size_t(row)];
    const float logprob = maximum == -kInfinity ? -kInfinity : (x - maximum) - lists.log_sum[size_t(row)];
    found.push_back({x, logprob, token});
  }
  std::sort(found.begin(), found.end(), [](const Changed &a, const Changed &b) {
    return order_of(a.x) != order_of(b.x) ? order_of(a.x) > order_of(b.x) : a.token < b.token;
  });
  return found;
}

void edit_row(const hars_edited_topk_request &request, const Lists &lists, int64_t row) {
  List list, best;
  std::vector<Edit> edits;
  std::vector<int64_t> order;
  const auto values = lists.best.values.begin() + row * lists.each;
  const auto tokens = lists.best.tokens.begin() + row * lists.each;
  list.values.assign(values, values + lists.each);
  list.tokens.assign(tokens, tokens + lists.each);
  for (const Changed &one : outside(request, lists, list, row, edits)) {
    list.values.push_back(one.value);
    list.tokens.push_back(one.token);
  }
  edit(list, edits, request.k, best, order);
  std::copy(best.values.begin(), best.values.end(), request.values + row * request.k);
  std::copy(best.tokens.begin(), best.tokens.end(), request.indices + row * request.k);
}

int32_t edited_topk(const hars_edited_topk_request &request, const hars_workers &workers) {
  const int64_t rows = request.rows.rows;
  Lists lists;
  lists.each = std::min(request.rows.width, request.k + request.edits);
  lists.best.resize(rows * lists.each);
  lists.maximum.resize(size_t(rows));
  lists.log_sum.resize(size_t(rows));
  hars_softmax_topk_request best = best_of(request.rows, lists.each, HARS_LOGPROB);
  best.values = lists.best.values.data();
  best.indices = lists.best.tokens.data();
  best.maximum = lists.maximum.data();
  best.log_sum = lists.log_sum.data();
  const int32_t status = hars_softmax_topk(&best, &workers);
  if (status != HARS_OK) return status;
  return spread(workers, kNumbersPerKey * rows * (lists.each + request.edits), rows, [&](int64_t row) {
    edit_row(request, lists, row);
    return HARS_OK;
  });
}

}  // namespace

int32_t hars_beam_step(const hars_beam_step_request *request, const hars_workers *workers) {
  if (!is_valid(*request)) return HARS_BAD_REQUEST;
  if (request->rows.rows == 0) return HARS_OK;
  try {
    return beam_step(*request, workers ? *workers : hars::kAlone);
  } catch (const std::bad_alloc &) {
    return HARS_NO_MEMORY;
  }
}

int32_t hars_edited_topk(const hars_edited_topk_request *request, const hars_workers *workers) {
  const bool fits = request->k >= 1 && request->k <= request->rows.width && request->edits >= 0;
  if (!hars::is_valid(request->rows) || !fits) return HARS_BAD_REQUEST;
  if (request->rows.rows == 0) return HARS_OK;
  try {
    return edited_topk(*request, workers ? *workers : hars::kAlone);
  } catch (const std::bad_alloc &) {
    return HARS_NO_MEMORY;
  }
}
