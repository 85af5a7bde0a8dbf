#include "cuda/emulator/hopper.h"

#include <algorithm>
#include <cstdio>
#include <unordered_map>
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
  std::uint64_t strides[kMostAxes];             // bytes; of the first axis 2
  std::uint32_t sizes[kMostAxes];               // 0 stands for 2^32
  std::uint16_t box[kMostAxes], rank, swizzle;  // swizzle in bits
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));

}  // namespace

void tensor_load(std::uint32_t to, const CUtensorMap& opaque, std::initializer_list<int> at, std::uint32_t barrier) {
  Map map;
  std::memcpy(&map, &opaque, sizeof map);
  if (map.magic != kMagic) die("a tensor map that was never encoded");
  if (reinterpret_cast<std::uintptr_t>(&opaque) % 64 != 0) die("a tensor map that is not at a multiple of 64 bytes");
  if (at.size() != map.rank) die("a bulk copy with another number of coordinates than its tensor has axes");
  if (to % 128 != 0) die("a bulk copy to shared memory that is not at a multiple of 128 bytes");
  std::uint32_t count = 1;
  for (int axis = 0; axis < map.rank; ++axis) count *= map.box[axis];
  std::array<int, kMostAxes> first = {};
  std::copy(at.begin(), at.end(), first.begin());
  shared_pointer(to, count * 2);
  state(barrier);
  later([=] {
    for (std::uint32_t element = 0; element < count; ++element) {
      bool inside = true;
      std::int64_t from = 0;
      std::uint32_t rest = element;
      for (std::size_t axis = 0; axis < map.rank; ++axis) {
        const std::int64_t i = std::int64_t{first[axis]} + rest % map.box[axis];
        rest /= map.box[axis];
        inside = inside && i >= 0 && (map.sizes[axis] == 0 || i < std::int64_t{map.sizes[axis]});
        from += i * static_cast<std::int64_t>(map.strides[axis]);
      }
      void* place = shared_pointer(swizzled(to + element * 2, map.swizzle), 2);
      if (inside)
        std::memcpy(place, map.data + from, 2);
      else
        std::memset(place, 0, 2);
    }
    State& s = state(barrier);
    add_bytes(s, -static_cast<int>(count * 2));
    end_phase_if_complete(s);
  });
}

// ---- products of warpgroups -----------------------------------------------------------------------------------------

