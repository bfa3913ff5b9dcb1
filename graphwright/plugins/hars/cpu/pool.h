// The library's own threads, for callers that bring none.
#ifndef GRAPHWRIGHT_HARS_POOL_H
#define GRAPHWRIGHT_HARS_POOL_H

#include "hars.h"

namespace hars {

// Runs task(data, i) for i in [0, count) on at most `threads` threads, the caller's included; returns when all are
// done. Any number of callers may be in here at once, also after a fork().
void run_on_pool(int32_t threads, hars_task task, void *data, int64_t count);

}  // namespace hars

#endif
