// Where the draws of a kernel start.
#pragma once
#include <cstdint>

#include "cuda/runtime/launch.h"

namespace pydlx::cuda {

struct FirstDraw {
  std::uint64_t seed, offset;
};

// Kernels of a recorded graph find the start in device memory, where each replay has written it.
template <class Arguments>
__device__ __forceinline__ FirstDraw first_draw(const Arguments& k) {
  return k.base ? FirstDraw{k.base[0], k.base[1] + k.offset} : FirstDraw{k.seed, k.offset};
}

}  // namespace pydlx::cuda
