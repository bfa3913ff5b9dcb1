// Short rows, as many at once as there are lanes: a lane holds a row, a vector the i-th number of each.
#ifndef GRAPHWRIGHT_HARS_ROW_TOGETHER_H
#define GRAPHWRIGHT_HARS_ROW_TOGETHER_H

#include "row.h"

namespace {

template <class L>
struct Ranked {
  typename L::Floats number, place;
};

// Puts a number behind all that are at least as large: those before it in the row stay before it among equals. What
// is pushed out of one place goes on to the next; a place that is free takes it.
template <class L>
void insert(Ranked<L> *best, int64_t taken, int64_t k, Ranked<L> next) {
  auto moves = L::no_flags();
  for (int64_t j = 0; j < taken; ++j) {
    moves = L::or_above(moves, next.number, best[j].number);
    const Ranked<L> here = best[j];
    best[j] = {L::choose(moves, next.number, here.number), L::choose(moves, next.place, here.place)};
    next = {L::choose(moves, here.number, next.number), L::choose(moves, here.place, next.place)};
  }
  if (taken < k) best[taken] = next;
}

template <class L>
uint32_t rank_together(const float *values, int64_t width, int64_t k, bool has_sums, hars::Together *together) {
  typename L::Floats numbers[hars::kTogetherWidth];
  Ranked<L> best[hars::kTogetherK];
  uint32_t plain = (uint32_t(1) << L::kWidth) - 1;
  for (int64_t i = 0; i < width; ++i) {
    float lanes[L::kWidth];
    for (int64_t row = 0; row < L::kWidth; ++row) lanes[row] = values[row * width + i];
    numbers[i] = L::load(lanes);
    plain &= L::at_least(numbers[i], numbers[i]);
    insert<L>(best, i < k ? i : k, k, {numbers[i], L::fill(float(i))});
  }
  for (int64_t j = 0; j < k; ++j) {
    L::store(together->best[j], best[j].number);
    L::store(together->places[j], best[j].place);
    L::store(together->powers[j], L::exp(L::subtract(best[j].number, best[0].number)));
  }
  if (!has_sums) return plain;
  // Eight sums, so that few roundings follow one another.
  typename L::Floats sums[8];
  for (auto &sum : sums) sum = L::fill(0.0f);
  for (int64_t i = 0; i < width; ++i) {
    sums[i % 8] = L::add(sums[i % 8], L::exp(L::subtract(numbers[i], best[0].number)));
  }
  for (int half = 4; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) sums[j] = L::add(sums[j], sums[j + half]);
  }
  L::store(together->sums, sums[0]);
  return plain;
}

}  // namespace

#endif
