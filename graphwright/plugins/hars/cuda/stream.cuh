// Phase 1: the only full read of the logits. Each thread keeps, for each of its groups, the maximum and (where the
// normaliser is wanted) the sum of 2^(x * log2(e) - reference), where the reference is the maximum so far in units of
// powers of two: the online softmax of arXiv 1805.02867, a tile at a time.
#ifndef GRAPHWRIGHT_HARS_STREAM_CUH
#define GRAPHWRIGHT_HARS_STREAM_CUH

#include "layout.cuh"

namespace hars {

constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.693147181f;
// References are kept above this, so that even a group of minus infinities has a finite one. A row whose maximum is
// further from 0 is summed again with more care (statistics.cuh): float32 cannot resolve x * log2(e) there.
constexpr float LARGEST_REFERENCE = 1048576.0f;

HARS_DEVICE float reference_of(float maximum) { return fmaxf(multiply(maximum, LOG2_E), -LARGEST_REFERENCE); }

HARS_DEVICE float maximum_of(Float32, const Vector16 &v) {
  return max_or_nan(max_or_nan(as_float(v.word[0]), as_float(v.word[1])),
                    max_or_nan(as_float(v.word[2]), as_float(v.word[3])));
}
template <class Type>
HARS_DEVICE uint32_t packed_maximum(const Vector16 &v) {
  return packed_max(Type(), packed_max(Type(), v.word[0], v.word[1]), packed_max(Type(), v.word[2], v.word[3]));
}

HARS_DEVICE float maximum_of_tile(Float32, const Vector16 (&v)[TILE_VECTORS]) {
  return max_or_nan(max_or_nan(maximum_of(Float32(), v[0]), maximum_of(Float32(), v[1])),
                    max_or_nan(maximum_of(Float32(), v[2]), maximum_of(Float32(), v[3])));
}
// Two numbers at a time, unpacked only at the end.
template <class Type>
HARS_DEVICE float maximum_of_tile(Type, const Vector16 (&v)[TILE_VECTORS]) {
  const uint32_t pair = packed_max(Type(), packed_max(Type(), packed_maximum<Type>(v[0]), packed_maximum<Type>(v[1])),
                                   packed_max(Type(), packed_maximum<Type>(v[2]), packed_maximum<Type>(v[3])));
  return max_or_nan(number_in_word(Type(), pair, 0), number_in_word(Type(), pair, 1));
}

// A tree, for accuracy and because its branches do not wait for each other.
template <int COUNT>
HARS_DEVICE float sum_of_powers(const float (&x)[COUNT], float reference) {
  float power[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; ++i) power[i] = exp2_fast(multiply_add(x[i], LOG2_E, -reference));
#pragma unroll
  for (int half = COUNT / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) power[i] = add(power[i], power[i + half]);
  }
  return power[0];
}

struct Group {
  float maximum = as_float(0xff800000u);  // minus infinity
  float reference = -LARGEST_REFERENCE;
  float sum = 0.0f;

  // After the maximum has risen: what the sum was, in the new unit, which is `reference` from here on.
  HARS_DEVICE float rescaled_sum() {
    const float before = reference;
    reference = reference_of(maximum);
    return multiply(sum, exp2_fast(add(before, -reference)));
  }
};

template <class Type>
HARS_DEVICE void take_tile(Group &group, const Vector16 (&v)[TILE_VECTORS], bool needs_sum) {
  group.maximum = max_or_nan(group.maximum, maximum_of_tile(Type(), v));
  if (!needs_sum) return;
  const float before = group.rescaled_sum();
  float sums[TILE_VECTORS];
#pragma unroll
  for (int i = 0; i < TILE_VECTORS; ++i) {
    float x[Type::VECTOR];
    numbers_of_vector<Type>(v[i], x);
    sums[i] = sum_of_powers(x, group.reference);
  }
  group.sum = add(before, add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

template <class Type>
HARS_DEVICE void take_edited_vector(Group &group, const Edit &edit, const Vector16 &v, int vector, bool needs_sum) {
  float x[Type::VECTOR];
  numbers_of_vector<Type>(v, x);
  edit_vector<Type>(edit, vector, x);
#pragma unroll
  for (int i = 0; i < Type::VECTOR; ++i) group.maximum = max_or_nan(group.maximum, x[i]);
  if (!needs_sum) return;
  const float before = group.rescaled_sum();
  group.sum = add(before, sum_of_powers(x, group.reference));
}

template <class W>
HARS_DEVICE Group read_group(const W &work, int chain) {
  using Type = typename W::Type;
  constexpr int THREADS = W::Team::THREADS;
  Group group;
  const int end = work.layout.first_tile(chain + 1);
  for (int tile = work.layout.first_tile(chain); tile < end; ++tile) {
    const int begin = tile * THREADS * TILE_VECTORS;
    const int first = begin + work.team.rank();
    Vector16 v[TILE_VECTORS];
    load_four(work.row, first, THREADS, begin, begin + THREADS * TILE_VECTORS, v);
    if constexpr (W::EDITED) {
#pragma unroll
      for (int i = 0; i < TILE_VECTORS; ++i)
        take_edited_vector<Type>(group, work.edit, v[i], first + i * THREADS, work.p.needs_sum);
    } else {
      take_tile<Type>(group, v, work.p.needs_sum);
    }
  }
  return group;
}

// Reads the chains [begin, end) and leaves each group's key and sum at keys[group] and sums[group]; an empty group has
// key 0. before_writing() is called once, when there is something to write.
template <class W, class BeforeWriting>
HARS_DEVICE void stream(const W &work, int begin, int end, uint32_t *keys, float *sums, BeforeWriting before_writing) {
  constexpr int THREADS = W::Team::THREADS;
  for (int chain = begin; chain < end; ++chain) {
    const Group group = read_group(work, chain);
    if (chain == begin) before_writing();
    const int first_vector = work.layout.first_tile(chain) * THREADS * TILE_VECTORS + work.team.rank();
    const int slot = chain * THREADS + work.team.rank();
    keys[slot] = first_vector * W::Type::VECTOR < work.p.width ? ordered_key(group.maximum) : 0u;
    if (work.p.needs_sum) sums[slot] = group.sum;
  }
}

}  // namespace hars

#endif
