// The HARS operators as custom operators of ONNX Runtime. One library for all its versions from 1.23 on.
// Shapes are not inferred here: the models that graphwright writes declare theirs.
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#include "ort_bias.h"
#include "ort_kernel.h"

namespace {

using ort::Api;
using ort::Attributes;
using ort::Bias;
using ort::KernelContext;
using ort::KernelInfo;
using ort::MAX_RANK;
using ort::Pool;
using ort::ShapeText;
using ort::Status;
using ort::Tensor;
using ort::as_status;
using ort::make_output;
using ort::read_input;
using ort::reduced;
using ort::refuse;
using ort::spread_bias;
using ort::workers_of;

struct Op : ort::CustomOp {
  const Api *api;
  const char *name;
  const int *output_types;
  size_t outputs, needed_outputs;
  int input_type;   // of ONNX
  int32_t dtype;    // the same as a hars_dtype
  int32_t threads;  // of the session
};

const Op &cast(const ort::CustomOp *op) { return *static_cast<const Op *>(op); }

struct SoftmaxTopk {
  static constexpr const char *NAME = "softmax_topk";
  static constexpr size_t NEEDED_OUTPUTS = 2, OUTPUTS = 4;
  static constexpr int OUTPUT_TYPES[OUTPUTS] = {ort::FLOAT, ort::INT64, ort::FLOAT, ort::FLOAT};

  const Op &op;
  int64_t k = 0, axis = 0;
  int32_t mode = 0;
  float temperature = 0;

  explicit SoftmaxTopk(const Op &one) : op(one) {}

  Status *read(Attributes attributes) {
    static const char *const modes[] = {"logit", "logprob", "prob", "prob_renorm", nullptr};
    k = attributes.integer("k", 0, 1);
    axis = attributes.integer("axis", -1, -static_cast<int64_t>(MAX_RANK), MAX_RANK - 1);
    mode = attributes.choice("mode", HARS_LOGPROB, modes, "logit, logprob, prob or prob_renorm");
    temperature = attributes.number("temperature", 1.0f);
    attributes.require(temperature > 0 && std::isfinite(temperature), "temperature", temperature,
                       "a finite number above 0");
    return attributes.status();
  }

  Status *compute(KernelContext *context) const {
    const Api *api = op.api;
    Tensor logits, bias;
    if (Status *status = read_input(api, context, 0, &logits)) return status;
    if (Status *status = read_input(api, context, 1, &bias)) return status;
    int64_t rank = static_cast<int64_t>(logits.rank), place = axis < 0 ? axis + rank : axis;
    if (place < 0 || place >= rank)
      return refuse(api, "found axis %lld and logits %s; needed an axis of the logits", static_cast<long long>(axis),
                    ShapeText(logits).text);
    size_t at = static_cast<size_t>(place);
    int64_t width = logits.dims[at];
    if (k > width)
      return refuse(api, "found k %lld and logits %s; needed k of at most %lld, the size of axis %lld",
                    static_cast<long long>(k), ShapeText(logits).text, static_cast<long long>(width),
                    static_cast<long long>(axis));
    Bias rows;
    if (bias.data || bias.rank)
      if (Status *status = spread_bias(api, bias, logits, at, &rows)) return status;
    void *made[OUTPUTS] = {};
    Tensor selected = reduced(logits, at, k), single = reduced(logits, at, 0);
    for (size_t i = 0; i < OUTPUTS; ++i)
      if (Status *status = make_output(api, context, i, i < 2 ? selected : single, &made[i])) return status;
    hars_softmax_topk_request request{};
    request.logits = logits.data;
    request.dtype = op.dtype;
    request.mode = mode;
    request.outer = logits.count(0, at);
    request.width = width;
    request.inner = logits.count(at + 1, logits.rank);
    request.k = k;
    request.bias = rows.rows;
    request.bias_row = rows.row_of;
    request.temperature = temperature;
    request.values = static_cast<float *>(made[0]);
    request.indices = static_cast<int64_t *>(made[1]);
    request.maximum = static_cast<float *>(made[2]);
    request.log_sum = static_cast<float *>(made[3]);
    if (request.outer * request.inner == 0) return nullptr;
    Pool pool{api, context};
    hars_workers workers = workers_of(op.threads, &pool);
    return as_status(api, hars_softmax_topk(&request, &workers));
  }
};

// ---- router_topk ----

struct RouterTopk {
  static constexpr const char *NAME = "router_topk";
  static constexpr size_t NEEDED_OUTPUTS = 2, OUTPUTS = 3;
  static constexpr int OUTPUT_TYPES[OUTPUTS] = {ort::FLOAT, ort::INT64, ort::FLOAT};

