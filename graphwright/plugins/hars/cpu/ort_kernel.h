// What the kernels of ort_ops.cpp share: refusals, tensors, attributes, threads.
#ifndef GRAPHWRIGHT_ORT_KERNEL_H
#define GRAPHWRIGHT_ORT_KERNEL_H

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "hars.h"
#include "ort_api.h"

namespace ort {

constexpr size_t MAX_RANK = 32;

__attribute__((format(printf, 2, 3))) inline Status *refuse(const Api *api, const char *format, ...) {
  char text[640];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return CreateStatus::call(api, INVALID_ARGUMENT, text);
}

inline Status *as_status(const Api *api, int32_t found) {
  if (found == HARS_OK) return nullptr;
  if (found == HARS_NO_MEMORY) return refuse(api, "found too little memory");
  return refuse(api, "found a request that the kernel refuses with status %d", found);
}

// ---- Tensors ----

struct Tensor {
  void *data = nullptr;  // null: an optional one that is not there
  size_t rank = 0;
  int64_t dims[MAX_RANK];

  int64_t count(size_t first, size_t last) const {
    int64_t product = 1;
    for (size_t i = first; i < last; ++i) product *= dims[i];
    return product;
  }
};

struct ShapeText {
  char text[256] = "[";

  explicit ShapeText(const Tensor &tensor) {
    size_t used = 1;
    for (size_t i = 0; i < tensor.rank && used < 200; ++i)
      used += snprintf(text + used, sizeof text - used, i ? ", %lld" : "%lld", static_cast<long long>(tensor.dims[i]));
    snprintf(text + used, sizeof text - used, "]");
  }
};

inline Status *read_shape(const Api *api, const TensorInfo *info, Tensor *tensor) {
  if (Status *status = GetDimensionsCount::call(api, info, &tensor->rank)) return status;
  if (tensor->rank > MAX_RANK) return refuse(api, "found %zu axes; needed at most %zu", tensor->rank, MAX_RANK);
  return GetDimensions::call(api, info, tensor->dims, tensor->rank);
}

inline Status *read_input(const Api *api, KernelContext *context, size_t index, Tensor *tensor) {
  size_t count = 0;
  if (Status *status = KernelContext_GetInputCount::call(api, context, &count)) return status;
  const Value *value = nullptr;
  if (index < count)
    if (Status *status = KernelContext_GetInput::call(api, context, index, &value)) return status;
  if (!value) return nullptr;
  TensorInfo *info = nullptr;
  if (Status *status = GetTensorTypeAndShape::call(api, value, &info)) return status;
  Status *status = read_shape(api, info, tensor);
  ReleaseTensorTypeAndShapeInfo::call(api, info);
  if (status) return status;
  return GetTensorMutableData::call(api, const_cast<Value *>(value), &tensor->data);
}

inline Status *make_output(const Api *api, KernelContext *context, size_t index, const Tensor &shape, void **data) {
  size_t count = 0;
  if (Status *status = KernelContext_GetOutputCount::call(api, context, &count)) return status;
  Value *value = nullptr;
  if (index < count)
    if (Status *status = KernelContext_GetOutput::call(api, context, index, shape.dims, shape.rank, &value))
      return status;
  return value ? GetTensorMutableData::call(api, value, data) : nullptr;
}

// The shape of a result: `k` numbers on the axis, or none and no such axis.
inline Tensor reduced(const Tensor &from, size_t axis, int64_t k) {
  Tensor shape = from;
  if (k > 0) {
    shape.dims[axis] = k;
    return shape;
  }
  for (size_t i = axis + 1; i < shape.rank; ++i) shape.dims[i - 1] = shape.dims[i];
  --shape.rank;
  return shape;
}

// ---- Attributes ----

class Attributes {
 public:
  Attributes(const Api *api, const KernelInfo *info, const char *op) : api_(api), info_(info) {
    char name[128] = "";
    size_t size = sizeof name;
    // A longer name is a refusal, and the operator alone says enough.
    Status *status = KernelInfo_GetNodeName::call(api, info, name, &size);
    if (status) ReleaseStatus::call(api, status);
    if (status || !*name)
      snprintf(node_, sizeof node_, "%s", op);
    else
      snprintf(node_, sizeof node_, "%s (%s)", name, op);
  }

