// Tensors side by side in one launch. The list of parts travels in the arguments of the kernel, as a recorded graph
// wants it.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/segments.cuh"
#include "kernels.h"
#include "kernels/indexing.h"

namespace pydlx::cuda {
namespace {

constexpr int kListed = 200;  // parts per launch: the arguments stay within 4 KiB

// Columns of the result that some parts make up, in units of U.
template <class U>
struct Join : Segments<kListed> {
  U* out;
  std::int64_t row;  // units from one row of the result to the next
  const U* part[kListed];
  Divider by_total;

  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const Quotient at = by_total(e);
    const int p = this->find(at.rest);
    const std::int64_t first = this->start[p], size = this->start[p + 1] - first;
    out[at.quotient * row + at.rest] = part[p][at.quotient * size + at.rest - first];
  }
};

template <class U>
void join_units(const JoinedRows& a, std::int64_t row_bytes) {
  constexpr auto unit = static_cast<std::int64_t>(sizeof(U));
  U* out = static_cast<U*>(a.out);
  for (std::int64_t begin = 0; begin < a.parts; begin += kListed) {
    Join<U> join;
    join.out = out;
    join.row = row_bytes / unit;
    for (std::int64_t p = begin; p < a.parts && p < begin + kListed; ++p) {
      if (a.part_bytes[p] == 0) continue;
      const int i = join.add(a.part_bytes[p] / unit);
      join.part[i] = static_cast<const U*>(a.part[p]);
    }
    const std::int64_t n = a.rows * join.total();
    join.by_total = Divider(join.total(), n);
    for_each(n, join);
    out += join.total();
  }
}

void join(const JoinedRows& a) {
  std::int64_t row_bytes = 0;
  std::uintptr_t all = reinterpret_cast<std::uintptr_t>(a.out);  // its low zeros are those of all addresses and sizes
  for (std::int64_t p = 0; p < a.parts; ++p) {
    row_bytes += a.part_bytes[p];
    all |= reinterpret_cast<std::uintptr_t>(a.part[p]) | static_cast<std::uintptr_t>(a.part_bytes[p]);
  }
  if (all % 16 == 0) return join_units<uint4>(a, row_bytes);
  if (all % 8 == 0) return join_units<std::uint64_t>(a, row_bytes);
  if (all % 4 == 0) return join_units<std::uint32_t>(a, row_bytes);
  if (all % 2 == 0) return join_units<std::uint16_t>(a, row_bytes);
  join_units<std::uint8_t>(a, row_bytes);
}

}  // namespace

void register_join(KernelTable& t) { family<IndexingKernels>(t).join = join; }

}  // namespace pydlx::cuda
