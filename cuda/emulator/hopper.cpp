#include "cuda/emulator/hopper.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace emulator {

namespace {

constexpr unsigned kGroup = 128, kMaxThreads = 1024;

// ---- barriers: 64 bits that hold everything -------------------------------------------------------------------------

struct State {
  std::uint64_t pending : 20, expected : 20, phase : 1, valid : 1;
  std::int64_t bytes : 22;
};
static_assert(sizeof(State) == 8);

State& state(std::uint32_t barrier) {
  if (barrier % 8 != 0) die("an mbarrier that is not at a multiple of 8 bytes");
  State& s = *static_cast<State*>(shared_pointer(barrier, 8));
  if (!s.valid || s.expected == 0 || s.pending > s.expected) die("an mbarrier that is not initialised");
  return s;
}

void end_phase_if_complete(State& s) {
  if (s.pending != 0 || s.bytes != 0) return;
  s.phase = !s.phase;
  s.pending = s.expected;
}

void add_bytes(State& s, int bytes) {
  constexpr int kMost = (1 << 20) - 1;
  const int sum = static_cast<int>(s.bytes) + bytes;
  if (sum > kMost || sum < -kMost) die("an mbarrier cannot count that many bytes");
  s.bytes = sum;
}

class PhaseOver final : public Condition {
 public:
  PhaseOver(std::uint32_t barrier, std::uint32_t parity) : barrier_(barrier), parity_(parity) {}
  bool met() const override { return state(barrier_).phase != parity_; }
  const char* text() const override {
    static char line[160];
    const State& s = state(barrier_);
    std::snprintf(line, sizeof line, "deadlock: a wait on an mbarrier that still misses %d of %d arrivals and %d bytes",
                  static_cast<int>(s.pending), static_cast<int>(s.expected), static_cast<int>(s.bytes));
    return line;
  }

 private:
  std::uint32_t barrier_, parity_;
};

}  // namespace

void mbarrier_init(std::uint32_t barrier, std::uint32_t arrivals) {
  if (barrier % 8 != 0) die("an mbarrier that is not at a multiple of 8 bytes");
  if (arrivals < 1 || arrivals >= 1u << 20) die("an mbarrier for an impossible number of arrivals");
  State s = {};
  s.pending = s.expected = arrivals;
  s.valid = 1;
  std::memcpy(shared_pointer(barrier, 8), &s, 8);
}

void mbarrier_arrive(std::uint32_t barrier, std::uint32_t expected_bytes) {
  State& s = state(barrier);
  if (s.pending == 0) die("more arrivals at an mbarrier than it expects in a phase");
  if (expected_bytes >= 1u << 20) die("an mbarrier cannot expect that many bytes");
  add_bytes(s, static_cast<int>(expected_bytes));
  --s.pending;
  end_phase_if_complete(s);
}

void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  if (parity > 1) die("the parity of an mbarrier's phase is neither 0 nor 1");
  const PhaseOver over(barrier, parity);
  if (!over.met()) wait_for(over);
}

// ---- copy engine ----------------------------------------------------------------------------------------------------

namespace {

constexpr std::uint64_t kMagic = 0x70616d726f736e65;

struct Map {
  std::uint64_t magic;
  const char* data;
  std::uint64_t sizes[3], strides[2];  // bytes between lines and planes
  std::uint32_t box[3];
  int swizzle;  // bits
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));

}  // namespace

void tensor_load(std::uint32_t to, const CUtensorMap& opaque, std::array<int, 3> at, std::uint32_t barrier) {
  Map map;
  std::memcpy(&map, &opaque, sizeof map);
  if (map.magic != kMagic) die("a tensor map that was never encoded");
  if (reinterpret_cast<std::uintptr_t>(&opaque) % 64 != 0) die("a tensor map that is not at a multiple of 64 bytes");
  if (to % 128 != 0) die("a bulk copy to shared memory that is not at a multiple of 128 bytes");
  const std::uint32_t bytes = map.box[0] * map.box[1] * map.box[2] * 2;
  shared_pointer(to, bytes);
  state(barrier);
  later([=] {
    std::uint32_t from_start = 0;
    for (std::uint32_t z = 0; z < map.box[2]; ++z)
      for (std::uint32_t y = 0; y < map.box[1]; ++y)
        for (std::uint32_t x = 0; x < map.box[0]; ++x, from_start += 2) {
          const std::int64_t i[3] = {std::int64_t{at[0]} + x, std::int64_t{at[1]} + y, std::int64_t{at[2]} + z};
          bool inside = true;
          for (int axis = 0; axis < 3; ++axis)
            inside = inside && i[axis] >= 0 && i[axis] < static_cast<std::int64_t>(map.sizes[axis]);
          void* place = shared_pointer(swizzled(to + from_start, map.swizzle), 2);
          if (inside)
            std::memcpy(place,
                        map.data + i[0] * 2 + i[1] * static_cast<std::int64_t>(map.strides[0]) +
                            i[2] * static_cast<std::int64_t>(map.strides[1]),
                        2);
          else
            std::memset(place, 0, 2);
        }
    State& s = state(barrier);
    add_bytes(s, -static_cast<int>(bytes));
    end_phase_if_complete(s);
  });
}

// ---- products of warpgroups -----------------------------------------------------------------------------------------

