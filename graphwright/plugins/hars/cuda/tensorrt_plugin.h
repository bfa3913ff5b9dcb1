// One HARS operator as TensorRT sees it while it builds an engine and while it runs one.
#ifndef GRAPHWRIGHT_HARS_TENSORRT_PLUGIN_H
#define GRAPHWRIGHT_HARS_TENSORRT_PLUGIN_H

#include <new>

#include "hars_cuda.h"
#include "tensorrt_fields.h"

namespace hars {

using nvinfer1::AsciiChar;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;

constexpr char const *NAMESPACE = "hars";
constexpr char const *VERSION = "1";
// What TensorRT takes for "this went wrong".
constexpr int32_t FAILED = 1;

// Tells TensorRT's logger, if there is one.
void report(std::string const &text) noexcept;

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(Variant const &variant, Attributes const &attributes) : variant_(variant), given_(attributes) {
    for (Attribute const &each : attributes_of(variant.is_router)) {
      void const *data = given_.kind.c_str();
      if (each.whole != nullptr) data = &(given_.*each.whole);
      if (each.real != nullptr) data = &(given_.*each.real);
      int32_t const length = each.type == PluginFieldType::kCHAR ? static_cast<int32_t>(given_.kind.size()) : 1;
      fields_.emplace_back(each.name, data, each.type, length);
      summary_ += std::string(each.name) + '=' + text_of(each) + ';';
    }
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
  }

