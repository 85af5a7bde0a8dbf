// Tables of host memory for kernels, in a way that recorded graphs can repeat: a copy would be recorded with the
// address of memory that is gone by then, so the bytes travel in the arguments of a kernel instead.
#pragma once
#include <cstring>

#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {
namespace {

struct Carried {
  static constexpr int kBytes = 3584;
  unsigned char* to;
  int count;
  alignas(8) unsigned char bytes[kBytes];
};

__global__ void __launch_bounds__(128) carry(const __grid_constant__ Carried c) {
  for (int i = static_cast<int>(threadIdx.x); i < c.count; i += 128) c.to[i] = c.bytes[i];
}

// Bytes from host memory, which may be freed as soon as this returns.
[[maybe_unused]] void upload_table(void* to, const void* from, std::size_t bytes) {
  if (bytes > 16 * Carried::kBytes && !is_capturing(current_stream())) return upload(to, from, bytes);
  for (std::size_t at = 0; at < bytes; at += Carried::kBytes) {
    Carried c;
    c.to = static_cast<unsigned char*>(to) + at;
    c.count = static_cast<int>(bytes - at < Carried::kBytes ? bytes - at : Carried::kBytes);
    std::memcpy(c.bytes, static_cast<const unsigned char*>(from) + at, static_cast<std::size_t>(c.count));
    launch(carry, 1, 128, 0, c);
  }
}

}  // namespace
}  // namespace pydlx::cuda