namespace {

constexpr unsigned kDepth = 16;  // of one product

struct Pending {
  float* d;
  Product product;
  std::array<std::uint32_t, 4> registers = {};  // as they were
  float rows[2][kDepth] = {};                   // of A, with its registers gathered
};
struct ThreadState {
  bool fenced = false;
  std::vector<std::vector<Pending>> groups;  // committed, oldest first
  std::vector<Pending> open;
};
ThreadState g_threads[kMaxThreads];

struct Copy {
  void* to;
  const void* from;
};
struct Copies {
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
  std::vector<int> unshown;  // chunks that were brought since the thread's last proxy fence
};
// By thread and not by its number: the blocks of a cooperative launch are under way together.
std::unordered_map<const void*, Copies> g_copies;
int g_unshown[kSharedChunks];  // how often each chunk is in some thread's list

// The threads of a warpgroup meet at every product, and name the same one.
struct Meeting {
  unsigned here = 0, number = 0;
  Product product;
  // For two meetings: the first to arrive at the next one may be ahead of those that still read from this one.
  std::array<std::uint32_t, 4> registers[2][kGroup];
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
  const void* const at = shared_pointer(element_address(o, mn_major, outer, k), 2);
  if (g_unshown[shared_chunk(at)]) die("a wgmma reads what cp.async has brought and no proxy fence has shown");
  std::memcpy(&bits, at, 2);
  return bits;
}

// This thread's part.
void compute(const Pending& p) {
  const Product& product = p.product;
  const Operand a = operand(product.a), b = operand(product.b);
  if (product.registers && !std::equal(p.registers.begin(), p.registers.end(), product.registers))
    die("registers of a wgmma have changed before it was waited for");
  const unsigned t = thread_number() % kGroup, row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
  float x[2][kDepth];
  for (unsigned i = 0; i < 2; ++i)
    for (unsigned k = 0; k < kDepth; ++k)
      x[i][k] = product.registers ? p.rows[i][k] : product.value(element(a, product.a_mn_major, row + 8 * i, k));
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

// The two rows of A that this thread multiplies: registers 0 and 2 of its neighbours hold columns 2 i, 2 i + 1 and
// those eight further of the first row, 1 and 3 of the second one.
void gather_rows(Pending& p, const std::array<std::uint32_t, 4> (&registers)[kGroup]) {
  const unsigned first = thread_number() % kGroup / 4 * 4;
  for (unsigned row = 0; row < 2; ++row)
    for (unsigned k = 0; k < kDepth; ++k) {
      const std::uint32_t pair = registers[first + k % 8 / 2][row + k / 8 * 2];
      p.rows[row][k] = p.product.value(static_cast<std::uint16_t>(k % 2 ? pair >> 16 : pair));
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

void copy_16(void* to, const void* from) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  if (!aligned(to) || !aligned(from)) die("a copy of 16 bytes at an address that is not a multiple of 16");
  g_copies[current].open.push_back({to, from});
}

void copies_commit() {
  Copies& mine = g_copies[current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void copies_wait(int pending) {
  Copies& mine = g_copies[current];
  while (mine.groups.size() > static_cast<std::size_t>(pending)) {
    for (const Copy& c : mine.groups.front()) {
      if (c.from)
        std::memcpy(c.to, c.from, 16);
      else
        std::memset(c.to, 0, 16);
      if (const int chunk = shared_chunk(c.to); chunk >= 0) {
        ++g_unshown[chunk];
        mine.unshown.push_back(chunk);
      }
    }
    mine.groups.erase(mine.groups.begin());
  }
}

void show_to_engines() {
  Copies& mine = g_copies[current];
  for (const int chunk : mine.unshown) --g_unshown[chunk];
  mine.unshown.clear();
}

void wgmma_fence() { g_threads[thread_number()].fenced = true; }

void wgmma(float* d, const Product& product) {
  ThreadState& mine = g_threads[thread_number()];
  if (!mine.fenced) die("a wgmma without a wgmma.fence after ordinary code had the sums");
  if (product.n < 8 || product.n > 256 || product.n % 8 != 0) die("a wgmma of an impossible width");
  if (!product.registers)
    check_operand(product.a, "a wgmma descriptor of A with stray bits or at an impossible address");
  check_operand(product.b, "a wgmma descriptor of B with stray bits or at an impossible address");
  Meeting& meeting = g_meetings[thread_number() / kGroup];
  if (meeting.here == 0) meeting.product = product;
  const Product& first = meeting.product;
  if (first.a != product.a || first.b != product.b || first.add != product.add || first.n != product.n ||
      !first.registers != !product.registers)
    die("a wgmma with different operands in the threads of a warpgroup");
  Pending pending = {d, product};
  const unsigned number = meeting.number;
  if (product.registers) {
    std::copy_n(product.registers, 4, pending.registers.begin());
    meeting.registers[number % 2][thread_number() % kGroup] = pending.registers;
  }
  if (++meeting.here == kGroup) {
    meeting.here = 0;
    ++meeting.number;
  } else {
    wait_for(Met(meeting));
  }
  if (product.registers) gather_rows(pending, meeting.registers[number % 2]);
  mine.open.push_back(pending);
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
  copies_commit();
  for (const auto& group : g_copies[current].groups)
    if (!group.empty()) die("a thread has returned with copies that it never waited for");
  show_to_engines();
  g_copies.erase(current);
}

}  // namespace emulator

CUresult cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* every, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  using emulator::kMagic, emulator::Map;
  constexpr std::uint64_t kMostStride = std::uint64_t{1} << 40, kMostSize = std::uint64_t{1} << 32;
  const bool placed = reinterpret_cast<std::uintptr_t>(out) % 64 == 0;
  if (!placed || rank < 3 || rank > emulator::kMostAxes || reinterpret_cast<std::uintptr_t>(address) % 16 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  Map map = {};
  map.magic = kMagic;
  map.data = static_cast<const char*>(address);
  map.rank = static_cast<std::uint16_t>(rank);
  map.swizzle = static_cast<std::uint16_t>(swizzle);
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || sizes[i] > kMostSize || box[i] == 0 || box[i] > 256 || every[i] != 1)
      return CUDA_ERROR_INVALID_VALUE;
    map.sizes[i] = static_cast<std::uint32_t>(sizes[i]);
    map.box[i] = static_cast<std::uint16_t>(box[i]);
  }
  map.strides[0] = 2;
  for (cuuint32_t i = 0; i + 1 < rank; ++i) {
    if (strides[i] % 16 != 0 || strides[i] >= kMostStride || strides[i] == 0) return CUDA_ERROR_INVALID_VALUE;
    map.strides[i + 1] = strides[i];
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
