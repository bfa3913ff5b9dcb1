// The bias of softmax_topk, broadcast to its logits, as the kernel takes it.
#ifndef GRAPHWRIGHT_ORT_BIAS_H
#define GRAPHWRIGHT_ORT_BIAS_H

#include <cstdlib>

#include "ort_kernel.h"

namespace ort {

// The bias as rows along the axis; `row_of` tells which of them each row of logits takes.
struct Bias {
  const float *rows = nullptr;
  int64_t *row_of = nullptr;
  float *copy = nullptr;

  Bias() = default;
  Bias(const Bias &) = delete;
  ~Bias() {
    free(row_of);
    free(copy);
  }
};

// Rows that are not contiguous, or of one number that goes for all.
inline bool copy_rows(const Tensor &bias, size_t axis, int64_t width, Bias *made) {
  int64_t outer = bias.count(0, axis), inner = bias.count(axis + 1, bias.rank), given = bias.dims[axis];
  made->copy = static_cast<float *>(malloc(sizeof(float) * outer * inner * width));
  if (!made->copy) return false;
  const float *from = static_cast<const float *>(bias.data);
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i)
      for (int64_t v = 0; v < width; ++v)
        made->copy[(o * inner + i) * width + v] = from[(o * given + (given == 1 ? 0 : v)) * inner + i];
  made->rows = made->copy;
  return true;
}

inline bool number_rows(const Tensor &bias, const Tensor &logits, size_t axis, int64_t rows, Bias *made) {
  made->row_of = static_cast<int64_t *>(malloc(sizeof(int64_t) * rows));
  if (!made->row_of) return false;
  int64_t strides[MAX_RANK], position[MAX_RANK] = {}, stride = 1, at = 0;
  for (size_t i = bias.rank; i-- > 0;) {
    strides[i] = i == axis || bias.dims[i] == 1 ? 0 : stride;
    if (i != axis) stride *= bias.dims[i];
  }
  for (int64_t row = 0; row < rows; ++row) {
    made->row_of[row] = at;
    for (size_t i = logits.rank; i-- > 0;) {
      if (i == axis) continue;
      at += strides[i];
      if (++position[i] < logits.dims[i]) break;
      at -= strides[i] * logits.dims[i];
      position[i] = 0;
    }
  }
  return true;
}

inline Status *spread_bias(const Api *api, const Tensor &given, const Tensor &logits, size_t axis, Bias *made) {
  Tensor bias = given;
  bool fits = given.rank <= logits.rank;
  size_t added = fits ? logits.rank - given.rank : 0;
  bias.rank = logits.rank;
  for (size_t i = 0; fits && i < logits.rank; ++i) {
    bias.dims[i] = i < added ? 1 : given.dims[i - added];
    fits = bias.dims[i] == 1 || bias.dims[i] == logits.dims[i];
  }
  if (!fits)
    return refuse(api, "found bias %s for logits %s; needed a shape that broadcasts to theirs", ShapeText(given).text,
                  ShapeText(logits).text);
  int64_t rows = logits.count(0, axis) * logits.count(axis + 1, logits.rank);
  if (rows == 0) return nullptr;
  made->rows = static_cast<const float *>(bias.data);
  int64_t inner = bias.count(axis + 1, bias.rank);
  bool is_there = true;
  if (inner != 1 || bias.dims[axis] != logits.dims[axis]) is_there = copy_rows(bias, axis, logits.dims[axis], made);
  if (is_there && bias.count(0, axis) * inner != 1) is_there = number_rows(bias, logits, axis, rows, made);
  return is_there ? nullptr : as_status(api, HARS_NO_MEMORY);
}

}  // namespace ort

#endif
