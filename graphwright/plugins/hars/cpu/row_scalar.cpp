#include "lanes_scalar.h"
#include "row_steps.h"

namespace hars {

const RowSteps *scalar_steps() {
  static constexpr RowSteps steps = steps_of<Scalar>();
  return &steps;
}

}  // namespace hars