namespace {

struct Pending {
  float* d;
  Product product;
};
struct ThreadState {
  bool fenced = false;
  std::vector<std::vector<Pending>> groups;  // committed, oldest first
  std::vector<Pending> open;
};
ThreadState g_threads[kMaxThreads];

// The threads of a warpgroup meet at every product, and name the same one.
struct Meeting {
  unsigned here = 0, number = 0;
  Product product;
};
Meeting g_meetings[kMaxThreads / kGroup];

class Met final : public Condition {
 public:
  explicit Met(const Meeting& m) : meeting_(m), number_(m.number) {}
  bool met() const override { return meeting_.number != number_; }
  const char* text() const override { return "deadlock: a wgmma that some of the warpgroup's 128 threads miss"; }

 private:
  const Meeting& meeting_;
  const unsigned number_;
};

std::uint16_t element(const Operand& o, bool mn_major, unsigned outer, unsigned k) {
  std::uint16_t bits;
  std::memcpy(&bits, shared_pointer(element_address(o, mn_major, outer, k), 2), 2);
  return bits;
}

// This thread's part.
void compute(const Pending& p) {
  constexpr unsigned kDepth = 16;
  const Product& product = p.product;
  const Operand a = operand(product.a), b = operand(product.b);
  const unsigned t = thread_number() % kGroup, row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
  float x[2][kDepth];
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned k = 0; k < kDepth; ++k) x[i][k] = product.value(element(a, product.a_mn_major, row + 8 * i, k));
  for (int block = 0; block < product.n / 8; ++block)
    for (unsigned j = 0; j < 2; ++j) {
      float sum[2] = {};
      for (unsigned k = 0; k < kDepth; ++k) {
        const unsigned outer = static_cast<unsigned>(block) * 8 + column + j;
        const float y = product.value(element(b, product.b_mn_major, outer, k));
        for (unsigned i = 0; i < 2; ++i) sum[i] += x[i][k] * y;
      }
      for (unsigned i = 0; i < 2; ++i) {
        float& d = p.d[static_cast<unsigned>(block) * 4 + i * 2 + j];
        d = product.add ? d + sum[i] : sum[i];
      }
    }
}

void check_operand(std::uint64_t descriptor, const char* what) {
  const Operand o = operand(descriptor);
  if (o.base_offset != 0) die("a wgmma descriptor with a base offset, which the emulator does not know");
  shared_pointer(o.start, 16);
  if (descriptor & 0x3ff1c000c000c000u) die(what);  // bits that no field owns
  // Eight lines begin at a multiple of their size; inside the first one may start further along.
  if (o.swizzle > 0 && o.start % (128u << o.swizzle) >= 16u << o.swizzle) die(what);
}

}  // namespace

void wgmma_fence() { g_threads[thread_number()].fenced = true; }

void wgmma(float* d, const Product& product) {
  ThreadState& mine = g_threads[thread_number()];
  if (!mine.fenced) die("a wgmma without a wgmma.fence after ordinary code had the sums");
  if (product.n < 8 || product.n > 256 || product.n % 8 != 0) die("a wgmma of an impossible width");
  check_operand(product.a, "a wgmma descriptor of A with stray bits or at an impossible address");
  check_operand(product.b, "a wgmma descriptor of B with stray bits or at an impossible address");
  Meeting& meeting = g_meetings[thread_number() / kGroup];
  if (meeting.here == 0) meeting.product = product;
  const Product& first = meeting.product;
  if (first.a != product.a || first.b != product.b || first.add != product.add || first.n != product.n)
    die("a wgmma with different operands in the threads of a warpgroup");
  mine.open.push_back({d, product});
  if (++meeting.here == kGroup) {
    meeting.here = 0;
    ++meeting.number;
    return;
  }
  wait_for(Met(meeting));
}

void wgmma_commit() {
  ThreadState& mine = g_threads[thread_number()];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void wgmma_wait(int pending) {
  ThreadState& mine = g_threads[thread_number()];
  const std::size_t keep = static_cast<std::size_t>(pending);
  while (mine.groups.size() > keep) {
    for (const Pending& p : mine.groups.front()) compute(p);
    mine.groups.erase(mine.groups.begin());
  }
  if (mine.groups.empty() && mine.open.empty()) mine.fenced = false;
  __syncwarp();  // the warp goes on together
}

void thread_ends() {
  ThreadState& mine = g_threads[thread_number()];
  if (!mine.groups.empty() || !mine.open.empty()) die("a thread has returned with products that it never waited for");
  mine.fenced = false;
}

}  // namespace emulator

CUresult cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* every, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  using emulator::kMagic, emulator::Map;
  constexpr std::uint64_t kMostStride = std::uint64_t{1} << 40, kMostSize = std::uint64_t{1} << 32;
  const bool placed = reinterpret_cast<std::uintptr_t>(out) % 64 == 0;
  if (!placed || rank != 3 || reinterpret_cast<std::uintptr_t>(address) % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  Map map = {kMagic, static_cast<const char*>(address), {}, {}, {}, static_cast<int>(swizzle)};
  for (int i = 0; i < 3; ++i) {
    if (sizes[i] == 0 || sizes[i] > kMostSize || box[i] == 0 || box[i] > 256 || every[i] != 1)
      return CUDA_ERROR_INVALID_VALUE;
    map.sizes[i] = sizes[i];
    map.box[i] = box[i];
  }
  for (int i = 0; i < 2; ++i) {
    if (strides[i] % 16 != 0 || strides[i] >= kMostStride || strides[i] == 0) return CUDA_ERROR_INVALID_VALUE;
    map.strides[i] = strides[i];
  }
  const std::uint32_t line = box[0] * 2;
  if (line % 16 != 0 || (map.swizzle > 0 && line > 16u << map.swizzle)) return CUDA_ERROR_INVALID_VALUE;
  *out = {};
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *status = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
