// What sm_90 added, as the PTX manual documents it: barriers with phases (mbarrier), clusters of blocks, the copy
// engine (TMA) and products of warpgroups (wgmma); and the asynchronous copies of sm_80 (cp.async). The engines run
// later than the instructions that start them: a copy some turns later, a product or a thread's copy not before it is
// waited for. Code that reads too early, or gives memory back too early, then gets wrong numbers.
#pragma once
#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <initializer_list>

namespace emulator {

// ---- swizzles and layouts -------------------------------------------------------------------------------------------

// Bits of the addresses of chunks (4 and up) that are changed by exclusive or with bits 7 and up: 0, 1, 2 or 3 of them
// for no swizzle, 32, 64 and 128 bytes.
constexpr std::uint32_t swizzled(std::uint32_t address, int bits) {
  return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4);
}

// A matrix descriptor of wgmma, taken apart.
struct Operand {
  std::uint32_t start, leading, stride, base_offset;  // bytes
  int swizzle;                                        // bits, as above
};
constexpr Operand operand(std::uint64_t descriptor) {
  constexpr int kBits[] = {0, 3, 2, 1};  // of the field's four values
  const auto field = [descriptor](int at) { return static_cast<std::uint32_t>(descriptor >> at & 0x3fff) << 4; };
  return {field(0), field(16), field(32), static_cast<std::uint32_t>(descriptor >> 49 & 7), kBits[descriptor >> 62]};
}

// The address of element (outer, k) of 16 bits, k below 16: `outer` is the row of A or the column of B. The canonical
// layouts: with k along lines (K-major), eight outer positions have a line each, `stride` leads to the next eight, and
// without a swizzle `leading` from the first eight of k to the others; with outer along lines (MN-major), eight
// positions of k have a line each, `stride` leads to the next eight and `leading` to the next line's worth of outer
// positions; without a swizzle these two change places.
constexpr std::uint32_t element_address(const Operand& o, bool mn_major, std::uint32_t outer, std::uint32_t k) {
  const std::uint32_t line = 16u << o.swizzle, width = line / 2;  // bytes and elements of a line
  std::uint32_t at = o.start;
  if (!mn_major) {
    at += outer % 8 * line + outer / 8 * o.stride;
    at += o.swizzle == 0 ? k % 8 * 2 + k / 8 * o.leading : k * 2;
  } else {
    at += outer % width * 2 + k % 8 * line;
    at += o.swizzle == 0 ? outer / width * o.stride + k / 8 * o.leading : outer / width * o.leading + k / 8 * o.stride;
  }
  return swizzled(at, o.swizzle);
}

// ---- instructions ---------------------------------------------------------------------------------------------------

// Addresses in the block's shared memory; like the hardware's, they do not begin at zero.
std::uint32_t shared_address(const void*);
void* shared_pointer(std::uint32_t address, std::uint32_t bytes);
// The same place in another block of the cluster (mapa), which has to be alive when it is used.
constexpr unsigned kMostCluster = 8;
std::uint32_t cluster_address(std::uint32_t address, unsigned rank);
bool in_cluster(std::uint32_t address);  // was made by cluster_address()
// Which chunk of 16 bytes of dynamic shared memory that is, below kSharedChunks; -1 for other memory.
constexpr int kSharedChunks = kMostCluster << 14;
int shared_chunk(const void*);

void mbarrier_init(std::uint32_t barrier, std::uint32_t arrivals);
void mbarrier_arrive(std::uint32_t barrier, std::uint32_t expected_bytes);
void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity);

// bar.sync of so many threads of the block, and the barrier of all threads of the cluster.
void named_barrier(unsigned id, unsigned threads);
void cluster_barrier();

constexpr int kMostAxes = 4;
// `at`: as many coordinates as the map has axes. With `blocks`, bits for blocks of the cluster, each of these gets the
// box at the same place, some sooner than others, and its own barrier counts the bytes.
void tensor_load(std::uint32_t to, const CUtensorMap& map, std::initializer_list<int> at, std::uint32_t barrier,
                 unsigned blocks = 0);

// Stores of boxes: what is stored is fixed when the store begins, and must still be there, unchanged, when its group
// has been waited for; memory has it some turns later.
void tensor_store(std::uint32_t from, const CUtensorMap& map, std::initializer_list<int> at);
void stores_commit();
void stores_wait_read(int pending);

// A thread's write to shared memory which the engines see only once the thread has shown it.
void write_shared(void* to, const void* from, std::size_t bytes);

// Copies of 4 or 16 bytes by threads, which happen when the thread waits for their group.
void copy_async(void* to, const void* from, unsigned bytes);  // zeros for null
void copies_commit();
void copies_wait(int pending);
// Shows what the thread's copies have brought, and what it has written, to products and stores, which stop at anything
// else.
void show_to_engines();

struct Product {
  int n;
  std::uint64_t a, b;
  bool a_mn_major, b_mn_major, add;
  float (*value)(std::uint16_t bits);
  const std::uint32_t* registers = nullptr;  // A in four registers of every thread instead
};
void wgmma_fence();
void wgmma(float* d, const Product&);
void wgmma_commit();
void wgmma_wait(int pending);

// ---- between this and the scheduler ---------------------------------------------------------------------------------

// Something that a thread waits for, and what to say when it can never come.
class Condition {
 public:
  virtual ~Condition() = default;
  virtual bool met() const = 0;
  virtual const char* text() const = 0;
};
void wait_for(const Condition&);
// Work that another unit does in a later turn, before that block of the cluster ends; work outside shared memory may
// outlast it.
void later(unsigned rank, std::function<void()> work);
void later_outside(std::function<void()> work);
// So many bytes have come.
void mbarrier_complete(std::uint32_t barrier, std::uint32_t bytes);
bool shown(const void* shared);
[[noreturn]] void die(const char* what);
unsigned thread_number();  // in the block
unsigned block_rank();     // in the cluster
unsigned cluster_threads();
void thread_ends();  // called when a thread's kernel returns
void copies_end();

}  // namespace emulator
