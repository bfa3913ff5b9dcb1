// The experts of each token and their weights: a warp for each token.
//
// Each lane owns every 32nd expert and offers its best; in each of k rounds the warp takes the best offer and its lane
// looks for the next one below it. (Rounds of warp-wide maxima: as the routers of TensorRT-LLM and FlashInfer do.)
// Keys wait in shared memory. Group-limited choice: DeepSeek-V3, arXiv 2412.19437; identity experts: LongCat-Flash,
// arXiv 2509.01322.
#ifndef GRAPHWRIGHT_HARS_ROUTER_CUH
#define GRAPHWRIGHT_HARS_ROUTER_CUH

#include "team.cuh"

namespace hars {

enum Scoring { SOFTMAX = 0, SIGMOID = 1 };
constexpr float SMALLEST_SUM = 1e-20f;
constexpr int TOKENS_OF_BLOCK = 4;
constexpr uint32_t MINUS_INFINITY_KEY = 0x007fffffu;  // ordered_key of minus infinity

struct RouterTopk {
  const void *scores;
  const float *bias;
  float *weights, *identity_weight;
  void *chosen;
  int64_t rows;
  int experts, k, scoring, groups, top_groups, tokens_of_block;
  int renormalize, scale_zero_experts, zero_experts, chosen_is_int32;
  float scale;
};

// Keys of experts, then, with groups, the keys of the groups' ranks.
HARS_HOST_DEVICE int router_bytes(int experts, int groups) { return experts * 4 + (groups > 1 ? groups * 8 : 0); }

template <class Type>
struct Token {
  const RouterTopk &p;
  const typename Type::Bits *scores;
  uint32_t *keys;
  uint64_t *group_keys;
  int lane;
  float maximum, sum;  // of the softmax

  HARS_DEVICE float score(int expert) const { return number_in_word(Type(), load_one(scores + expert), 0); }

