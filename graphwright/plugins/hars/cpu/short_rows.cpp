#include "short_rows.h"

#include <math.h>
#include <string.h>

namespace hars {
namespace {

using Request = hars_softmax_topk_request;

bool is_normalised(const Request &request) {
  return request.log_sum || request.mode == HARS_LOGPROB || request.mode == HARS_PROB;
}

// The share of a selected number. Far below the best, the lanes' float32 difference is too rough, and their exp ends.
float share(const Together &found, int64_t j, int64_t lane, float sum) {
  const double distance = double(found.best[j][lane]) - double(found.best[0][lane]);
  return distance > -16 ? found.powers[j][lane] / sum : float(exp(distance) / double(sum));
}

void write_row(const Request &request, const Together &found, int64_t lane, int64_t row) {
  const float maximum = found.best[0][lane];
  const float log_sum = is_normalised(request) ? float(log(double(found.sums[lane]))) : 0.0f;
  float sum = found.sums[lane];
  if (request.mode == HARS_PROB_RENORM) {
    sum = 0.0f;
    for (int64_t j = 0; j < request.k; ++j) sum += found.powers[j][lane];
  }
  float *values = request.values + row * request.k;
  int64_t *indices = request.indices + row * request.k;
  for (int64_t j = 0; j < request.k; ++j) {
    indices[j] = int64_t(found.places[j][lane]);
    if (request.mode == HARS_LOGIT) {
      values[j] = found.best[j][lane];
    } else if (request.mode == HARS_LOGPROB) {
      values[j] = (found.best[j][lane] - maximum) - log_sum;
    } else {
      values[j] = share(found, j, lane, sum);
    }
  }
  if (request.maximum) request.maximum[row] = maximum;
  if (request.log_sum) request.log_sum[row] = log_sum;
}

}  // namespace

bool are_short_rows(const Request &request) {
  return request.width <= kTogetherWidth && request.k <= kTogetherK && !request.bias && request.inner == 1;
}

uint32_t rank_short_rows(const Request &request, const RowSteps &steps, int64_t first, int64_t count) {
  float values[kMostLanes * kTogetherWidth];
  const int64_t number_size = request.dtype == HARS_FLOAT32 ? 4 : 2;
  const char *logits = static_cast<const char *>(request.logits) + first * request.width * number_size;
  steps.widen({logits, nullptr, 1.0f / request.temperature, request.dtype, count * request.width}, values);
  // Lanes without a row of their own repeat the first.
  for (int64_t lane = count; lane < steps.lanes; ++lane) {
    memcpy(values + lane * request.width, values, size_t(request.width) * sizeof(float));
  }
  Together found;
  const uint32_t plain = steps.rank_together(values, request.width, request.k, is_normalised(request), &found);
  uint32_t done = 0;
  for (int64_t lane = 0; lane < count; ++lane) {
    if (!(plain >> lane & 1) || isinf(found.best[0][lane])) continue;
    write_row(request, found, lane, first + lane);
    done |= uint32_t(1) << lane;
  }
  return done;
}

}  // namespace hars
