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
  PhaseOver(std::uint32_t barrier, std::uint32_t parity)
      : barrier_(cluster_address(barrier, block_rank())), parity_(parity) {}
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
  if (in_cluster(barrier)) die("an mbarrier of another block cannot be initialised");
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

void mbarrier_complete(std::uint32_t barrier, std::uint32_t bytes) {
  State& s = state(barrier);
  add_bytes(s, -static_cast<int>(bytes));
  end_phase_if_complete(s);
}

void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  if (parity > 1) die("the parity of an mbarrier's phase is neither 0 nor 1");
  if (in_cluster(barrier)) die("a wait on an mbarrier of another block");
  const PhaseOver over(barrier, parity);
  if (!over.met()) wait_for(over);
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
ThreadState g_threads[kMostCluster][kMaxThreads];
ThreadState& own_state() { return g_threads[block_rank()][thread_number()]; }

// The threads of a warpgroup meet at every product, and name the same one.
struct Meeting {
  unsigned here = 0, number = 0;
  Product product;
  // For two meetings: the first to arrive at the next one may be ahead of those that still read from this one.
  std::array<std::uint32_t, 4> registers[2][kGroup];
};
Meeting g_meetings[kMostCluster][kMaxThreads / kGroup];

// A barrier that some of a block's threads pass together, or those of a cluster.
struct Named {
  unsigned here = 0, number = 0, threads = 0;
};
constexpr unsigned kNamed = 16;
Named g_named[kMostCluster][kNamed], g_whole_cluster;

// A number that counts meetings has changed.
class Met final : public Condition {
 public:
  Met(const unsigned& number, const char* text) : number_(number), before_(number), text_(text) {}
  bool met() const override { return number_ != before_; }
  const char* text() const override { return text_; }

 private:
  const unsigned& number_;
  const unsigned before_;
  const char* const text_;
};

void meet(Named& barrier, unsigned threads, const char* text) {
  if (barrier.here == 0) barrier.threads = threads;
  if (barrier.threads != threads) die("a named barrier of different sizes");
  if (++barrier.here == threads) {
    barrier.here = 0;
    ++barrier.number;
  } else {
    wait_for(Met(barrier.number, text));
  }
}

std::uint16_t element(const Operand& o, bool mn_major, unsigned outer, unsigned k) {
  std::uint16_t bits;
  const void* const at = shared_pointer(element_address(o, mn_major, outer, k), 2);
  if (!shown(at)) die("a wgmma reads what threads have brought and no proxy fence has shown");
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

void named_barrier(unsigned id, unsigned threads) {
  if (id >= kNamed || threads == 0 || threads % 32 != 0) die("a named barrier with an impossible name or size");
  meet(g_named[block_rank()][id], threads, "deadlock: a named barrier that some threads miss");
}

void cluster_barrier() {
  meet(g_whole_cluster, cluster_threads(), "deadlock: a barrier of the cluster that some threads miss");
}

void wgmma_fence() { own_state().fenced = true; }

void wgmma(float* d, const Product& product) {
  ThreadState& mine = own_state();
  if (!mine.fenced) die("a wgmma without a wgmma.fence after ordinary code had the sums");
  if (product.n < 8 || product.n > 256 || product.n % 8 != 0) die("a wgmma of an impossible width");
  if (!product.registers)
    check_operand(product.a, "a wgmma descriptor of A with stray bits or at an impossible address");
  check_operand(product.b, "a wgmma descriptor of B with stray bits or at an impossible address");
  Meeting& meeting = g_meetings[block_rank()][thread_number() / kGroup];
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
    wait_for(Met(meeting.number, "deadlock: a wgmma that some of the warpgroup's 128 threads miss"));
  }
  if (product.registers) gather_rows(pending, meeting.registers[number % 2]);
  mine.open.push_back(pending);
}

void wgmma_commit() {
  ThreadState& mine = own_state();
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void wgmma_wait(int pending) {
  ThreadState& mine = own_state();
  const std::size_t keep = static_cast<std::size_t>(pending);
  while (mine.groups.size() > keep) {
    for (const Pending& p : mine.groups.front()) compute(p);
    mine.groups.erase(mine.groups.begin());
  }
  if (mine.groups.empty() && mine.open.empty()) mine.fenced = false;
  __syncwarp();  // the warp goes on together
}

void thread_ends() {
  ThreadState& mine = own_state();
  if (!mine.groups.empty() || !mine.open.empty()) die("a thread has returned with products that it never waited for");
  mine.fenced = false;
  copies_end();
}

}  // namespace emulator
