// Rows of logits, read in vectors of 16 bytes wherever the row begins.
// Vector v of a row is its elements [v * VECTOR, (v + 1) * VECTOR), not 16 bytes of memory: so the work, and every
// rounding, is laid out the same for all rows. Rows that do not begin at a multiple of 16 bytes read the two aligned
// blocks around a vector and shift. Nothing outside [begin, begin + width) is ever read.
#ifndef GRAPHWRIGHT_HARS_ROWS_CUH
#define GRAPHWRIGHT_HARS_ROWS_CUH

#include "block.cuh"

namespace hars {

template <class Type>
struct Row {
  const typename Type::Bits *begin;
  int width;
  int ahead;  // elements between the last 16-byte boundary and `begin`
};

template <class Type>
HARS_DEVICE Row<Type> row_at(const void *numbers, int64_t first, int width) {
  const auto *begin = static_cast<const typename Type::Bits *>(numbers) + first;
  const auto address = reinterpret_cast<uint64_t>(begin);
  return {begin, width, static_cast<int>((address & 15u) / sizeof(typename Type::Bits))};
}

// The 16 bytes that start `bytes` (1 to 15) after the start of low.
HARS_DEVICE Vector16 shifted(const Vector16 &low, const Vector16 &high, int bytes) {
  const uint32_t all[8] = {low.word[0],  low.word[1],  low.word[2],  low.word[3],
                           high.word[0], high.word[1], high.word[2], high.word[3]};
  uint32_t by_two[6], by_one[5];
#pragma unroll
  for (int i = 0; i < 6; ++i) by_two[i] = bytes & 8 ? all[i + 2] : all[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) by_one[i] = bytes & 4 ? by_two[i + 1] : by_two[i];
  Vector16 v;
#pragma unroll
  for (int i = 0; i < 4; ++i) v.word[i] = shift_pair(by_one[i], by_one[i + 1], static_cast<uint32_t>(bytes & 3) * 8);
  return v;
}

template <class Type>
HARS_DEVICE Vector16 load_shifted(const Row<Type> &row, int vector) {
  const auto *block = row.begin + vector * Type::VECTOR - row.ahead;
  const int bytes = row.ahead * static_cast<int>(sizeof(typename Type::Bits));
  return shifted(load_cached(block), load_cached(block + Type::VECTOR), bytes);
}

// Beyond the end of the row: minus infinity.
template <class Type>
HARS_DEVICE Vector16 load_by_element(const Row<Type> &row, int vector) {
  constexpr int PER_WORD = Type::VECTOR / 4;
  Vector16 v;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v.word[i] = 0;
#pragma unroll
    for (int j = 0; j < PER_WORD; ++j) {
      const int index = vector * Type::VECTOR + i * PER_WORD + j;
      const uint32_t bits = index < row.width ? load_one(row.begin + index) : Type::MINUS_INFINITY;
      v.word[i] |= bits << (j * 16);
    }
  }
  return v;
}

// Any vector, also one that ends after the row or begins in the block before it.
template <class Type>
HARS_DEVICE Vector16 load_any(const Row<Type> &row, int vector) {
  const int first = vector * Type::VECTOR;
  if (row.ahead == 0) {
    if (first + Type::VECTOR <= row.width) return load_cached(row.begin + first);
  } else if (vector > 0 && first + 2 * Type::VECTOR - row.ahead <= row.width) {
    return load_shifted(row, vector);
  }
  return load_by_element(row, vector);
}

// Loads vectors first, first + stride, first + 2 * stride and first + 3 * stride; `begin` to `end` are those of all
// threads together, which decide for all on the same way to load.
template <class Type>
HARS_DEVICE void load_four(const Row<Type> &row, int first, int stride, int begin, int end, Vector16 (&v)[4]) {
  if (row.ahead == 0 && end * Type::VECTOR <= row.width) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = load_streaming(row.begin + (first + i * stride) * Type::VECTOR);
  } else if (row.ahead != 0 && begin > 0 && (end + 1) * Type::VECTOR - row.ahead <= row.width) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = load_shifted(row, first + i * stride);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = load_any(row, first + i * stride);
  }
}

// What happens to a logit before anything else: (logit + bias) * scale, rounded after each.
struct Edit {
  Row<Float32> bias;  // begin is null where there is none
  float scale;
};

template <class Type>
HARS_DEVICE void numbers_of_vector(const Vector16 &v, float (&x)[Type::VECTOR]) {
#pragma unroll
  for (int i = 0; i < Type::VECTOR; ++i) x[i] = number_in_vector<Type>(v, i);
}

template <class Type>
HARS_DEVICE void edit_vector(const Edit &edit, int vector, float (&x)[Type::VECTOR]) {
  constexpr int BIAS_VECTORS = Type::VECTOR / Float32::VECTOR;
  if (edit.bias.begin != nullptr) {
#pragma unroll
    for (int i = 0; i < BIAS_VECTORS; ++i) {
      // Beyond the end both are minus infinity, and so is their sum.
      const Vector16 bias = load_any(edit.bias, vector * BIAS_VECTORS + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) x[i * 4 + j] = add(x[i * 4 + j], as_float(bias.word[j]));
    }
  }
#pragma unroll
  for (int i = 0; i < Type::VECTOR; ++i) x[i] = multiply(x[i], edit.scale);
}

}  // namespace hars

#endif
