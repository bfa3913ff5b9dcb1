// What the kernels ask of a GPU: every PTX instruction and intrinsic that they use sits behind one of these functions.
// Compiled with HARS_ON_HOST, the same functions come from an emulator (tests/plugins/hars/cuda_on_host), so that the
// kernels' own source runs on a machine without a GPU.
#ifndef GRAPHWRIGHT_HARS_BLOCK_CUH
#define GRAPHWRIGHT_HARS_BLOCK_CUH

#include <stdint.h>

#ifdef HARS_ON_HOST
#define HARS_DEVICE inline
#define HARS_HOST_DEVICE inline
#define HARS_KERNEL(threads, blocks) void
#define HARS_ARGUMENTS const
#else
#include <cuda_runtime.h>
#define HARS_DEVICE __device__ __forceinline__
#define HARS_HOST_DEVICE __host__ __device__ __forceinline__
// At most `threads` per block, and registers few enough for `blocks` of them on a multiprocessor.
#define HARS_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define HARS_ARGUMENTS const __grid_constant__
#endif

namespace hars {

// The types of logits, by their bits. VECTOR numbers fill the 16 bytes of the widest load.
struct Float32 {
  using Bits = uint32_t;
  static constexpr int VECTOR = 4;
  static constexpr uint32_t MINUS_INFINITY = 0xff800000u;
};
struct Float16 {
  using Bits = uint16_t;
  static constexpr int VECTOR = 8;
  static constexpr uint32_t MINUS_INFINITY = 0xfc00u;
};
struct Bfloat16 {
  using Bits = uint16_t;
  static constexpr int VECTOR = 8;
  static constexpr uint32_t MINUS_INFINITY = 0xff80u;
};

struct Vector16 {
  uint32_t word[4];
};

}  // namespace hars

#ifdef HARS_ON_HOST
#include "device_functions.h"
#else

namespace hars {

HARS_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
HARS_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
HARS_DEVICE int64_t block_total() { return static_cast<int64_t>(gridDim.x); }

HARS_DEVICE unsigned char *shared_memory() {
  extern __shared__ __align__(16) unsigned char pool[];
  return pool;
}

HARS_DEVICE float as_float(uint32_t bits) { return __uint_as_float(bits); }
HARS_DEVICE uint32_t as_bits(float number) { return __float_as_uint(number); }

// Rounded once each and never fused by the compiler, so that every kernel computes the same bits.
HARS_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
HARS_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
HARS_DEVICE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }

HARS_DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
HARS_DEVICE double multiply(double a, double b) { return __dmul_rn(a, b); }
HARS_DEVICE double as_double(uint64_t bits) { return __longlong_as_double(static_cast<long long>(bits)); }

// 2^x with a relative error of 2^-22; results below 2^-126 become 0.
HARS_DEVICE float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

HARS_DEVICE float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

HARS_DEVICE uint32_t packed_max(Float16, uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
HARS_DEVICE uint32_t packed_max(Bfloat16, uint32_t a, uint32_t b) {
  uint32_t result;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

HARS_DEVICE float half_to_float(uint32_t bits) {
  float result;
  asm("{ .reg .b16 half; cvt.u16.u32 half, %1; cvt.f32.f16 %0, half; }" : "=f"(result) : "r"(bits));
  return result;
}

// The logits are read once: they should not displace in L1 what is used again.
HARS_DEVICE Vector16 load_streaming(const void *address) {
  Vector16 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address));
  return v;
}

HARS_DEVICE Vector16 load_cached(const void *address) {
  Vector16 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(address));
  return v;
}

template <class Number>
HARS_DEVICE Number load_one(const Number *address) {
  return __ldg(address);
}

// The 32 bits that start `bits` (0 to 31) above the lowest bit of high:low.
HARS_DEVICE uint32_t shift_pair(uint32_t low, uint32_t high, uint32_t bits) {
  return __funnelshift_r(low, high, bits);
}

HARS_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }
HARS_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }

constexpr uint32_t ALL_LANES = 0xffffffffu;