  Status *status() const { return status_; }

  // A default below the least number means that there is none.
  int64_t integer(const char *name, int64_t otherwise, int64_t least, int64_t most = INT64_MAX) {
    int64_t found = otherwise;
    char needed[96];
    snprintf(needed, sizeof needed, most == INT64_MAX ? "an integer of at least %lld" : "an integer from %lld to %lld",
             static_cast<long long>(least), static_cast<long long>(most));
    if (!take<KernelInfoGetAttribute_int64>(name, &found))
      check_absent(name, needed, otherwise < least);
    else if (found < least || found > most)
      fail(refuse(api_, "%s: attribute %s: found %lld; needed %s", node_, name, static_cast<long long>(found), needed));
    return found;
  }

  float number(const char *name, float otherwise) {
    float found = otherwise;
    if (!take<KernelInfoGetAttribute_float>(name, &found)) check_absent(name, "a float");
    return found;
  }

  // The position of the text among `choices`, which a null ends.
  int32_t choice(const char *name, int32_t otherwise, const char *const *choices, const char *needed) {
    char found[32] = "";
    size_t size = sizeof found;
    if (Status *status = KernelInfoGetAttribute_string::call(api_, info_, name, found, &size)) {
      ReleaseStatus::call(api_, status);
      if (size != sizeof found)
        fail(refuse(api_, "%s: attribute %s: found a longer text; needed %s", node_, name, needed));
      check_absent(name, needed);
      return otherwise;
    }
    for (int32_t i = 0; choices[i]; ++i)
      if (!strcmp(found, choices[i])) return i;
    fail(refuse(api_, "%s: attribute %s: found '%s'; needed %s", node_, name, found, needed));
    return otherwise;
  }

  void require(bool holds, const char *name, double found, const char *needed) {
    if (!holds) fail(refuse(api_, "%s: attribute %s: found %g; needed %s", node_, name, found, needed));
  }

 private:
  template <class Getter, class Type>
  bool take(const char *name, Type *found) {
    Status *status = Getter::call(api_, info_, name, found);
    if (status) ReleaseStatus::call(api_, status);
    return !status;
  }

  // ONNX Runtime gives the same status for an attribute of another type as for none.
  void check_absent(const char *name, const char *needed, bool is_needed = false) {
    int64_t integer;
    float number;
    size_t size = 0;
    const char *found = is_needed ? "none" : nullptr;
    if (take<KernelInfoGetAttribute_int64>(name, &integer)) found = "an integer";
    if (take<KernelInfoGetAttribute_float>(name, &number)) found = "a float";
    Status *status = KernelInfoGetAttribute_string::call(api_, info_, name, nullptr, &size);
    if (status) ReleaseStatus::call(api_, status);
    if (!status) found = "a text";
    if (found) fail(refuse(api_, "%s: attribute %s: found %s; needed %s", node_, name, found, needed));
  }

  void fail(Status *status) {
    if (status_)
      ReleaseStatus::call(api_, status);
    else
      status_ = status;
  }

  const Api *api_;
  const KernelInfo *info_;
  char node_[192];
  Status *status_ = nullptr;  // the first refusal
};

// ---- Threads: those of the session ----

struct Pool {
  const Api *api;
  const KernelContext *context;
};

struct Job {
  hars_task task;
  void *data;
};

inline void run_all(void *pool, hars_task task, void *data, int64_t count) {
  const Pool &session = *static_cast<const Pool *>(pool);
  Job job{task, data};
  auto step = [](void *one, size_t index) {
    const Job &given = *static_cast<const Job *>(one);
    given.task(given.data, static_cast<int64_t>(index));
  };
  Status *status = KernelContext_ParallelFor::call(session.api, session.context, step, count, 0, &job);
  if (!status) return;
  // Refused before it began.
  ReleaseStatus::call(session.api, status);
  for (int64_t i = 0; i < count; ++i) task(data, i);
}

inline hars_workers workers_of(int32_t threads, Pool *pool) {
  if (threads == 1) return {HARS_AUTO, 1, nullptr, nullptr};
  return {HARS_AUTO, threads, run_all, pool};
}

}  // namespace ort

#endif
