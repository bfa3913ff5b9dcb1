// A token of each row, drawn by the inverse of the cumulative distribution: a block for each row.
//
// Without a filter, in index order. With one, in the order of the logits: first the list that softmax_topk made, then,
// where top_p or min_p keep more than it holds, chunk after chunk as in chunks.cuh. Running sums are one addition after
// the other, by one thread: that order is what makes a token the same everywhere.
#ifndef GRAPHWRIGHT_HARS_SAMPLE_CUH
#define GRAPHWRIGHT_HARS_SAMPLE_CUH

#include "chunks.cuh"
#include "weights.cuh"

namespace hars {

constexpr int SAMPLE_CHUNK = 1024;

struct Sample {
  SoftmaxTopk row;  // the logits, the outputs not used, and the chunks' buffer
  const float *listed_values;
  const int32_t *listed_indices;
  int listed;
  int is_cut;  // by top_k: the list is all there is
  double top_p, min_p;
  const uint64_t *seeds, *offsets, *row_numbers;
  int64_t *tokens;
  float *logprobs;
};

// After the buffers of SharedPlan: the weights of a chunk, and what thread 0 tells the others. The sums of
// weights.cuh lie over all but these.
HARS_HOST_DEVICE int sample_bytes(const SoftmaxTopk &p, int vector) {
  const int sums = CONTROL_BYTES + weight_blocks(p.width) * 8;
  return larger_of(shared_plan(p, vector, BlockTeam::THREADS).total_bytes, round_up_16(sums)) + SAMPLE_CHUNK * 8 + 64;
}

struct Told {
  double total;
  int64_t place, token;
  float x;
  int stops;
};

template <class W>
struct Draw {
  const Sample &p;
  const W &work;
  double *sums, *weights;
  Told *told;
  float maximum;
  double u;
};

HARS_DEVICE void write_draw(const Sample &p, int64_t row, int64_t token, float x, float maximum, double total) {
  p.tokens[row] = token;
  p.logprobs[row] = static_cast<float>(add(add(static_cast<double>(x), -static_cast<double>(maximum)), -log(total)));
}

// Nothing to draw from: the first token of the order.
template <class W>
HARS_DEVICE void write_first(const Sample &p, const W &work, int64_t token, float maximum) {
  if (work.team.rank() != 0) return;
  p.tokens[work.row_number] = token;
  p.logprobs[work.row_number] = maximum < 0.0f ? maximum : as_float(0x7fffffffu);
}

template <class W>
HARS_DEVICE uint64_t first_of_row(const W &work) {
  uint64_t own = 0;
  visit_row(work, [&](uint64_t element) { own = element > own ? element : own; });
  const uint32_t key = work.team.max(static_cast<uint32_t>(own >> 32));
  const uint32_t index = static_cast<uint32_t>(own >> 32) == key ? index_of_element(own) : 0xffffffffu;
  return element_key(key, work.team.min(index));
}

template <class W>
HARS_DEVICE void draw_in_index_order(const Draw<W> &draw) {
  const W &work = draw.work;
  fill_block_sums(work, draw.maximum, draw.sums);
  const double total = total_of_blocks(work, draw.sums), target = multiply(draw.u, total);
  double before = 0.0;
  const int block = place_passing(draw.sums, weight_blocks(work.p.width), target, before);
  if (thread_index() < 32) draw.weights[thread_index()] = leaf_of_lane(work, block, draw.maximum);
  work.team.sync();
  const int leaf = place_passing(draw.weights, LEAF, target, before);
  work.team.sync();
  const int first = block * WEIGHT_BLOCK + leaf * LEAF;
  if (thread_index() < 32) draw.weights[thread_index()] = weight_at(work, first + thread_index(), draw.maximum);
  work.team.sync();
  const int token = first + place_passing(draw.weights, LEAF, target, before);
  if (work.team.rank() == 0)
    write_draw(draw.p, work.row_number, token, number_at(work, token), draw.maximum, total);
}

// Elements in order, a chunk at a time: fills the weights and returns the sorted elements. `upper` is where the chunk
// after the list begins.
template <class W>
HARS_DEVICE const uint64_t *next_chunk(const Draw<W> &draw, int first, int count, uint64_t &upper) {
  const W &work = draw.work;
  const uint64_t *sorted = work.shared.candidates;
  if (first < draw.p.listed) {
    const int64_t at = work.row_number * draw.p.listed + first;
    for (int i = work.team.rank(); i < count; i += W::Team::THREADS) {
      const auto index = static_cast<uint32_t>(draw.p.listed_indices[at + i]);
      work.shared.candidates[i] = element_key(ordered_key(draw.p.listed_values[at + i]), index);
    }
    work.team.sync();
  } else {
    const uint64_t lower = lower_end(work, upper, count);
    collect(work, [&](auto visit) { visit_row(work, visit); },
            [&](uint64_t element) { return element >= lower && element <= upper; });
    sorted = in_order(work, count, count);
  }
  upper = sorted[count - 1] - 1;
  for (int i = work.team.rank(); i < count; i += W::Team::THREADS)
    draw.weights[i] = weight_of(number_of_element(sorted[i]), draw.maximum);
  work.team.sync();
  return sorted;
}

// Goes through the elements in order; stop(place, weight, running sum) is asked by one thread after each. What it
// stopped at, or the last element, is in `told` afterwards.
template <class W, class Stop>
HARS_DEVICE void go_through(const Draw<W> &draw, Stop stop) {
  const int total = draw.p.is_cut ? draw.p.listed : draw.work.p.width;
  uint64_t upper = ~uint64_t{0};
  double running = 0.0;
  for (int first = 0, count = 0; first < total; first += count) {
    const int end = first < draw.p.listed ? draw.p.listed : total;
    count = end - first < SAMPLE_CHUNK ? end - first : SAMPLE_CHUNK;
    const uint64_t *sorted = next_chunk(draw, first, count, upper);
    if (draw.work.team.rank() == 0) {
      bool stops = false;
      int place = 0;
      for (; place < count && !stops; ++place) {
        running = add(running, draw.weights[place]);
        stops = stop(first + place, draw.weights[place], running);
      }
      const uint64_t element = sorted[place - 1];
      *draw.told = {running, first + place - 1, index_of_element(element), number_of_element(element), stops};
    }
    draw.work.team.sync();
    // Written again only after the barriers of the next chunk.
    if (draw.told->stops) return;
  }
}

// What the filters keep: how many, and the sum of their weights.
template <class W>
HARS_DEVICE double total_of_kept(const Draw<W> &draw) {
  double wanted = 2.0 * draw.work.p.width;  // more than any sum of weights
  if (draw.p.top_p < 1.0) {
    if (draw.p.is_cut) {
      go_through(draw, [](int, double, double) { return false; });
      wanted = multiply(draw.p.top_p, draw.told->total);
    } else {
      fill_block_sums(draw.work, draw.maximum, draw.sums);
      wanted = multiply(draw.p.top_p, total_of_blocks(draw.work, draw.sums));
    }
    draw.work.team.sync();
  }
  double before = 0.0;
  bool too_small = false;
  go_through(draw, [&](int place, double weight, double running) {
    too_small = place > 0 && weight < draw.p.min_p;
    if (too_small || running >= wanted) return true;
    before = running;
    return false;
  });
  // Only thread 0 knows whether the last was too small to keep.
  if (draw.work.team.rank() == 0 && too_small) draw.told->total = before;
  draw.work.team.sync();
  const double total = draw.told->total;
  draw.work.team.sync();
  return total;
}

template <class W>
HARS_DEVICE void draw_in_order(const Draw<W> &draw) {
  const double total = total_of_kept(draw), target = multiply(draw.u, total);
  go_through(draw, [&](int, double, double running) { return running > target; });
  if (draw.work.team.rank() == 0)
    write_draw(draw.p, draw.work.row_number, draw.told->token, draw.told->x, draw.maximum, total);
}

template <class Type, bool EDITED>
HARS_DEVICE void sample_of_block(const Sample &p) {
  using W = Work<BlockTeam, Type, EDITED>;
  unsigned char *pool = shared_memory();
  const W work = work_on<W>(p.row, block_index(), pool);
  auto *weights = reinterpret_cast<double *>(pool + sample_bytes(p.row, Type::VECTOR) - SAMPLE_CHUNK * 8 - 64);
  Draw<W> draw{p, work, reinterpret_cast<double *>(pool + CONTROL_BYTES), weights,
               reinterpret_cast<Told *>(weights + SAMPLE_CHUNK), 0.0f, 0.0};
  const int64_t row = work.row_number;
  draw.u = uniform_number(p.seeds[row], p.offsets[row], p.row_numbers[row]);
  // With a filter, the largest is the first of the list.
  const uint64_t best = p.listed > 0 ? 0 : first_of_row(work);
  draw.maximum = p.listed > 0 ? p.listed_values[row * p.listed] : number_of_element(best);
  const int64_t first = p.listed > 0 ? p.listed_indices[row * p.listed] : index_of_element(best);
  if (!is_finite(draw.maximum))
    write_first(p, work, first, draw.maximum);
  else if (p.listed > 0)
    draw_in_order(draw);
  else
    draw_in_index_order(draw);
}

}  // namespace hars

#endif
