// Rows that are too short to be worth the care that long ones get: routers with few experts, small classifiers.
#ifndef GRAPHWRIGHT_HARS_SHORT_ROWS_H
#define GRAPHWRIGHT_HARS_SHORT_ROWS_H

#include "hars.h"
#include "row.h"

namespace hars {

// Whether a request's rows are of this kind; a matter of width, k and options alone, so that a row's result does not
// depend on how many there are.
bool are_short_rows(const hars_softmax_topk_request &request);

// Ranks the rows [first, first + count), at most steps.lanes, and writes their results; returns a bit for each row that
// is done. The others hold a NaN, or their largest number is infinite: they need the policy for that.
uint32_t rank_short_rows(const hars_softmax_topk_request &request, const RowSteps &steps, int64_t first, int64_t count);

}  // namespace hars

#endif