  nvinfer1::IPluginCapability *getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild *>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime *>(this);
      default:
        return static_cast<nvinfer1::IPluginV3OneCore *>(this);
    }
  }
  Plugin *clone() noexcept override { return new (std::nothrow) Plugin(variant_, given_); }

  AsciiChar const *getPluginName() const noexcept override { return variant_.name; }
  AsciiChar const *getPluginVersion() const noexcept override { return VERSION; }
  AsciiChar const *getPluginNamespace() const noexcept override { return NAMESPACE; }

  int32_t getNbOutputs() const noexcept override { return variant_.outputs(); }

  int32_t getOutputDataTypes(DataType *outputs, int32_t count, DataType const *, int32_t) const noexcept override {
    for (int32_t i = 0; i < count; ++i) outputs[i] = type_of_output(i);
    return 0;
  }

  int32_t getOutputShapes(DimsExprs const *inputs, int32_t count, DimsExprs const *, int32_t, DimsExprs *outputs,
                          int32_t output_count, nvinfer1::IExprBuilder &builder) noexcept override {
    int32_t const rank = inputs[0].nbDims;
    if (count != variant_.inputs() || output_count != variant_.outputs() || rank < 1 || !is_last(given_.axis, rank)) {
      report(std::string(variant_.name) + ": a wrong number of tensors, or an axis other than the last");
      return FAILED;
    }
    nvinfer1::IDimensionExpr const *width = inputs[0].d[rank - 1];
    if (width->isConstant() && width->getConstantValue() < given_.k) {
      report(std::string(variant_.name) + ": k is larger than the axis");
      return FAILED;
    }
    for (int32_t i = 0; i < output_count; ++i) {
      outputs[i] = inputs[0];
      if (i < 2) {
        outputs[i].d[rank - 1] = builder.constant(given_.k);
      } else {
        outputs[i].nbDims = rank - 1;
      }
    }
    return 0;
  }

  bool supportsFormatCombination(int32_t position, DynamicPluginTensorDesc const *tensors, int32_t inputs,
                                 int32_t) noexcept override {
    PluginTensorDesc const &tensor = tensors[position].desc;
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (position == 0) return dtype_number(tensor.type) >= 0;
    if (position < inputs) return tensor.type == DataType::kFLOAT;
    return tensor.type == type_of_output(position - inputs);
  }

  int32_t configurePlugin(DynamicPluginTensorDesc const *, int32_t, DynamicPluginTensorDesc const *,
                          int32_t) noexcept override {
    return 0;
  }

  size_t getWorkspaceSize(DynamicPluginTensorDesc const *inputs, int32_t, DynamicPluginTensorDesc const *,
                          int32_t) const noexcept override {
    if (variant_.is_router) return 0;
    nvinfer1::Dims const &largest = inputs[0].max;
    if (largest.nbDims < 1) return 0;
    return largest_scratch(inputs[0].desc.type, rows_of(largest), width_of(largest));
  }

  AsciiChar const *getTimingCacheID() noexcept override { return summary_.c_str(); }
  AsciiChar const *getMetadataString() noexcept override { return summary_.c_str(); }

  int32_t onShapeChange(PluginTensorDesc const *inputs, int32_t count, PluginTensorDesc const *,
                        int32_t) noexcept override {
    if (width_of(inputs[0].dims) < given_.k) {
      report(std::string(variant_.name) + ": k is larger than the axis");
      return FAILED;
    }
    if (count > 1 && !is_rows_of(inputs[1].dims, inputs[0].dims)) {
      report(std::string(variant_.name) + ": the bias is no whole rows of the logits");
      return FAILED;
    }
    return 0;
  }

  int32_t enqueue(PluginTensorDesc const *input, PluginTensorDesc const *, void const *const *inputs,
                  void *const *outputs, void *workspace, cudaStream_t stream) noexcept override {
    int64_t const rows = rows_of(input[0].dims);
    if (rows == 0) return 0;
    int32_t const status = variant_.is_router ? route(input, rows, inputs, outputs, stream)
                                              : select(input, rows, inputs, outputs, workspace, stream);
    if (status != 0) report(std::string(variant_.name) + ": the kernel failed with " + std::to_string(status));
    return status == 0 ? 0 : FAILED;
  }

  nvinfer1::IPluginV3 *attachToContext(nvinfer1::IPluginResourceContext *) noexcept override { return clone(); }
  PluginFieldCollection const *getFieldsToSerialize() noexcept override { return &collection_; }

 private:
  static bool is_last(int32_t axis, int32_t rank) { return axis == -1 || axis == rank - 1; }
  static DataType type_of_output(int32_t number) { return number == 1 ? DataType::kINT32 : DataType::kFLOAT; }

  std::string text_of(Attribute const &attribute) const {
    if (attribute.whole != nullptr) return std::to_string(given_.*attribute.whole);
    if (attribute.real == nullptr) return given_.kind;
    uint32_t bits = 0;  // all digits of the number
    std::memcpy(&bits, &(given_.*attribute.real), sizeof(bits));
    return std::to_string(bits);
  }

  hars_cuda_softmax_topk_request request(DataType type, int64_t rows, int64_t width) const {
    hars_cuda_softmax_topk_request made{};
    made.dtype = dtype_number(type);
    made.mode = kind_number(false, given_.kind);
    made.rows = rows;
    made.width = made.row_stride = width;
    made.k = given_.k;
    made.temperature = given_.temperature;
    made.bias_rows = 1;
    made.indices_are_int32 = 1;
    return made;
  }

  // Fewer rows may need more scratch, since they are cut into more pieces: the most that any number of them needs.
  size_t largest_scratch(DataType type, int64_t rows, int64_t width) const {
    int64_t most = 0;
    auto made = request(type, rows, width);
    // Only whether a tensor is there counts.
    static float anything = 0.0f;
    made.logits = made.values = &anything;
    made.indices = &anything;
    if (variant_.has_bias) made.bias = &anything;
    if (variant_.has_more) made.maximum = made.log_sum = &anything;
    for (; made.rows > 0; made.rows = std::min(made.rows - 1, MOST_SPLIT_ROWS)) {
      most = std::max(most, hars_cuda_softmax_topk_scratch(&made));
    }
    return static_cast<size_t>(most);
  }

  int32_t select(PluginTensorDesc const *input, int64_t rows, void const *const *inputs, void *const *outputs,
                 void *workspace, cudaStream_t stream) const {
    auto made = request(input[0].type, rows, width_of(input[0].dims));
    made.logits = inputs[0];
    if (variant_.has_bias) {
      made.bias = static_cast<float const *>(inputs[1]);
      made.bias_rows = rows_of(input[1].dims);
    }
    made.values = static_cast<float *>(outputs[0]);
    made.indices = outputs[1];
    if (variant_.has_more) {
      made.maximum = static_cast<float *>(outputs[2]);
      made.log_sum = static_cast<float *>(outputs[3]);
    }
    return hars_cuda_softmax_topk(&made, workspace, hars_cuda_softmax_topk_scratch(&made), stream);
  }

  int32_t route(PluginTensorDesc const *input, int64_t rows, void const *const *inputs, void *const *outputs,
                cudaStream_t stream) const {
    hars_cuda_router_topk_request made{};
    made.scores = inputs[0];
    made.dtype = dtype_number(input[0].type);
    made.scoring = kind_number(true, given_.kind);
    made.rows = rows;
    made.experts = width_of(input[0].dims);
    made.k = given_.k;
    made.bias = variant_.has_bias ? static_cast<float const *>(inputs[1]) : nullptr;
    made.groups = given_.groups;
    made.top_groups = given_.top_groups;
    made.renormalize = given_.renormalize;
    made.scale_zero_experts = given_.scale_zero_experts;
    made.scale = given_.scale;
    made.zero_experts = given_.zero_experts;
    made.weights = static_cast<float *>(outputs[0]);
    made.chosen = outputs[1];
    made.chosen_is_int32 = 1;
    made.identity_weight = variant_.has_more ? static_cast<float *>(outputs[2]) : nullptr;
    return hars_cuda_router_topk(&made, stream);
  }

  // With more rows than this no row is cut into pieces: there are enough for all multiprocessors.
  static constexpr int64_t MOST_SPLIT_ROWS = 1024;

  Variant const &variant_;
  Attributes const given_;
  std::string summary_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

}  // namespace hars

#endif
