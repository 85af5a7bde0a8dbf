// What a backend leaves to compositions, for tests.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/device.h"

namespace pydlx {

// Entries that the portable CPU path has and a device lacks: the family's name and the number of its pointer.
std::vector<std::pair<std::string, int>> missing_kernels(Device device);

}  // namespace pydlx
