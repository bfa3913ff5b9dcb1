#include "lanes_avx512.h"
#include "row_steps.h"

namespace hars {

const RowSteps *avx512_steps() {
  static constexpr RowSteps steps = steps_of<Avx512>();
  return &steps;
}

}  // namespace hars
