// Which steps run on this processor, and on which threads.
#ifndef GRAPHWRIGHT_HARS_DISPATCH_H
#define GRAPHWRIGHT_HARS_DISPATCH_H

#include "hars.h"
#include "row.h"

namespace hars {

// The steps for a hars_isa, HARS_AUTO included; null where the processor or the build has none.
const RowSteps *steps_for(int32_t isa);

// How many of the workers are worth waking for so many numbers.
int32_t threads_for(const hars_workers &workers, int64_t numbers);

void run_tasks(const hars_workers &workers, int32_t threads, hars_task task, void *data, int64_t count);

}  // namespace hars

#endif
