// Adding to shared places in a fixed order, for one block: the threads that want a place take turns by their number.
#pragma once
#include "cuda/runtime/each.cuh"

namespace pydlx::cuda {
namespace {

// Who may go first: one entry per block and place, kFree between uses.
struct Claims {
  static constexpr unsigned kFree = ~0u;
  unsigned* holder;
  std::int64_t places;

  // All threads of the block call; each runs `act` once if its place is not negative. Threads with equal places act in
  // ascending order, with barriers in between. What act writes may be read by the next one.
  template <class F>
  __device__ __forceinline__ void in_order(std::int64_t place, const F& act) const {
    unsigned* mine = holder + blockIdx.x * places + place;
    __shared__ unsigned waiting;
    bool wants = place >= 0;
    for (;;) {
      if (threadIdx.x == 0) waiting = 0;
      if (wants) atomicMin(mine, threadIdx.x);
      __syncthreads();
      const bool turn = wants && *static_cast<volatile unsigned*>(mine) == threadIdx.x;
      if (wants && !turn) waiting = 1;
      __syncthreads();
      const bool again = waiting != 0;
      if (turn) {
        act();
        *static_cast<volatile unsigned*>(mine) = kFree;
        wants = false;
      }
      __syncthreads();
      if (!again) return;
    }
  }
};

// Blocks for so many pieces of work, within 256 MiB of claims.
[[maybe_unused]] unsigned claim_blocks(std::int64_t work, std::int64_t places) {
  const std::int64_t most = (std::int64_t{1} << 26) / (places + 1) + 1, blocks = grid_for(work, 8);
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

class ClaimTable {
 public:
  ClaimTable(std::int64_t blocks, std::int64_t places) : places_(places), holder_(blocks * places) {
    fill_bytes(holder_.get(), 0xff, static_cast<std::size_t>(blocks * places) * sizeof(unsigned));
  }
  Claims claims() const { return {holder_.get(), places_}; }

 private:
  const std::int64_t places_;
  const Scratch<unsigned> holder_;
};

}  // namespace
}  // namespace pydlx::cuda
