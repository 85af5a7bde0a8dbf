#include "core/generator.h"

namespace pydlx {

Generator& default_generator() {
  static Generator g;
  return g;
}

}  // namespace pydlx
