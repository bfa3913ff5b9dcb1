#include "dispatch.h"

#include "pool.h"

namespace hars {
namespace {

// Below this, waking a thread costs more than it saves: 64 KB of float32.
constexpr int64_t kNumbersPerThread = 16384;

bool processor_has(int32_t isa) {
  if (isa == HARS_SCALAR) return true;
#ifdef HARS_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("popcnt");
  if (isa == HARS_AVX2) return avx2;
  if (isa == HARS_AVX512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return false;
}

}  // namespace

const RowSteps *steps_for(int32_t isa) {
  if (isa == HARS_AUTO) isa = hars_best_isa();
  if (!processor_has(isa)) return nullptr;
#ifdef HARS_X86
  if (isa == HARS_AVX512) return avx512_steps();
  if (isa == HARS_AVX2) return avx2_steps();
#endif
  return scalar_steps();
}

int32_t threads_for(const hars_workers &workers, int64_t numbers) {
  const int64_t paying = numbers / kNumbersPerThread;
  if (paying <= 1 || workers.threads <= 1) return 1;
  return paying < workers.threads ? int32_t(paying) : workers.threads;
}

void run_tasks(const hars_workers &workers, int32_t threads, hars_task task, void *data, int64_t count) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(data, i);
  } else if (workers.run_all) {
    workers.run_all(workers.pool, task, data, count);
  } else {
    run_on_pool(threads, task, data, count);
  }
}

}  // namespace hars

int32_t hars_abi_version(void) { return HARS_ABI_VERSION; }

int32_t hars_best_isa(void) {
  static const int32_t best = hars::processor_has(HARS_AVX512) ? HARS_AVX512
                              : hars::processor_has(HARS_AVX2) ? HARS_AVX2
                                                               : HARS_SCALAR;
  return best;
}

int32_t hars_has_isa(int32_t isa) { return isa == HARS_AUTO || hars::processor_has(isa); }
