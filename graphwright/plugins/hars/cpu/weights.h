// The weights of sampling, exp(x - maximum), and their sums, as search/weights.py spells them out: float64, in one
// order of operations, so that NumPy, every processor and CUDA have the same bits.
//
// weights.cpp and everything that adds weights is compiled with -ffp-contract=off: a fused multiplication and addition
// rounds once instead of twice.
#ifndef GRAPHWRIGHT_HARS_WEIGHTS_H
#define GRAPHWRIGHT_HARS_WEIGHTS_H

#include <stdint.h>

namespace hars {

// A sum in index order: of 32 weights by halving, of 32 such sums by halving, of these one after the other.
constexpr int64_t kLeaf = 32;
constexpr int64_t kWeightBlock = kLeaf * kLeaf;

struct WeightSteps {
  // weights[i] = exp(x[i] - maximum) for i in [0, 32 * leaves); maximum finite, no x above it.
  void (*weigh)(const float *x, int64_t leaves, float maximum, double *weights);

  // Their sums, one a leaf.
  void (*sum_leaves)(const float *x, int64_t leaves, float maximum, double *sums);
};

// For an instruction set that this processor has: a hars_isa, not HARS_AUTO.
WeightSteps weight_steps(int32_t isa);

// The sum of 32 numbers, the upper half added to the lower until one is left.
double halved(const double *values);

}  // namespace hars

#endif
