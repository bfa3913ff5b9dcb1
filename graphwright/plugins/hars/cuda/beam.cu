// The kernel of beam.cuh and its C interface.
#include "beam.cuh"

#include "hars_cuda.h"
#include "launch.cuh"

namespace hars {
namespace {

HARS_KERNEL(BEAM_THREADS, 4) beam_merge(HARS_ARGUMENTS BeamMerge p) { merge_one(p); }

using Request = hars_cuda_beam_merge_request;
constexpr int64_t LARGEST = (int64_t{1} << 31) - 1;

bool is_sound(const Request *r) {
  if (r == nullptr || r->batch < 0 || r->beams < 1 || r->listed < 1 || r->keep < 1) return false;
  if (r->beams > LARGEST || r->listed > LARGEST || r->beams * r->listed > LARGEST) return false;
  if (r->keep > r->beams * r->listed || r->batch > LARGEST * BEAM_THREADS / (r->beams * r->listed)) return false;
  const bool has_inputs = r->values != nullptr && r->indices != nullptr && r->scores != nullptr;
  return r->batch == 0 ||
         (has_inputs && r->best_scores != nullptr && r->best_beams != nullptr && r->best_tokens != nullptr);
}

}  // namespace
}  // namespace hars

extern "C" int32_t hars_cuda_beam_merge(const hars_cuda_beam_merge_request *request, void *stream) {
  using namespace hars;
  if (!is_sound(request)) return BAD_REQUEST;
  if (request->batch == 0) return 0;
  const Request &r = *request;
  BeamMerge p = {r.values, r.scores, r.indices, r.best_scores, r.best_beams, r.best_tokens, 0, 0, 0, 0, 0};
  p.elements = r.batch * r.beams * r.listed;
  p.beams = static_cast<int>(r.beams);
  p.listed = static_cast<int>(r.listed);
  p.keep = static_cast<int>(r.keep);
  p.indices_are_int32 = r.indices_are_int32;
  return launch(beam_merge, {(p.elements + BEAM_THREADS - 1) / BEAM_THREADS, BEAM_THREADS, 1, 0}, p, stream);
}