  const Op &op;
  int64_t k = 0, zero_experts = 0, groups = 0, top_groups = 0;
  int32_t scoring = 0, renormalize = 0, scale_zero_experts = 0;
  float scale = 0;

  explicit RouterTopk(const Op &one) : op(one) {}

  Status *read(Attributes attributes) {
    static const char *const scorings[] = {"softmax", "sigmoid", nullptr};
    k = attributes.integer("k", 0, 1);
    scoring = attributes.choice("scoring", HARS_SOFTMAX, scorings, "softmax or sigmoid");
    renormalize = static_cast<int32_t>(attributes.integer("renormalize", 0, 0, 1));
    scale = attributes.number("scale", 1.0f);
    zero_experts = attributes.integer("zero_experts", 0, 0);
    scale_zero_experts = static_cast<int32_t>(attributes.integer("scale_zero_experts", 1, 0, 1));
    groups = attributes.integer("groups", 1, 1);
    top_groups = attributes.integer("top_groups", 1, 1);
    attributes.require(top_groups <= groups, "top_groups", static_cast<double>(top_groups),
                       "at most the number of groups");
    return attributes.status();
  }

  Status *check(const Tensor &scores, const Tensor &bias) const {
    const Api *api = op.api;
    if (scores.rank == 0) return refuse(api, "found scores of rank 0; needed [..., experts]");
    int64_t experts = scores.dims[scores.rank - 1];
    auto refuse_count = [&](const char *name, int64_t found, const char *needed) {
      return refuse(api, "found %s %lld and scores %s; needed %s", name, static_cast<long long>(found),
                    ShapeText(scores).text, needed);
    };
    if (k > experts) return refuse_count("k", k, "at most the number of experts");
    if (zero_experts > experts) return refuse_count("zero_experts", zero_experts, "at most the number of experts");
    if (groups > 1 && (experts % groups != 0 || experts / groups < 2))
      return refuse_count("groups", groups, "groups of one size, and of two experts or more");
    if (experts / groups * top_groups < k) return refuse_count("top_groups", top_groups, "groups that hold k experts");
    if ((bias.data || bias.rank) && (bias.rank != 1 || bias.dims[0] != experts))
      return refuse(api, "found bias %s for scores %s; needed one number for each expert", ShapeText(bias).text,
                    ShapeText(scores).text);
    return nullptr;
  }

