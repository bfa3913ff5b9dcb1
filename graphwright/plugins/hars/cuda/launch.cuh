// Launching kernels: the one part that knows the CUDA runtime, or the emulator in its place.
// The only state kept between calls is what was asked of a device once.
#ifndef GRAPHWRIGHT_HARS_LAUNCH_CUH
#define GRAPHWRIGHT_HARS_LAUNCH_CUH

#include <atomic>

#include "block.cuh"

namespace hars {

constexpr int32_t BAD_REQUEST = -1;
constexpr int MAX_DEVICES = 64;

struct Grid {
  int64_t blocks;
  int threads;
  int cluster;
  int shared_bytes;
};

#ifdef HARS_ON_HOST

inline int current_device() { return 0; }
inline int multiprocessors(int) { return hars_host::multiprocessors(); }

template <class Arguments>
int largest_cluster(void (*)(Arguments), int, int, int) {
  return hars_host::has_clusters() ? 16 : 1;
}

template <class Arguments, class Given>
int32_t launch(void (*kernel)(Arguments), const Grid &grid, const Given &arguments, void *) {
  const hars_host::Shape shape{grid.blocks, grid.threads, grid.cluster, static_cast<size_t>(grid.shared_bytes)};
  return hars_host::launch(shape, [&] { kernel(arguments); });
}

#else

inline int current_device() {
  int device = 0;
  return cudaGetDevice(&device) == cudaSuccess && device < MAX_DEVICES ? device : -1;
}

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

inline int multiprocessors(int device) {
  static std::atomic<int> known[MAX_DEVICES];
  int count = known[device].load(std::memory_order_relaxed);
  if (count == 0) {
    count = attribute(cudaDevAttrMultiProcessorCount, device);
    known[device].store(count, std::memory_order_relaxed);
  }
  return count;
}

inline cudaLaunchConfig_t configuration(const Grid &grid, void *stream, cudaLaunchAttribute *cluster) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  if (grid.cluster > 1) {
    cluster->id = cudaLaunchAttributeClusterDimension;
    cluster->val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    cluster->val.clusterDim.y = cluster->val.clusterDim.z = 1;
    config.attrs = cluster;
    config.numAttrs = 1;
  }
  return config;
}

template <class Arguments>
int find_largest_cluster(void (*kernel)(Arguments), int device, int threads, int shared_bytes) {
  cudaFuncAttributes attributes;
  if (attribute(cudaDevAttrClusterLaunch, device) == 0) return 1;
  // Code that was made from PTX of an older architecture has no cluster instructions.
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess || attributes.ptxVersion < 90) return 1;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  for (int size = 16; size > 1; size /= 2) {
    cudaLaunchAttribute cluster;
    const cudaLaunchConfig_t config = configuration({size, threads, size, shared_bytes}, nullptr, &cluster);
    int fit = 0;
    const cudaError_t status = cudaOccupancyMaxActiveClusters(&fit, kernel, &config);
    if (status == cudaSuccess && fit > 0) return size;
    if (status != cudaSuccess) cudaGetLastError();  // a size that does not fit is not the caller's concern
  }
  return 1;
}

// The most blocks that a cluster of this kernel can have; `which` numbers the kernels that are asked about.
template <class Arguments>
int largest_cluster(void (*kernel)(Arguments), int which, int threads, int shared_bytes) {
  constexpr int MAX_KERNELS = 8;
  static std::atomic<int> known[MAX_DEVICES][MAX_KERNELS];
  const int device = current_device();
  if (device < 0) return 1;
  int size = known[device][which].load(std::memory_order_relaxed);
  if (size == 0) {
    size = find_largest_cluster(kernel, device, threads, shared_bytes);
    known[device][which].store(size, std::memory_order_relaxed);
  }
  return size;
}

template <class Arguments, class Given>
int32_t launch(void (*kernel)(Arguments), const Grid &grid, const Given &arguments, void *stream) {
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = configuration(grid, stream, &cluster);
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments);
  if (status != cudaSuccess) cudaGetLastError();  // told here; the next caller of the runtime need not hear of it too
  return static_cast<int32_t>(status);
}

#endif

}  // namespace hars

#endif
