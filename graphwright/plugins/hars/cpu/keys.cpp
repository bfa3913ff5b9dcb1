#include "keys.h"

#include <algorithm>
#include <functional>

#include "number.h"

namespace hars {

int64_t keep_largest(int64_t *keys, int64_t count, int64_t k) {
  std::nth_element(keys, keys + (k - 1), keys + count, std::greater<int64_t>());
  return keys[k - 1];
}

void sort_descending(int64_t *keys, int64_t count) { std::sort(keys, keys + count, std::greater<int64_t>()); }

void largest_with_nan(const float *values, int64_t count, int64_t k, int64_t *keys) {
  for (int64_t i = 0; i < count; ++i) keys[i] = key_of(values[i], i);
  keep_largest(keys, count, k);
  sort_descending(keys, k);
}

}  // namespace hars
