// The numbers of a row as vectors of floats, whatever type they are kept in.
#ifndef GRAPHWRIGHT_HARS_ROW_SOURCE_H
#define GRAPHWRIGHT_HARS_ROW_SOURCE_H

#include "number.h"
#include "row.h"

namespace {

using hars::Row;

enum class Edit { kNone, kScale, kBias };

// x of a row, a vector at a time. Without a bias or a scale nothing is computed: -0 + 0 would lose its sign.
template <class L, class T, Edit edit>
class Source {
 public:
  explicit Source(const Row &row)
      : logits_(static_cast<const T *>(row.logits)), bias_(row.bias), factor_(row.scale), scale_(L::fill(row.scale)) {}

  typename L::Floats at(int64_t i) const { return edited(L::load(logits_ + i), [&] { return L::load(bias_ + i); }); }

  float one(int64_t i) const {
    float x = widen(logits_[i]);
    if constexpr (edit == Edit::kBias) x = x + bias_[i];
    if constexpr (edit != Edit::kNone) x = x * factor_;
    return x;
  }

  // The first `count` lanes from i on, the others -inf.
  typename L::Floats part(int64_t i, int count) const {
    const auto x = edited(L::load_part(logits_ + i, count), [&] { return L::load_part(bias_ + i, count); });
    return L::first(x, count, L::fill(-kInfinity));
  }

 private:
  template <class Bias>
  typename L::Floats edited(typename L::Floats x, Bias bias) const {
    if constexpr (edit == Edit::kBias) x = L::add(x, bias());
    if constexpr (edit != Edit::kNone) x = L::multiply(x, scale_);
    return x;
  }

  const T *logits_;
  const float *bias_;
  float factor_;
  typename L::Floats scale_;
};

template <class L, class T, class F>
auto with_edit(const Row &row, F step) {
  if (row.bias) return step(Source<L, T, Edit::kBias>(row));
  if (row.scale != 1.0f) return step(Source<L, T, Edit::kScale>(row));
  return step(Source<L, T, Edit::kNone>(row));
}

// Calls step with the row's Source: one instantiation for each type and each edit.
template <class L, class F>
auto with_source(const Row &row, F step) {
  if (row.dtype == 1) return with_edit<L, Half>(row, step);
  if (row.dtype == 2) return with_edit<L, Bfloat16>(row, step);
  return with_edit<L, float>(row, step);
}

}  // namespace

#endif