// All 32 lanes call these together.
HARS_DEVICE void warp_sync() { __syncwarp(); }
HARS_DEVICE uint32_t warp_ballot(bool yes) { return __ballot_sync(ALL_LANES, yes); }
HARS_DEVICE uint32_t warp_max(uint32_t n) { return __reduce_max_sync(ALL_LANES, n); }
HARS_DEVICE uint32_t warp_min(uint32_t n) { return __reduce_min_sync(ALL_LANES, n); }
HARS_DEVICE uint32_t warp_sum(uint32_t n) { return __reduce_add_sync(ALL_LANES, n); }
template <class Number>
HARS_DEVICE Number shuffle_xor(Number n, int lanes) {
  return __shfl_xor_sync(ALL_LANES, n, lanes);
}
template <class Number>
HARS_DEVICE Number shuffle_from(Number n, int lane) {
  return __shfl_sync(ALL_LANES, n, lane);
}
template <class Number>
HARS_DEVICE Number shuffle_up(Number n, int lanes) {
  return __shfl_up_sync(ALL_LANES, n, lanes);
}

// All threads of the block call these together.
HARS_DEVICE void block_sync() { __syncthreads(); }
HARS_DEVICE int block_count(bool yes) { return __syncthreads_count(yes); }

HARS_DEVICE uint32_t shared_add(uint32_t *counter, uint32_t n) { return atomicAdd(counter, n); }

// Clusters: from sm_90 on. Before, a block is a cluster of its own.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
HARS_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Marks that this thread is there.
HARS_DEVICE void cluster_announce() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
// Marks that this thread has come so far; what it wrote before is seen by whoever waits.
HARS_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
HARS_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// The same place in the shared memory of another block of the cluster.
template <class Number>
HARS_DEVICE Number *in_block_of_cluster(Number *address, int rank) {
  uint64_t mapped;
  asm("mapa.u64 %0, %1, %2;" : "=l"(mapped) : "l"(reinterpret_cast<uint64_t>(address)), "r"(rank));
  return reinterpret_cast<Number *>(mapped);
}
#else
HARS_DEVICE int cluster_rank() { return 0; }
HARS_DEVICE void cluster_announce() {}
HARS_DEVICE void cluster_arrive() {}
HARS_DEVICE void cluster_wait() { __syncthreads(); }
template <class Number>
HARS_DEVICE Number *in_block_of_cluster(Number *address, int) {
  return address;
}
#endif

}  // namespace hars

#endif  // HARS_ON_HOST

namespace hars {

// Larger numbers get larger keys; NaN, of either sign, the largest; -0.0 and +0.0 the same. 0 is no number's key.
HARS_DEVICE uint32_t ordered_key(float x) {
  if (x != x) return 0xffffffffu;
  const uint32_t bits = as_bits(add(x, 0.0f));
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}

HARS_DEVICE float number_of_key(uint32_t key) {
  return as_float(key ^ (key >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

// Key and index in one number: larger is earlier in the order, and no two elements of a row have the same.
HARS_DEVICE uint64_t element_key(uint32_t key, uint32_t index) {
  return static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(~index);
}
HARS_DEVICE uint32_t index_of_element(uint64_t element) { return ~static_cast<uint32_t>(element); }
HARS_DEVICE float number_of_element(uint64_t element) { return number_of_key(static_cast<uint32_t>(element >> 32)); }

// The numbers in one 32-bit word of a vector, by their place in it.
HARS_DEVICE float number_in_word(Float32, uint32_t word, int) { return as_float(word); }
HARS_DEVICE float number_in_word(Float16, uint32_t word, int place) {
  return half_to_float(place == 0 ? word & 0xffffu : word >> 16);
}
HARS_DEVICE float number_in_word(Bfloat16, uint32_t word, int place) {
  return as_float(place == 0 ? word << 16 : word & 0xffff0000u);
}
template <class Type>
HARS_DEVICE float number_in_vector(const Vector16 &v, int i) {
  constexpr int PER_WORD = Type::VECTOR / 4;
  return number_in_word(Type(), v.word[i / PER_WORD], i % PER_WORD);
}

}  // namespace hars

#endif
