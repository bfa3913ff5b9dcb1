#include "outputs.h"

#include <math.h>

#include "number.h"

namespace hars {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

template <class T>
float edited(const Row &row, int64_t i) {
  float x = widen(static_cast<const T *>(row.logits)[i]);
  if (row.bias) x = x + row.bias[i];
  return row.bias || row.scale != 1.0f ? x * row.scale : x;
}

float number_at(const Row &row, int64_t i) {
  if (row.dtype == HARS_FLOAT16) return edited<Half>(row, i);
  if (row.dtype == HARS_BFLOAT16) return edited<Bfloat16>(row, i);
  return edited<float>(row, i);
}

// x of a key. A key has lost the sign of zero and what a NaN looked like; the row still has them.
float number_of(const Row &row, int64_t key) {
  const int32_t order = order_of_key(key);
  if (order == 0 || order > order_of(kInfinity)) return number_at(row, index_of(key));
  return value_of_order(order);
}

double sum_of_selected(const Row &row, const int64_t *keys, int64_t k) {
  const double maximum = number_of(row, keys[0]);
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += exp(double(number_of(row, keys[i])) - maximum);
  return sum;
}

}  // namespace

float log_sum_of(const Summary &summary) {
  if (summary.has_nan || summary.maximum == kInfinity) return kNan;
  return summary.maximum == -kInfinity ? -kInfinity : float(log(summary.sum));
}

void write_selected(const Row &row, const Summary &summary, int32_t mode, const int64_t *keys, int64_t k, float *values,
                    int64_t *indices, int64_t step) {
  for (int64_t i = 0; i < k; ++i) indices[i * step] = index_of(keys[i]);
  if (mode == HARS_LOGIT) {
    for (int64_t i = 0; i < k; ++i) values[i * step] = number_of(row, keys[i]);
    return;
  }
  if (summary.has_nan || isinf(summary.maximum)) {
    const float empty = mode == HARS_LOGPROB ? -kInfinity : 0.0f;  // all of the row is -inf
    const float value = summary.maximum == -kInfinity ? empty : kNan;
    for (int64_t i = 0; i < k; ++i) values[i * step] = value;
    return;
  }
  if (mode == HARS_LOGPROB) {
    const float log_sum = log_sum_of(summary);
    for (int64_t i = 0; i < k; ++i) values[i * step] = (number_of(row, keys[i]) - summary.maximum) - log_sum;
    return;
  }
  const double sum = mode == HARS_PROB ? summary.sum : sum_of_selected(row, keys, k);
  for (int64_t i = 0; i < k; ++i) {
    values[i * step] = float(exp(double(number_of(row, keys[i])) - double(summary.maximum)) / sum);
  }
}

}  // namespace hars
