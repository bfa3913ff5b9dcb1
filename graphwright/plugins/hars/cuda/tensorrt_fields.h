// What a HARS plugin for TensorRT is told: which of the plugins it is, its attributes, and the shapes of its tensors.
#ifndef GRAPHWRIGHT_HARS_TENSORRT_FIELDS_H
#define GRAPHWRIGHT_HARS_TENSORRT_FIELDS_H

#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace hars {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr std::array<char const *, 4> MODES = {"logit", "logprob", "prob", "prob_renorm"};
constexpr std::array<char const *, 2> SCORINGS = {"softmax", "sigmoid"};

// One plugin: an operator with a bias or not, with its further outputs (statistics, or the identity weight) or not.
struct Variant {
  char const *name;
  bool is_router, has_bias, has_more;

  int32_t inputs() const { return has_bias ? 2 : 1; }
  int32_t outputs() const { return !has_more ? 2 : is_router ? 3 : 4; }
};

constexpr std::array<Variant, 8> VARIANTS = {{
    {"softmax_topk", false, false, false},
    {"softmax_topk_stats", false, false, true},
    {"softmax_topk_bias", false, true, false},
    {"softmax_topk_bias_stats", false, true, true},
    {"router_topk", true, false, false},
    {"router_topk_zero_experts", true, false, true},
    {"router_topk_bias", true, true, false},
    {"router_topk_bias_zero_experts", true, true, true},
}};

// The attributes of both operators; what an operator does not have keeps the value that changes nothing.
struct Attributes {
  int32_t k = 0, axis = -1, renormalize = 0, zero_experts = 0, scale_zero_experts = 1, groups = 1, top_groups = 1;
  float temperature = 1.0f, scale = 1.0f;
  std::string kind;  // the mode, or the scoring
};

using Whole = int32_t Attributes::*;
using Real = float Attributes::*;

struct Attribute {
  char const *name;
  PluginFieldType type;
  Whole whole;
  Real real;
};

inline std::vector<Attribute> attributes_of(bool is_router) {
  constexpr PluginFieldType WHOLE = PluginFieldType::kINT32, REAL = PluginFieldType::kFLOAT32;
  if (!is_router) {
    return {{"k", WHOLE, &Attributes::k, nullptr},
            {"axis", WHOLE, &Attributes::axis, nullptr},
            {"mode", PluginFieldType::kCHAR, nullptr, nullptr},
            {"temperature", REAL, nullptr, &Attributes::temperature}};
  }
  return {{"k", WHOLE, &Attributes::k, nullptr},
          {"scoring", PluginFieldType::kCHAR, nullptr, nullptr},
          {"renormalize", WHOLE, &Attributes::renormalize, nullptr},
          {"scale", REAL, nullptr, &Attributes::scale},
          {"zero_experts", WHOLE, &Attributes::zero_experts, nullptr},
          {"scale_zero_experts", WHOLE, &Attributes::scale_zero_experts, nullptr},
          {"groups", WHOLE, &Attributes::groups, nullptr},
          {"top_groups", WHOLE, &Attributes::top_groups, nullptr}};
}

// The number of `text` among the names, or -1.
template <size_t SIZE>
int32_t number_of(std::array<char const *, SIZE> const &names, std::string const &text) {
  auto const found = std::find_if(names.begin(), names.end(), [&](char const *each) { return text == each; });
  return found == names.end() ? -1 : static_cast<int32_t>(found - names.begin());
}

inline int32_t kind_number(bool is_router, std::string const &kind) {
  return is_router ? number_of(SCORINGS, kind) : number_of(MODES, kind);
}

// Reads one field; false where its type or length is not what the attribute has.
inline bool read_field(Attribute const &attribute, PluginField const &field, Attributes &into) {
  if (attribute.type == PluginFieldType::kCHAR) {
    if (field.type != PluginFieldType::kCHAR || field.data == nullptr || field.length < 1) return false;
    char const *text = static_cast<char const *>(field.data);
    into.kind.assign(text, strnlen(text, static_cast<size_t>(field.length)));
    return true;
  }
  if (field.type != attribute.type || field.data == nullptr || field.length != 1) return false;
  if (attribute.whole != nullptr) std::memcpy(&(into.*attribute.whole), field.data, sizeof(int32_t));
  if (attribute.real != nullptr) std::memcpy(&(into.*attribute.real), field.data, sizeof(float));
  return true;
}

// What is wrong with the attributes, or nothing.
inline std::string fault_of(bool is_router, Attributes const &given) {
  if (given.k < 1) return "k is " + std::to_string(given.k) + "; needed a number from 1";
  if (kind_number(is_router, given.kind) < 0) return "no mode or scoring '" + given.kind + "'";
  if (!(given.temperature > 0.0f) || !std::isfinite(given.temperature)) return "temperature is not above 0 and finite";
  if (given.zero_experts < 0 || given.groups < 1 || given.top_groups < 1 || given.top_groups > given.groups) {
    return "zero_experts, groups or top_groups is out of range";
  }
  return "";
}

inline int32_t dtype_number(DataType type) {
  return type == DataType::kFLOAT ? 0 : type == DataType::kHALF ? 1 : type == DataType::kBF16 ? 2 : -1;
}

// How many rows there are: the product of all sizes but the last.
inline int64_t rows_of(nvinfer1::Dims const &dims) {
  int64_t rows = 1;
  for (int32_t axis = 0; axis + 1 < dims.nbDims; ++axis) rows *= dims.d[axis];
  return rows;
}

inline int64_t width_of(nvinfer1::Dims const &dims) { return dims.d[dims.nbDims - 1]; }

// Row r takes row r % n of a bias with n rows: right where the bias is, but for ones in front, the last of the sizes.
inline bool is_rows_of(nvinfer1::Dims const &bias, nvinfer1::Dims const &logits) {
  int32_t first = 0;
  while (first < bias.nbDims && bias.d[first] == 1) ++first;
  int32_t const count = bias.nbDims - first;
  if (count == 0) return width_of(logits) == 1;
  if (count > logits.nbDims) return false;
  return std::equal(bias.d + first, bias.d + bias.nbDims, logits.d + logits.nbDims - count);
}

}  // namespace hars

#endif
