// The device functions of block.cuh, made of the emulator. block.cuh includes this after its types.
#ifndef HARS_CUDA_ON_HOST_DEVICE_FUNCTIONS_H
#define HARS_CUDA_ON_HOST_DEVICE_FUNCTIONS_H

#include <cmath>
#include <cstring>

#include "emulator.h"

namespace hars {

inline int thread_index() { return hars_host::thread_index(); }
inline int64_t block_index() { return hars_host::block_index(); }
inline int64_t block_total() { return hars_host::block_total(); }
inline unsigned char *shared_memory() { return hars_host::shared_memory(hars_host::cluster_rank()); }

inline float as_float(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, 4);
  return number;
}
inline uint32_t as_bits(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  return bits;
}
inline float add(float a, float b) { return a + b; }
inline float multiply(float a, float b) { return a * b; }
inline double add(double a, double b) { return a + b; }
inline double multiply(double a, double b) { return a * b; }
inline double as_double(uint64_t bits) {
  double number;
  std::memcpy(&number, &bits, 8);
  return number;
}
inline float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline float exp2_fast(float x) {
  const float result = std::exp2(x);
  return result < 1.17549435e-38f ? 0.0f : result;
}
inline float max_or_nan(float a, float b) { return a != a || b != b ? NAN : (a > b ? a : b); }

inline float half_to_float(uint32_t bits) {
  const float sign = bits & 0x8000u ? -1.0f : 1.0f;
  const int exponent = static_cast<int>(bits >> 10 & 31u);
  const float fraction = static_cast<float>(bits & 1023u);
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024.0f, exponent - 25));
}
inline float bfloat_to_float(uint32_t bits) { return as_float(bits << 16); }

template <class ToFloat>
uint32_t packed_max_by(ToFloat to_float, uint32_t nan, uint32_t a, uint32_t b) {
  uint32_t result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const uint32_t left = a >> shift & 0xffffu, right = b >> shift & 0xffffu;
    const float x = to_float(left), y = to_float(right);
    result |= (x != x || y != y ? nan : (x > y ? left : right)) << shift;
  }
  return result;
}
inline uint32_t packed_max(Float16, uint32_t a, uint32_t b) {
  return packed_max_by(half_to_float, 0x7fffu, a, b);
}
inline uint32_t packed_max(Bfloat16, uint32_t a, uint32_t b) {
  return packed_max_by(bfloat_to_float, 0x7fffu, a, b);
}

inline Vector16 load_cached(const void *address) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) hars_host::fail("a 16-byte load is not aligned");
  hars_host::check_read(address, 16);
  Vector16 v;
  std::memcpy(&v, address, 16);
  return v;
}
inline Vector16 load_streaming(const void *address) { return load_cached(address); }

template <class Number>
Number load_one(const Number *address) {
  hars_host::check_read(address, sizeof(Number));
  return *address;
}

inline uint32_t shift_pair(uint32_t low, uint32_t high, uint32_t bits) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (bits & 31u));
}
inline int count_bits(uint32_t bits) { return __builtin_popcount(bits); }
inline uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

inline void warp_sync() { hars_host::warp_gather(1, 0); }
inline uint32_t warp_ballot(bool yes) {
  const uint64_t *lanes = hars_host::warp_gather(2, yes);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(lanes[lane]) << lane;
  return bits;
}
template <class Better>
uint32_t warp_fold(int kind, uint32_t n, Better better) {
  const uint64_t *lanes = hars_host::warp_gather(kind, n);
  uint32_t result = static_cast<uint32_t>(lanes[0]);
  for (int lane = 1; lane < 32; ++lane) result = better(result, static_cast<uint32_t>(lanes[lane]));
  return result;
}
inline uint32_t warp_max(uint32_t n) {
  return warp_fold(3, n, [](uint32_t a, uint32_t b) { return a > b ? a : b; });
}
inline uint32_t warp_min(uint32_t n) {
  return warp_fold(4, n, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
}
inline uint32_t warp_sum(uint32_t n) {
  return warp_fold(5, n, [](uint32_t a, uint32_t b) { return a + b; });
}
template <class Number>
Number lane_value(int kind, Number n, int lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &n, sizeof(Number));
  const uint64_t *lanes = hars_host::warp_gather(kind, bits);
  std::memcpy(&n, &lanes[lane], sizeof(Number));
  return n;
}
template <class Number>
Number shuffle_xor(Number n, int lanes) {
  return lane_value(6, n, (thread_index() & 31) ^ lanes);
}
template <class Number>
Number shuffle_from(Number n, int lane) {
  return lane_value(7, n, lane & 31);
}
template <class Number>
Number shuffle_up(Number n, int lanes) {
  const int lane = thread_index() & 31;
  return lane_value(8, n, lane >= lanes ? lane - lanes : lane);
}

inline void block_sync() { hars_host::block_barrier(1, false); }
inline int block_count(bool yes) { return hars_host::block_barrier(2, yes); }
inline uint32_t shared_add(uint32_t *counter, uint32_t n) {
  const uint32_t before = *counter;
  *counter += n;
  return before;
}

inline int cluster_rank() { return hars_host::cluster_rank(); }
inline void cluster_announce() { hars_host::cluster_arrive(); }
inline void cluster_arrive() { hars_host::cluster_arrive(); }
inline void cluster_wait() { hars_host::cluster_wait(); }
template <class Number>
Number *in_block_of_cluster(Number *address, int rank) {
  unsigned char *own = shared_memory();
  const ptrdiff_t offset = reinterpret_cast<unsigned char *>(address) - own;
  return reinterpret_cast<Number *>(hars_host::shared_memory(rank) + offset);
}

}  // namespace hars

#endif
