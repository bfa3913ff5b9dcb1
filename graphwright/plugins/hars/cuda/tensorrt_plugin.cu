// The HARS operators as TensorRT plugins: one library for TensorRT 10 and 11, loaded with trtexec --dynamicPlugins,
// IPluginRegistry::loadLibrary, or trt_extra_plugin_lib_paths of ONNX Runtime. Built from this file, the kernels beside
// it and TensorRT's headers (plugins/hars/tensorrt_build.py); it links against no library of TensorRT.
//
// Every plugin has a fixed number of tensors, so each operator has four: see plugins/hars/tensorrt_nodes.py.
#include "tensorrt_plugin.h"

#include <memory>

namespace {

using namespace hars;

nvinfer1::ILoggerFinder *logger_finder = nullptr;

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(Variant const &variant) : variant_(variant), attributes_(attributes_of(variant.is_router)) {
    for (Attribute const &each : attributes_) fields_.emplace_back(each.name, nullptr, each.type, 1);
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
  }

  AsciiChar const *getPluginName() const noexcept override { return variant_.name; }
  AsciiChar const *getPluginVersion() const noexcept override { return VERSION; }
  AsciiChar const *getPluginNamespace() const noexcept override { return NAMESPACE; }
  PluginFieldCollection const *getFieldNames() noexcept override { return &collection_; }

  nvinfer1::IPluginV3 *createPlugin(AsciiChar const *, PluginFieldCollection const *fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    Attributes given;
    given.kind = variant_.is_router ? "softmax" : "logprob";
    std::string fault = fields == nullptr ? "no fields" : "";
    for (int32_t i = 0; fault.empty() && i < fields->nbFields; ++i) fault = read(fields->fields[i], given);
    if (fault.empty()) fault = fault_of(variant_.is_router, given);
    if (!fault.empty()) {
      report(std::string(variant_.name) + ": " + fault);
      return nullptr;
    }
    return new (std::nothrow) Plugin(variant_, given);
  }

 private:
  // A field that the operator does not have is the parser's own and no concern of the plugin's.
  std::string read(PluginField const &field, Attributes &given) const {
    for (Attribute const &each : attributes_) {
      if (std::strcmp(each.name, field.name) == 0 && !read_field(each, field, given)) {
        return std::string("field ") + each.name + " has another type or length";
      }
    }
    return "";
  }

  Variant const &variant_;
  std::vector<Attribute> const attributes_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

}  // namespace

void hars::report(std::string const &text) noexcept {
  if (logger_finder == nullptr) return;
  nvinfer1::ILogger *logger = logger_finder->findLogger();
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, ("hars: " + text).c_str());
}

// TensorRT looks for these two in a plugin library.
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder *finder) {
  logger_finder = finder;
}

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface *const *getCreators(
    int32_t &count) {
  static std::vector<std::unique_ptr<Creator>> const creators = [] {
    std::vector<std::unique_ptr<Creator>> made;
    for (Variant const &each : VARIANTS) made.push_back(std::make_unique<Creator>(each));
    return made;
  }();
  static std::vector<nvinfer1::IPluginCreatorInterface *> const pointers = [] {
    std::vector<nvinfer1::IPluginCreatorInterface *> made;
    for (auto const &each : creators) made.push_back(each.get());
    return made;
  }();
  count = static_cast<int32_t>(pointers.size());
  return pointers.data();
}
