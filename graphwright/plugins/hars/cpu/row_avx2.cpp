#include "lanes_avx2.h"
#include "row_steps.h"

namespace hars {

const RowSteps *avx2_steps() {
  static constexpr RowSteps steps = steps_of<Avx2>();
  return &steps;
}

}  // namespace hars
