// Does with a plugin library what TensorRT does, without TensorRT and without a GPU, and prints what comes back.
//
//   driver LIBRARY                              the creators and their fields
//   driver LIBRARY NAME DTYPE SHAPES FIELD...   one plugin, as "softmax_topk_bias 1 4x9,9 k=i:3 mode=s:prob"
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <sstream>
#include <string>
#include <vector>

#include "NvInferRuntime.h"

using namespace nvinfer1;

namespace {

struct Number : apiv::VDimensionExpr {
  int64_t value;
  bool isConstant() const override { return value >= 0; }
  int64_t getConstantValue() const override { return value; }
};

struct Expression : IDimensionExpr {
  Number number;
  explicit Expression(int64_t value) {
    number.value = value;
    mImpl = &number;
  }
};

struct Numbers : apiv::VExprBuilder {
  std::list<Expression> made;
  IDimensionExpr const *constant(int64_t value) override { return &made.emplace_back(value); }
};

struct ExpressionBuilder : IExprBuilder {
  Numbers numbers;
  ExpressionBuilder() { mImpl = &numbers; }
};

struct Logger : ILogger, ILoggerFinder {
  void log(Severity, char const *text) noexcept override { printf("error %s\n", text); }
  ILogger *findLogger() override { return this; }
};

std::vector<std::string> split(std::string const &text, char mark) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, mark);) parts.push_back(part);
  return parts;
}

Dims dims_of(std::string const &text) {
  Dims dims{};
  for (std::string const &size : split(text, 'x')) dims.d[dims.nbDims++] = std::atoll(size.c_str());
  return dims;
}

// A field that owns what it points to.
struct Given {
  std::string name, text;
  int32_t whole;
  float real;

  explicit Given(std::string const &argument) {
    size_t const equals = argument.find('=');
    name = argument.substr(0, equals);
    text = argument.substr(equals + 3);
    whole = std::atoi(text.c_str());
    real = static_cast<float>(std::atof(text.c_str()));
    kind = argument[equals + 1];
  }
  PluginField field() const {
    if (kind == 'i') return {name.c_str(), &whole, PluginFieldType::kINT32, 1};
    if (kind == 'f') return {name.c_str(), &real, PluginFieldType::kFLOAT32, 1};
    return {name.c_str(), text.data(), PluginFieldType::kCHAR, static_cast<int32_t>(text.size())};
  }

 private:
  char kind;
};

void print_fields(char const *label, PluginFieldCollection const &fields) {
  printf("%s", label);
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    PluginField const &field = fields.fields[i];
    printf(" %s:", field.name);
    if (field.data == nullptr) printf("%d", static_cast<int>(field.type));
    else if (field.type == PluginFieldType::kINT32) printf("%d", *static_cast<int32_t const *>(field.data));
    else if (field.type == PluginFieldType::kFLOAT32) printf("%g", *static_cast<float const *>(field.data));
    else printf("%.*s", field.length, static_cast<char const *>(field.data));
  }
  printf("\n");
}

void print_dims(char const *label, Dims const &dims) {
  printf("%s [", label);
  for (int32_t i = 0; i < dims.nbDims; ++i) printf(i ? ",%ld" : "%ld", static_cast<long>(dims.d[i]));
  printf("]\n");
}

DynamicPluginTensorDesc tensor(Dims const &dims, DataType type, TensorFormat format = TensorFormat::kLINEAR) {
  return {{dims, type, format, 0.0f}, dims, dims, dims};
}

// As the builder does: output types and shapes, which formats go, how much scratch.
std::vector<DynamicPluginTensorDesc> build(IPluginV3 *plugin, std::vector<DynamicPluginTensorDesc> tensors) {
  auto *made = static_cast<IPluginV3OneBuild *>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
  auto const inputs = static_cast<int32_t>(tensors.size());
  int32_t const outputs = made->getNbOutputs();
  ExpressionBuilder builder;
  std::vector<DimsExprs> given, found(static_cast<size_t>(outputs));
  std::vector<DataType> input_types, types(static_cast<size_t>(outputs));
  for (auto const &each : tensors) {
    DimsExprs sizes{};
    sizes.nbDims = each.desc.dims.nbDims;
    for (int32_t i = 0; i < sizes.nbDims; ++i) sizes.d[i] = builder.constant(each.desc.dims.d[i]);
    given.push_back(sizes);
    input_types.push_back(each.desc.type);
  }
  if (made->getOutputShapes(given.data(), inputs, nullptr, 0, found.data(), outputs, builder) != 0) return {};
  if (made->getOutputDataTypes(types.data(), outputs, input_types.data(), inputs) != 0) return {};
  for (int32_t i = 0; i < outputs; ++i) {
    Dims dims{};
    dims.nbDims = found[i].nbDims;
    for (int32_t axis = 0; axis < dims.nbDims; ++axis) dims.d[axis] = found[i].d[axis]->getConstantValue();
    print_dims("output", dims);
    tensors.push_back(tensor(dims, types[static_cast<size_t>(i)]));
  }
  for (int32_t position = 0; position < inputs + outputs; ++position) {
    printf("types %d:", position);
    for (int32_t type = 0; type <= 8; ++type) {
      auto tried = tensors;
      tried[position].desc.type = static_cast<DataType>(type);
      if (made->supportsFormatCombination(position, tried.data(), inputs, outputs)) printf(" %d", type);
    }
    auto tried = tensors;
    tried[position].desc.format = TensorFormat::kCHW2;
    printf(made->supportsFormatCombination(position, tried.data(), inputs, outputs) ? " chw2\n" : "\n");
  }
  size_t const scratch =
      made->getWorkspaceSize(tensors.data(), inputs, tensors.data() + inputs, outputs);
  printf("scratch %zu\ntiming %s\n", scratch, made->getTimingCacheID());
  return tensors;
}