  HARS_DEVICE float share(float score) const {
    if (p.scoring == SOFTMAX) return expf(add(score, -maximum)) / sum;
    // Near 1, the distance from 1 is what float32 can hold exactly.
    const float power = expf(-fabsf(score)), small = power / (1.0f + power);
    return score < 0.0f ? small : 1.0f - small;
  }
};

template <class Type>
HARS_DEVICE void prepare_softmax(Token<Type> &token) {
  uint32_t largest = 0;
  for (int i = token.lane; i < token.p.experts; i += 32) {
    const uint32_t key = ordered_key(token.score(i));
    largest = key > largest ? key : largest;
  }
  token.maximum = number_of_key(warp_max(largest));
  float sum = 0.0f;
  for (int i = token.lane; i < token.p.experts; i += 32) sum = add(sum, expf(add(token.score(i), -token.maximum)));
  token.sum = warp_sum_in_order(sum);
}

// Without a bias the scores rank as their shares do, and finer.
template <class Type>
HARS_DEVICE void fill_keys(const Token<Type> &token) {
  const RouterTopk &p = token.p;
  for (int i = token.lane; i < p.experts; i += 32) {
    float x = token.score(i);
    if (p.bias != nullptr || p.groups > 1) x = token.share(x);
    if (p.bias != nullptr) x = add(x, load_one(p.bias + i));
    token.keys[i] = ordered_key(x);
  }
  warp_sync();
}

// The sum of the two largest keys of a group.
template <class Type>
HARS_DEVICE float rank_of_group(const Token<Type> &token, int group) {
  const int size = token.p.experts / token.p.groups;
  uint32_t first = 0, second = 0;
  for (int i = group * size; i < (group + 1) * size; ++i) {
    const uint32_t key = token.keys[i];
    second = key > first ? first : (key > second ? key : second);
    first = key > first ? key : first;
  }
  return add(number_of_key(first), number_of_key(second));
}

template <class Type>
HARS_DEVICE void close_groups(const Token<Type> &token) {
  const RouterTopk &p = token.p;
  const int size = p.experts / p.groups;
  for (int group = token.lane; group < p.groups; group += 32)
    token.group_keys[group] = element_key(ordered_key(rank_of_group(token, group)), static_cast<uint32_t>(group));
  warp_sync();
  for (int group = token.lane; group < p.groups; group += 32) {
    int precede = 0;
    for (int i = 0; i < p.groups; ++i) precede += token.group_keys[i] > token.group_keys[group];
    if (precede < p.top_groups) continue;
    for (int i = group * size; i < (group + 1) * size; ++i) token.keys[i] = MINUS_INFINITY_KEY;
  }
  warp_sync();
}

// The best of this lane's experts up to `limit`; 0 if there is none.
template <class Type>
HARS_DEVICE uint64_t best_up_to(const Token<Type> &token, uint64_t limit) {
  uint64_t best = 0;
  for (int i = token.lane; i < token.p.experts; i += 32) {
    const uint64_t element = element_key(token.keys[i], static_cast<uint32_t>(i));
    if (element <= limit && element > best) best = element;
  }
  return best;
}

HARS_DEVICE void write_expert(const RouterTopk &p, int64_t at, int64_t expert) {
  if (p.chosen_is_int32)
    static_cast<int32_t *>(p.chosen)[at] = static_cast<int32_t>(expert);
  else
    static_cast<int64_t *>(p.chosen)[at] = expert;
}

// Leaves the chosen experts in the output, by their own numbers.
template <class Type>
HARS_DEVICE void choose_experts(const Token<Type> &token, int64_t first) {
  uint64_t best = best_up_to(token, ~uint64_t{0});
  for (int i = 0; i < token.p.k; ++i) {
    const uint32_t key = warp_max(static_cast<uint32_t>(best >> 32));
    const bool is_equal = static_cast<uint32_t>(best >> 32) == key;
    const uint32_t expert = warp_min(is_equal ? index_of_element(best) : 0xffffffffu);
    if (is_equal && index_of_element(best) == expert) {
      write_expert(token.p, first + i, expert);
      best = best_up_to(token, best - 1);
    }
  }
  warp_sync();
}

template <class Type>
HARS_DEVICE float weight_of(const Token<Type> &token, int64_t expert, float sum_of_chosen) {
  const RouterTopk &p = token.p;
  float weight = token.share(token.score(static_cast<int>(expert)));
  if (p.renormalize) weight = weight / add(sum_of_chosen, SMALLEST_SUM);
  const bool is_identity = expert >= p.experts - p.zero_experts;
  if (!is_identity || p.scale_zero_experts) weight = multiply(weight, p.scale);
  return weight == weight ? weight : 0.0f;
}

template <class Type>
HARS_DEVICE void write_weights(const Token<Type> &token, int64_t row) {
  const RouterTopk &p = token.p;
  const int64_t first = row * p.k;
  const auto expert_at = [&](int i) {
    return p.chosen_is_int32 ? static_cast<const int32_t *>(p.chosen)[first + i]
                             : static_cast<const int64_t *>(p.chosen)[first + i];
  };
  float sum = 0.0f, identity = 0.0f;
  if (p.renormalize) {
    for (int i = token.lane; i < p.k; i += 32) sum = add(sum, token.share(token.score(static_cast<int>(expert_at(i)))));
    sum = warp_sum_in_order(sum);
  }
  for (int i = token.lane; i < p.k; i += 32) {
    const int64_t expert = expert_at(i);
    const float weight = weight_of(token, expert, sum);
    const bool is_identity = expert >= p.experts - p.zero_experts;
    if (is_identity) {
      identity = add(identity, weight);
      write_expert(p, first + i, -1);
    }
    p.weights[first + i] = is_identity ? 0.0f : weight;
  }
  identity = warp_sum_in_order(identity);
  if (p.identity_weight != nullptr && token.lane == 0) p.identity_weight[row] = identity;
}

template <class Type>
HARS_DEVICE void router_topk_of_warp(const RouterTopk &p) {
  const int warp = thread_index() / 32;
  const int64_t row = block_index() * p.tokens_of_block + warp;
  if (row >= p.rows) return;
  // Group keys first: they are 8 bytes each.
  unsigned char *pool = shared_memory() + warp * ((router_bytes(p.experts, p.groups) + 15) & ~15);
  auto *group_keys = reinterpret_cast<uint64_t *>(pool);
  auto *keys = reinterpret_cast<uint32_t *>(group_keys + (p.groups > 1 ? p.groups : 0));
  const auto *scores = static_cast<const typename Type::Bits *>(p.scores) + row * p.experts;
  Token<Type> token{p, scores, keys, group_keys, thread_index() & 31, 0.0f, 1.0f};
  if (p.scoring == SOFTMAX) prepare_softmax(token);
  fill_keys(token);
  if (p.groups > 1) close_groups(token);
  choose_experts(token, row * p.k);
  write_weights(token, row);
}

}  // namespace hars

#endif
