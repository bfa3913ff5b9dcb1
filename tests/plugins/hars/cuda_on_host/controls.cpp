// The emulator's switches, for the test's ctypes.
#include "emulator.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void host_set_seed(uint32_t seed) { hars_host::set_seed(seed); }
EXPORTED void host_set_clusters(int32_t available) { hars_host::set_clusters(available != 0); }
EXPORTED void host_set_multiprocessors(int32_t count) { hars_host::set_multiprocessors(count); }
EXPORTED void host_permit_reads(const void *begin, int64_t bytes) {
  hars_host::permit_reads(begin, static_cast<size_t>(bytes));
}
EXPORTED void host_permit_all_reads() { hars_host::permit_all_reads(); }
EXPORTED const char *host_last_error() { return hars_host::last_error(); }