// As a deserialised engine does: another plugin from the fields of the first, attached, told the shapes, run.
void execute(IPluginCreatorV3One *creator, IPluginV3 *plugin, std::vector<DynamicPluginTensorDesc> const &tensors) {
  auto *first = static_cast<IPluginV3OneRuntime *>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  PluginFieldCollection const *fields = first->getFieldsToSerialize();
  print_fields("serialised", *fields);
  IPluginV3 *restored = creator->createPlugin("restored", fields, TensorRTPhase::kRUNTIME);
  delete plugin;
  auto *runtime = static_cast<IPluginV3OneRuntime *>(restored->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  IPluginV3 *attached = runtime->attachToContext(nullptr);
  delete restored;
  runtime = static_cast<IPluginV3OneRuntime *>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  auto *core = static_cast<IPluginV3OneCore *>(attached->getCapabilityInterface(PluginCapabilityType::kCORE));
  printf("core %s::%s %s\n", core->getPluginNamespace(), core->getPluginName(), core->getPluginVersion());
  auto *build = static_cast<IPluginV3OneBuild *>(attached->getCapabilityInterface(PluginCapabilityType::kBUILD));
  auto const outputs = static_cast<size_t>(build->getNbOutputs());
  size_t const inputs = tensors.size() - outputs;
  std::vector<PluginTensorDesc> plain;
  for (auto const &each : tensors) plain.push_back(each.desc);
  int32_t const changed = runtime->onShapeChange(plain.data(), static_cast<int32_t>(inputs), plain.data() + inputs,
                                                 static_cast<int32_t>(outputs));
  printf("shapes %d\n", changed);
  // Addresses that the kernels' stand-in prints.
  std::vector<void const *> in;
  std::vector<void *> out;
  for (size_t i = 0; i < inputs; ++i) in.push_back(reinterpret_cast<void const *>(0x100 + i));
  for (size_t i = 0; i < outputs; ++i) out.push_back(reinterpret_cast<void *>(0x200 + i));
  int32_t const status = runtime->enqueue(plain.data(), plain.data() + inputs, in.data(), out.data(),
                                          reinterpret_cast<void *>(0x300), nullptr);
  printf("enqueue %d\n", status);
  delete attached;
}

}  // namespace

int main(int count, char **arguments) {
  void *library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) {
    printf("%s\n", dlerror());
    return 1;
  }
  Logger logger;
  reinterpret_cast<void (*)(ILoggerFinder *)>(dlsym(library, "setLoggerFinder"))(&logger);
  auto const get = reinterpret_cast<IPluginCreatorInterface *const *(*)(int32_t &)>(dlsym(library, "getCreators"));
  int32_t creators = 0;
  IPluginCreatorInterface *const *all = get(creators);
  for (int32_t i = 0; i < creators; ++i) {
    auto *creator = static_cast<IPluginCreatorV3One *>(all[i]);
    if (count < 3) {
      printf("%s::%s %s ", creator->getPluginNamespace(), creator->getPluginName(), creator->getPluginVersion());
      print_fields("fields", *creator->getFieldNames());
    } else if (std::strcmp(creator->getPluginName(), arguments[2]) == 0) {
      std::list<Given> given;
      std::vector<PluginField> fields;
      for (int j = 5; j < count; ++j) fields.push_back(given.emplace_back(arguments[j]).field());
      PluginFieldCollection const collection{static_cast<int32_t>(fields.size()), fields.data()};
      IPluginV3 *plugin = creator->createPlugin("tested", &collection, TensorRTPhase::kBUILD);
      if (plugin == nullptr) return 2;
      std::vector<DynamicPluginTensorDesc> inputs;
      for (std::string const &shape : split(arguments[4], ',')) {
        auto const type = inputs.empty() ? static_cast<DataType>(std::atoi(arguments[3])) : DataType::kFLOAT;
        inputs.push_back(tensor(dims_of(shape), type));
      }
      auto const tensors = build(plugin, inputs);
      if (tensors.empty()) return 3;
      execute(creator, plugin, tensors);
    }
  }
  return 0;
}
