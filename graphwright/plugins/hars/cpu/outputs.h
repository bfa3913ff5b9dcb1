// From the selected keys and the sums of a row to the outputs that were asked for.
#ifndef GRAPHWRIGHT_HARS_OUTPUTS_H
#define GRAPHWRIGHT_HARS_OUTPUTS_H

#include "hars.h"
#include "row.h"

namespace hars {

// What is known of a row once it was read.
struct Summary {
  bool has_nan;
  float maximum;  // NaN if has_nan
  double sum;     // of exp(x - maximum); 0 where it was not asked for
};

float log_sum_of(const Summary &summary);

// Writes the k numbers and indices of one row; `step` is the distance between neighbours.
void write_selected(const Row &row, const Summary &summary, int32_t mode, const int64_t *keys, int64_t k, float *values,
                    int64_t *indices, int64_t step);

}  // namespace hars

#endif
