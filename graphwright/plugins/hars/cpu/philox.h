// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11).
#ifndef GRAPHWRIGHT_HARS_PHILOX_H
#define GRAPHWRIGHT_HARS_PHILOX_H

#include <stdint.h>

namespace hars {

// The first of the four words that a counter and a key give.
inline uint32_t philox4x32_first(const uint32_t (&counter)[4], const uint32_t (&key)[2]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(0xD2511F53u) * c0;
    const uint64_t b = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(b >> 32) ^ c1 ^ k0;
    c1 = uint32_t(b);
    c2 = uint32_t(a >> 32) ^ c3 ^ k1;
    c3 = uint32_t(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// A number in [0, 1) for a row: a multiple of 2**-32.
inline double uniform(uint64_t seed, uint64_t offset, uint64_t row) {
  const uint32_t counter[4] = {uint32_t(offset), uint32_t(offset >> 32), uint32_t(row), uint32_t(row >> 32)};
  const uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  return double(philox4x32_first(counter, key)) * 0x1p-32;
}

}  // namespace hars

#endif
