// The part of ONNX Runtime's C interface that ort_ops.cpp uses. Its packages ship no headers, but its interface is one
// table of function pointers that only grows at the end, so a place in the table names a function for good.
#ifndef GRAPHWRIGHT_ORT_API_H
#define GRAPHWRIGHT_ORT_API_H

#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct Options;
struct Domain;
struct Value;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;

struct Api {
  void (*slots[512])();  // as many as we may ever name; the table itself may be shorter
};

struct ApiBase {
  const Api *(*get_api)(uint32_t version);  // null where this ONNX Runtime is older
  const char *(*get_version)();
};

// The newest function below, ParallelFor, came with 1.17.
constexpr uint32_t API_VERSION = 17;

template <int place, class Signature>
struct Slot;

template <int place, class Result, class... Arguments>
struct Slot<place, Result(Arguments...)> {
  static Result call(const Api *api, Arguments... arguments) {
    return reinterpret_cast<Result (*)(Arguments...)>(api->slots[place])(arguments...);
  }
};

using CreateStatus = Slot<0, Status *(int code, const char *message)>;
using CreateCustomOpDomain = Slot<26, Status *(const char *name, Domain **)>;
using CustomOpDomain_Add = Slot<27, Status *(Domain *, const struct CustomOp *)>;
using AddCustomOpDomain = Slot<28, Status *(Options *, Domain *)>;
using GetTensorMutableData = Slot<51, Status *(Value *, void **data)>;
using GetDimensionsCount = Slot<61, Status *(const TensorInfo *, size_t *rank)>;
using GetDimensions = Slot<62, Status *(const TensorInfo *, int64_t *dims, size_t rank)>;
using GetTensorTypeAndShape = Slot<65, Status *(const Value *, TensorInfo **)>;
using KernelInfoGetAttribute_float = Slot<85, Status *(const KernelInfo *, const char *name, float *)>;
using KernelInfoGetAttribute_int64 = Slot<86, Status *(const KernelInfo *, const char *name, int64_t *)>;
using KernelInfoGetAttribute_string = Slot<87, Status *(const KernelInfo *, const char *name, char *, size_t *size)>;
using KernelContext_GetInputCount = Slot<88, Status *(const KernelContext *, size_t *count)>;
using KernelContext_GetOutputCount = Slot<89, Status *(const KernelContext *, size_t *count)>;
using KernelContext_GetInput = Slot<90, Status *(const KernelContext *, size_t index, const Value **)>;
using KernelContext_GetOutput =
    Slot<91, Status *(KernelContext *, size_t index, const int64_t *dims, size_t rank, Value **)>;
using ReleaseStatus = Slot<93, void(Status *)>;
using ReleaseTensorTypeAndShapeInfo = Slot<99, void(TensorInfo *)>;
using GetSessionConfigEntry = Slot<238, Status *(const Options *, const char *key, char *value, size_t *size)>;
using KernelInfo_GetNodeName = Slot<244, Status *(const KernelInfo *, char *name, size_t *size)>;
using KernelContext_ParallelFor = Slot<
    274, Status *(const KernelContext *, void (*task)(void *, size_t), size_t count, size_t batches, void *data)>;

// Values of enum OrtErrorCode, ONNXTensorElementDataType, OrtCustomOpInputOutputCharacteristic, OrtMemType.
enum { INVALID_ARGUMENT = 2 };
enum { FLOAT = 1, INT64 = 7, FLOAT16 = 10, BFLOAT16 = 16 };
enum { REQUIRED = 0, OPTIONAL = 1 };
enum { MEMORY_DEFAULT = 0 };

// struct OrtCustomOp as of version 16, the first whose kernels can refuse with a status. ONNX Runtime reads no
// further than `version` says.
struct CustomOp {
  uint32_t version;
  void *(*create_kernel)(const CustomOp *, const Api *, const KernelInfo *);
  const char *(*get_name)(const CustomOp *);
  const char *(*get_provider)(const CustomOp *);
  int (*get_input_type)(const CustomOp *, size_t index);
  size_t (*get_input_count)(const CustomOp *);
  int (*get_output_type)(const CustomOp *, size_t index);
  size_t (*get_output_count)(const CustomOp *);
  void (*kernel_compute)(void *kernel, KernelContext *);
  void (*kernel_destroy)(void *kernel);
  int (*get_input_presence)(const CustomOp *, size_t index);
  int (*get_output_presence)(const CustomOp *, size_t index);
  int (*get_input_memory)(const CustomOp *, size_t index);
  int (*get_variadic_input_arity)(const CustomOp *);
  int (*get_variadic_input_homogeneity)(const CustomOp *);
  int (*get_variadic_output_arity)(const CustomOp *);
  int (*get_variadic_output_homogeneity)(const CustomOp *);
  Status *(*create_kernel_2)(const CustomOp *, const Api *, const KernelInfo *, void **kernel);
  Status *(*kernel_compute_2)(void *kernel, KernelContext *);
};

constexpr uint32_t CUSTOM_OP_VERSION = 16;

}  // namespace ort

#endif
