// A kernel for TensorRT in the emulator of cuda_on_host, launched with what the Python part tells TensorRT.
#include "tensorrt_entry.cu"

extern "C" __attribute__((visibility("default"))) int32_t launch(int64_t blocks, int32_t threads, int64_t shared_bytes,
                                                                 void **inputs, const int32_t *e, void **outputs) {
  const hars_host::Shape shape{blocks, threads, 1, static_cast<size_t>(shared_bytes)};
  auto **out = reinterpret_cast<float **>(outputs);
  auto *indices = static_cast<int32_t *>(outputs[1]);
  return hars_host::launch(shape, [&] {
#if HARS_ROUTER && HARS_BIAS && HARS_MORE
    hars_router_topk_entry(inputs[0], static_cast<float *>(inputs[1]), e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7],
                           e[8], out[0], indices, out[2]);
#elif HARS_ROUTER
    hars_router_topk_entry(inputs[0], e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], out[0], indices);
#elif HARS_BIAS && HARS_MORE
    hars_softmax_topk_entry(inputs[0], static_cast<float *>(inputs[1]), e[0], e[1], e[2], e[3], e[4], out[0], indices,
                            out[2], out[3]);
#else
    hars_softmax_topk_entry(inputs[0], e[0], e[1], e[2], e[3], out[0], indices);
#endif
  });
}

// What a row of this width needs.
extern "C" __attribute__((visibility("default"))) int32_t shared_bytes([[maybe_unused]] int32_t width,
                                                                       [[maybe_unused]] int32_t k) {
#if HARS_ROUTER
  return 0;
#else
  hars::SoftmaxTopk p = {};
  p.width = width;
  p.k = k;
  p.needs_sum = 1;
  hars::choose_selection(p, hars::HARS_TYPE::VECTOR, hars::BlockTeam::THREADS);
  return hars::shared_plan(p, hars::HARS_TYPE::VECTOR, hars::BlockTeam::THREADS).total_bytes;
#endif
}

extern "C" __attribute__((visibility("default"))) const char *last_error() { return hars_host::last_error(); }
