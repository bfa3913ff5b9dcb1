// A double of libcuda that needs no GPU, for the calls of runtime/tensorrt/cuda_driver.py through ctypes: device memory is
// main memory, and everything happens at once. Handles are addresses above 2^32, so that one cut to 32 bits shows.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace {
constexpr int kInvalid = 1, kOutOfMemory = 2;
constexpr size_t kRoom = 1 << 20;
constexpr uintptr_t kHandles = 0x700000000000;

using Work = std::function<void()>;
using Graph = std::vector<Work>;

int pushed = 0, contexts = 0;
uintptr_t handle_count = 0, capturing = 0;
Graph *recorded = nullptr;
bool fail_end = false;

void *handle() { return reinterpret_cast<void *>(kHandles + 16 * ++handle_count); }

int put(void *stream, Work work) {
  if (!pushed || (stream && reinterpret_cast<uintptr_t>(stream) < kHandles)) return kInvalid;
  if (capturing && reinterpret_cast<uintptr_t>(stream) == capturing) {
    recorded->push_back(work);
  } else {
    work();
  }
  return 0;
}
}  // namespace

extern "C" {
void set_fail_end(int value) { fail_end = value; }
int contexts_held() { return contexts; }
int contexts_pushed() { return pushed; }

int cuInit(unsigned flags) { return flags ? kInvalid : 0; }
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal + 40;
  return ordinal == 0 ? 0 : 101;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
  *context = handle();
  ++contexts;
  return device == 40 ? 0 : kInvalid;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
  --contexts;
  return device == 40 ? 0 : kInvalid;
}
int cuCtxPushCurrent_v2(void *context) {
  ++pushed;
  return context ? 0 : kInvalid;
}
int cuCtxPopCurrent_v2(void **context) {
  *context = handle();
  --pushed;
  return 0;
}
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  if (!pushed) return kInvalid;
  if (size > kRoom) return kOutOfMemory;
  *address = reinterpret_cast<uint64_t>(std::aligned_alloc(256, (size + 255) / 256 * 256));
  return 0;
}
int cuMemFree_v2(uint64_t address) {
  std::free(reinterpret_cast<void *>(address));
  return pushed ? 0 : kInvalid;
}
int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, void *stream) {
  return put(stream, [=] { std::memcpy(reinterpret_cast<void *>(target), source, size); });
}
int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, void *stream) {
  return put(stream, [=] { std::memcpy(target, reinterpret_cast<void *>(source), size); });
}
int cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, void *stream) {
  return put(stream, [=] { std::memcpy(reinterpret_cast<void *>(target), reinterpret_cast<void *>(source), size); });
}
int cuStreamCreate(void **stream, unsigned flags) {
  *stream = handle();
  return flags == 1 && pushed ? 0 : kInvalid;
}
int cuStreamDestroy_v2(void *stream) { return put(stream, [] {}); }
int cuStreamSynchronize(void *stream) { return put(stream, [] {}); }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
  return flags == 0 && reinterpret_cast<uintptr_t>(event) > kHandles ? put(stream, [] {}) : kInvalid;
}
int cuEventCreate(void **event, unsigned flags) {
  *event = handle();
  return flags == 2 && pushed ? 0 : kInvalid;
}
int cuEventRecord(void *event, void *stream) {
  return reinterpret_cast<uintptr_t>(event) > kHandles ? put(stream, [] {}) : kInvalid;
}
int cuEventSynchronize(void *event) { return reinterpret_cast<uintptr_t>(event) > kHandles ? 0 : kInvalid; }
int cuEventDestroy_v2(void *event) { return reinterpret_cast<uintptr_t>(event) > kHandles ? 0 : kInvalid; }
int cuStreamBeginCapture_v2(void *stream, int mode) {
  if (!stream || mode != 1 || capturing) return kInvalid;
  capturing = reinterpret_cast<uintptr_t>(stream);
  recorded = new Graph;
  return 0;
}
int cuStreamEndCapture(void *stream, void **graph) {
  if (reinterpret_cast<uintptr_t>(stream) != capturing) return kInvalid;
  capturing = 0;
  *graph = fail_end ? nullptr : recorded;
  return fail_end ? 901 : 0;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  *executable = new Graph(*static_cast<Graph *>(graph));
  return flags ? kInvalid : 0;
}
int cuGraphLaunch(void *executable, void *stream) {
  return put(stream, [=] {
    for (auto &work : *static_cast<Graph *>(executable)) work();
  });
}
int cuGraphDestroy(void *graph) {
  delete static_cast<Graph *>(graph);
  return 0;
}
int cuGraphExecDestroy(void *executable) { return cuGraphDestroy(executable); }
int cuGetErrorName(int status, const char **text) {
  *text = status == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : status == 901 ? "CUDA_ERROR_CAPTURE" : nullptr;
  return *text ? 0 : kInvalid;
}
}
