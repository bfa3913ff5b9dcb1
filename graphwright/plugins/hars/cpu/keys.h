// Work on keys (number.h) that no vector speeds up; compiled once, for every processor.
#ifndef GRAPHWRIGHT_HARS_KEYS_H
#define GRAPHWRIGHT_HARS_KEYS_H

#include <stdint.h>

namespace hars {

// Moves the k largest of count keys to the front, in no order, and returns the least of them; 1 <= k <= count.
int64_t keep_largest(int64_t *keys, int64_t count, int64_t k);

void sort_descending(int64_t *keys, int64_t count);

// The k largest of numbers among which there may be NaN, best first; keys has room for count.
void largest_with_nan(const float *values, int64_t count, int64_t k, int64_t *keys);

}  // namespace hars

#endif
