// Calls the HARS kernels on memory of exactly the size that they may touch, and compares with a sort.
// For compute-sanitizer: `driver memcheck`, or the name of another of its tools.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "hars_cuda.h"

namespace {

void check(int status, const char *what) {
  if (status != 0) {
    std::printf("%s: error %d (%s)\n", what, status, status > 0 ? cudaGetErrorString((cudaError_t)status) : "refused");
    std::exit(2);
  }
}

template <typename T>
struct Device {
  T *data = nullptr;
  size_t count;
  explicit Device(size_t n) : count(n) { check(cudaMalloc((void **)&data, std::max<size_t>(n, 1) * sizeof(T)), "malloc"); }
  ~Device() { cudaFree(data); }
  void put(const T *from) { check(cudaMemcpy(data, from, count * sizeof(T), cudaMemcpyHostToDevice), "put"); }
  std::vector<T> get() const {
    std::vector<T> host(count);
    check(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "get");
    return host;
  }
};

float widened(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t cut(float value) {
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  return (uint16_t)(wide >> 16);
}

std::vector<int64_t> best(const float *row, int64_t width, int64_t k) {
  std::vector<int64_t> order(width);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [row](int64_t a, int64_t b) {
    return row[a] != row[b] ? row[a] > row[b] : a < b;
  });
  order.resize(k);
  return order;
}

// dtype 0 or 2; the rows lie `gap` elements apart, after `offset` elements that belong to no row.
void run(int64_t rows, int64_t width, int64_t k, int dtype, int64_t gap, int64_t offset, bool with_bias) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const int64_t step = width + gap, held = offset + (rows - 1) * step + width;
  std::vector<float> single(held);
  std::vector<uint16_t> half(held);
  for (int64_t i = 0; i < held; ++i) {
    half[i] = cut(normal(random));
    single[i] = dtype ? widened(half[i]) : normal(random);
  }
  Device<float> singles(dtype ? 0 : held), bias(with_bias ? width : 0), values(rows * k), maximum(rows), log_sum(rows);
  Device<uint16_t> halves(dtype ? held : 0);
  Device<int64_t> indices(rows * k);
  dtype ? halves.put(half.data()) : singles.put(single.data());
  std::vector<float> offsets(with_bias ? width : 0);
  for (auto &each : offsets) each = normal(random);
  if (with_bias) bias.put(offsets.data());

  hars_cuda_softmax_topk_request request{};
  request.logits = dtype ? (const void *)(halves.data + offset) : (const void *)(singles.data + offset);
  request.dtype = dtype;
  request.mode = 0;
  request.rows = rows;
  request.width = width;
  request.row_stride = step;
  request.k = k;
  request.bias = with_bias ? bias.data : nullptr;
  request.bias_rows = 1;
  request.temperature = 1.0f;
  request.values = values.data;
  request.indices = indices.data;
  request.maximum = maximum.data;
  request.log_sum = log_sum.data;
  const int64_t bytes = hars_cuda_softmax_topk_scratch(&request);
  check(bytes < 0, "scratch");
  Device<char> scratch(bytes);
  check(hars_cuda_softmax_topk(&request, scratch.data, bytes, nullptr), "softmax_topk");
  check(cudaDeviceSynchronize(), "softmax_topk");

  const auto found = indices.get();
  const auto found_values = values.get();
  std::vector<float> row(width);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < width; ++i) row[i] = single[offset + r * step + i] + (with_bias ? offsets[i] : 0.0f);
    const auto right = best(row.data(), width, k);
    for (int64_t i = 0; i < k; ++i)
      if (found[r * k + i] != right[i] || found_values[r * k + i] != row[right[i]]) {
        std::printf("rows %ld width %ld k %ld dtype %d: row %ld, place %ld: %ld instead of %ld\n", (long)rows, (long)width,
                    (long)k, dtype, (long)r, (long)i, (long)found[r * k + i], (long)right[i]);
        std::exit(1);
      }
  }
}

void route(int64_t rows, int64_t experts, int64_t k, int64_t groups, bool with_bias, int scoring) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> host(rows * experts), offsets(experts);
  for (auto &each : host) each = normal(random);
  for (auto &each : offsets) each = normal(random);
  Device<float> scores(rows * experts), bias(experts), weights(rows * k), identity(rows);
  Device<int64_t> chosen(rows * k);
  scores.put(host.data());
  bias.put(offsets.data());
  hars_cuda_router_topk_request request{};
  request.scores = scores.data;
  request.scoring = scoring;
  request.rows = rows;
  request.experts = experts;
  request.k = k;
  request.bias = with_bias ? bias.data : nullptr;
  request.groups = groups;
  request.top_groups = groups > 1 ? groups / 2 : 1;
  request.renormalize = 1;
  request.scale_zero_experts = 1;
  request.scale = 1.0f;
  request.weights = weights.data;
  request.chosen = chosen.data;
  request.identity_weight = identity.data;
  check(hars_cuda_router_topk(&request, nullptr), "router_topk");
  check(cudaDeviceSynchronize(), "router_topk");
  const auto found = chosen.get();
  const auto shares = weights.get();
  for (int64_t r = 0; r < rows; ++r) {
    const auto right = best(host.data() + r * experts, experts, k);
    float sum = 0;
    for (int64_t i = 0; i < k; ++i) {
      sum += shares[r * k + i];
      if (groups == 1 && !with_bias && found[r * k + i] != right[i]) {
        std::printf("router: row %ld, place %ld\n", (long)r, (long)i);
        std::exit(1);
      }
    }
    if (std::fabs(sum - 1) > 1e-5f) {
      std::printf("router: the weights of row %ld are %g together\n", (long)r, sum);
      std::exit(1);
    }
  }
}

}  // namespace

int main(int count, char **arguments) {
  // The other tools follow every shared address, which takes some hundred times as long.
  const bool is_quick = count > 1 && std::strcmp(arguments[1], "memcheck") == 0;
  const int64_t long_width = is_quick ? 128257 : 33000;
  for (int dtype : {0, 2}) {
    for (int64_t k : {1, 8, 64}) {
      run(1, long_width, k, dtype, 0, 0, false);
      run(2, 5003, k, dtype, 3, 1, false);
      run(3, 1000, k, dtype, 0, 0, true);
      run(5, 67, k, dtype, 1, 0, false);
    }
    run(1, long_width, 128, dtype, 0, 1, true);
    run(140, 4099, 8, dtype, 0, 0, false);
    run(2, 3001, 1500, dtype, 0, 0, false);
    run(1, 1, 1, dtype, 0, 0, false);
    if (is_quick) run(140, 40003, 33, dtype, 1, 1, false);
  }
  for (int scoring : {0, 1})
    for (bool with_bias : {false, true}) {
      route(37, 8, 2, 1, with_bias, scoring);
      route(5, 256, 8, 8, with_bias, scoring);
      route(3, 768, 12, 1, with_bias, scoring);
      route(1, 33, 5, 1, with_bias, scoring);
    }
  std::printf("right\n");
  return 0;
}
