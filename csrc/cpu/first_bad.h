// Kernels that meet bad data go on (reading nothing out of bounds) and report the first bad position, whatever thread
// saw it.
#pragma once
#include <cstdint>

namespace pydlx {

struct FirstBad {
  std::int64_t position = -1;
  inline __attribute__((always_inline)) void note(std::int64_t at) {
    std::int64_t seen = __atomic_load_n(&position, __ATOMIC_RELAXED);
    while ((seen < 0 || at < seen) &&
           !__atomic_compare_exchange_n(&position, &seen, at, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  }
};

}  // namespace pydlx