  Status *compute(KernelContext *context) const {
    const Api *api = op.api;
    Tensor scores, bias;
    if (Status *status = read_input(api, context, 0, &scores)) return status;
    if (Status *status = read_input(api, context, 1, &bias)) return status;
    if (Status *status = check(scores, bias)) return status;
    void *made[OUTPUTS] = {};
    size_t last = scores.rank - 1;
    Tensor selected = reduced(scores, last, k), single = reduced(scores, last, 0);
    for (size_t i = 0; i < OUTPUTS; ++i)
      if (Status *status = make_output(api, context, i, i < 2 ? selected : single, &made[i])) return status;
    hars_router_topk_request request{};
    request.scores = scores.data;
    request.dtype = op.dtype;
    request.scoring = scoring;
    request.rows = scores.count(0, last);
    request.experts = scores.dims[last];
    request.k = k;
    request.bias = static_cast<const float *>(bias.data);
    request.groups = groups;
    request.top_groups = top_groups;
    request.renormalize = renormalize;
    request.scale_zero_experts = scale_zero_experts;
    request.scale = scale;
    request.zero_experts = zero_experts;
    request.weights = static_cast<float *>(made[0]);
    request.chosen = static_cast<int64_t *>(made[1]);
    request.identity_weight = static_cast<float *>(made[2]);
    if (request.rows == 0) return nullptr;
    Pool pool{api, context};
    hars_workers workers = workers_of(op.threads, &pool);
    return as_status(api, hars_router_topk(&request, &workers));
  }
};

// ---- Registration ----

template <class Kernel>
Status *create_kernel(const ort::CustomOp *op, const Api *api, const KernelInfo *info, void **made) {
  Kernel *kernel = new (std::nothrow) Kernel(cast(op));
  if (!kernel) return as_status(api, HARS_NO_MEMORY);
  Status *status = kernel->read(Attributes(api, info, cast(op).name));
  if (status)
    delete kernel;
  else
    *made = kernel;
  return status;
}

constexpr struct {
  int onnx, hars;
} DTYPES[] = {{ort::FLOAT, HARS_FLOAT32}, {ort::FLOAT16, HARS_FLOAT16}, {ort::BFLOAT16, HARS_BFLOAT16}};
constexpr size_t DTYPE_COUNT = sizeof DTYPES / sizeof *DTYPES;

template <class Kernel>
void fill(Op *op, const Api *api, size_t dtype, int32_t threads) {
  *op = Op{};
  op->version = ort::CUSTOM_OP_VERSION;
  op->get_name = [](const ort::CustomOp *one) { return cast(one).name; };
  op->get_provider = [](const ort::CustomOp *) -> const char * { return nullptr; };  // the CPU's
  op->get_input_count = [](const ort::CustomOp *) -> size_t { return 2; };
  op->get_input_type = [](const ort::CustomOp *one, size_t i) -> int {
    return i == 0 ? cast(one).input_type : ort::FLOAT;
  };
  op->get_input_presence = [](const ort::CustomOp *, size_t i) -> int {
    return i == 0 ? ort::REQUIRED : ort::OPTIONAL;
  };
  op->get_input_memory = [](const ort::CustomOp *, size_t) -> int { return ort::MEMORY_DEFAULT; };
  op->get_output_count = [](const ort::CustomOp *one) { return cast(one).outputs; };
  op->get_output_type = [](const ort::CustomOp *one, size_t i) { return cast(one).output_types[i]; };
  op->get_output_presence = [](const ort::CustomOp *one, size_t i) -> int {
    return i < cast(one).needed_outputs ? ort::REQUIRED : ort::OPTIONAL;
  };
  op->create_kernel_2 = create_kernel<Kernel>;
  op->kernel_compute_2 = [](void *kernel, KernelContext *context) {
    return static_cast<const Kernel *>(kernel)->compute(context);
  };
  op->kernel_destroy = [](void *kernel) { delete static_cast<Kernel *>(kernel); };
  op->api = api;
  op->name = Kernel::NAME;
  op->output_types = Kernel::OUTPUT_TYPES;
  op->outputs = Kernel::OUTPUTS;
  op->needed_outputs = Kernel::NEEDED_OUTPUTS;
  op->input_type = DTYPES[dtype].onnx;
  op->dtype = DTYPES[dtype].hars;
  op->threads = threads;
}

// All operators for sessions of one number of threads. Sessions keep pointers to them, so they are never freed.
struct Registration {
  const Api *api;
  int32_t threads;
  ort::Domain *domain = nullptr;
  Registration *next;
  Op ops[2 * DTYPE_COUNT];

  Registration(const Api *api_, int32_t threads_, Registration *next_) : api(api_), threads(threads_), next(next_) {}

  Status *add_ops() {
    if (Status *status = ort::CreateCustomOpDomain::call(api, "hars", &domain)) return status;
    for (size_t i = 0; i < DTYPE_COUNT; ++i) {
      fill<SoftmaxTopk>(&ops[2 * i], api, i, threads);
      fill<RouterTopk>(&ops[2 * i + 1], api, i, threads);
    }
    for (const Op &op : ops)
      if (Status *status = ort::CustomOpDomain_Add::call(api, domain, &op)) return status;
    return nullptr;
  }
};

// What runtime/kernels.py says, or a guess: ONNX Runtime tells a kernel nothing of its pool.
int32_t threads_of(const Api *api, const ort::Options *options) {
  char text[16] = "";
  size_t size = sizeof text;
  Status *status = ort::GetSessionConfigEntry::call(api, options, "graphwright.hars.threads", text, &size);
  if (status) ort::ReleaseStatus::call(api, status);
  int threads = status ? 0 : atoi(text);
  if (threads < 1) threads = static_cast<int>(std::thread::hardware_concurrency());
  return threads < 1 ? 1 : threads;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) Status *RegisterCustomOps(ort::Options *options,
                                                                            const ort::ApiBase *base) {
  static std::mutex mutex;
  static Registration *first = nullptr;
  const Api *api = base->get_api(ort::API_VERSION);
  if (!api)
    return refuse(base->get_api(1), "found ONNX Runtime %s; needed 1.23 or newer", base->get_version());
  int32_t threads = threads_of(api, options);
  std::lock_guard<std::mutex> lock(mutex);
  Registration *one = first;
  while (one && (one->api != api || one->threads != threads)) one = one->next;
  if (!one) {
    one = new (std::nothrow) Registration(api, threads, first);
    if (!one) return as_status(api, HARS_NO_MEMORY);
    if (Status *status = one->add_ops()) return status;
    first = one;
  }
  return ort::AddCustomOpDomain::call(api, options, one->domain);
}
