// The copy engine's boxes and the asynchronous copies of threads. See hopper.h.
#include <algorithm>
#include <unordered_map>
#include <vector>

#include "cuda/emulator/hopper.h"

namespace emulator {

namespace {

constexpr std::uint64_t kMagic = 0x70616d726f736e65;

struct Map {
  std::uint64_t magic;
  char* data;
  std::uint64_t strides[kMostAxes];             // bytes; of the first axis 2
  std::uint32_t sizes[kMostAxes];               // 0 stands for 2^32
  std::uint16_t box[kMostAxes], rank, swizzle;  // swizzle in bits
};
static_assert(sizeof(Map) <= sizeof(CUtensorMap));

// A box of a tensor and the panel of shared memory that it comes to or from.
class Box {
 public:
  Box(const CUtensorMap& map, std::initializer_list<int> at, std::uint32_t panel) : panel_(panel) {
    std::memcpy(&map_, &map, sizeof map_);
    if (map_.magic != kMagic) die("a tensor map that was never encoded");
    if (reinterpret_cast<std::uintptr_t>(&map) % 64 != 0) die("a tensor map that is not at a multiple of 64 bytes");
    if (at.size() != map_.rank) die("a bulk copy with another number of coordinates than its tensor has axes");
    if (panel % 128 != 0) die("a bulk copy of shared memory that is not at a multiple of 128 bytes");
    for (int axis = 0; axis < map_.rank; ++axis) count_ *= map_.box[axis];
    std::copy(at.begin(), at.end(), first_.begin());
    shared_pointer(panel, bytes());
  }
  std::uint32_t bytes() const { return count_ * 2; }
  // f(address in shared memory, place in the tensor or null outside) for every element.
  template <class F>
  void each(const F& f) const {
    for (std::uint32_t element = 0; element < count_; ++element) {
      bool inside = true;
      std::int64_t offset = 0;
      std::uint32_t rest = element;
      for (std::size_t axis = 0; axis < map_.rank; ++axis) {
        const std::int64_t i = std::int64_t{first_[axis]} + rest % map_.box[axis];
        rest /= map_.box[axis];
        inside = inside && i >= 0 && (map_.sizes[axis] == 0 || i < std::int64_t{map_.sizes[axis]});
        offset += i * static_cast<std::int64_t>(map_.strides[axis]);
      }
      f(swizzled(panel_ + element * 2, map_.swizzle), inside ? map_.data + offset : nullptr);
    }
  }

 private:
  Map map_;
  std::array<int, kMostAxes> first_ = {};
  std::uint32_t panel_, count_ = 1;
};

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};
struct Store {
  Box box;
  std::vector<std::uint16_t> values;  // as they were when the store began
};
template <class T>
struct Groups {
  std::vector<std::vector<T>> closed;  // oldest first
  std::vector<T> open;
  void close() {
    closed.push_back(std::move(open));
    open.clear();
  }
  // f(item) for those of all groups but the newest `pending`.
  template <class F>
  void take(int pending, const F& f) {
    while (closed.size() > static_cast<std::size_t>(pending)) {
      for (const T& item : closed.front()) f(item);
      closed.erase(closed.begin());
    }
  }
  bool any() {
    close();
    return std::any_of(closed.begin(), closed.end(), [](const auto& group) { return !group.empty(); });
  }
};
struct Copies {
  Groups<Copy> copies;
  Groups<Store> stores;
  std::vector<int> unshown;  // chunks that were brought or written since the thread's last proxy fence
};
// By thread and not by its number: the blocks of a cooperative launch are under way together.
std::unordered_map<const void*, Copies> g_copies;
int g_unshown[kSharedChunks];  // how often each chunk is in some thread's list

void hide(Copies& mine, const void* at) {
  if (const int chunk = shared_chunk(at); chunk >= 0) {
    ++g_unshown[chunk];
    mine.unshown.push_back(chunk);
  }
}

}  // namespace

bool shown(const void* shared) { return g_unshown[shared_chunk(shared)] == 0; }

void tensor_load(std::uint32_t to, const CUtensorMap& map, std::initializer_list<int> at, std::uint32_t barrier,
                 unsigned blocks) {
  if (in_cluster(to) || in_cluster(barrier)) die("a bulk copy to one other block");
  if (blocks == 0) blocks = 1u << block_rank();
  for (unsigned rank = 0; blocks >> rank != 0; ++rank) {
    if (!(blocks >> rank & 1)) continue;
    const Box box(map, at, cluster_address(to, rank));
    const std::uint32_t counts = cluster_address(barrier, rank);
    mbarrier_complete(counts, 0);
    later(rank, [=] {
      box.each([](std::uint32_t address, const char* global) {
        void* const shared = shared_pointer(address, 2);
        if (global)
          std::memcpy(shared, global, 2);
        else
          std::memset(shared, 0, 2);
      });
      mbarrier_complete(counts, box.bytes());
    });
  }
}

void tensor_store(std::uint32_t from, const CUtensorMap& map, std::initializer_list<int> at) {
  Store store = {Box(map, at, from), {}};
  store.box.each([&](std::uint32_t address, const char*) {
    const void* const shared = shared_pointer(address, 2);
    if (!shown(shared)) die("a bulk store of what threads have written and no proxy fence has shown");
    std::uint16_t value;
    std::memcpy(&value, shared, 2);
    store.values.push_back(value);
  });
  g_copies[current].stores.open.push_back(std::move(store));
}

void stores_commit() { g_copies[current].stores.close(); }

void stores_wait_read(int pending) {
  g_copies[current].stores.take(pending, [](const Store& store) {
    const std::uint16_t* value = store.values.data();
    store.box.each([&](std::uint32_t address, const char*) {
      if (std::memcmp(shared_pointer(address, 2), value++, 2) != 0)
        die("shared memory has changed before a bulk store had read it");
    });
    later_outside([store] {
      const std::uint16_t* written = store.values.data();
      store.box.each([&](std::uint32_t, char* global) {
        if (global) std::memcpy(global, written, 2);
        ++written;
      });
    });
  });
}

void write_shared(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  hide(g_copies[current], to);
}

void copy_async(void* to, const void* from, unsigned bytes) {
  const auto aligned = [bytes](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; };
  if (!aligned(to) || !aligned(from)) die("an asynchronous copy at an address that is not a multiple of its size");
  g_copies[current].copies.open.push_back({to, from, bytes});
}

void copies_commit() { g_copies[current].copies.close(); }

void copies_wait(int pending) {
  Copies& mine = g_copies[current];
  mine.copies.take(pending, [&](const Copy& c) {
    if (c.from)
      std::memcpy(c.to, c.from, c.bytes);
    else
      std::memset(c.to, 0, c.bytes);
    hide(mine, c.to);
  });
}

void show_to_engines() {
  Copies& mine = g_copies[current];
  for (const int chunk : mine.unshown) --g_unshown[chunk];
  mine.unshown.clear();
}

void copies_end() {
  Copies& mine = g_copies[current];
  if (mine.copies.any()) die("a thread has returned with copies that it never waited for");
  if (mine.stores.any()) die("a thread has returned with bulk stores that it never waited for");
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
  map.data = static_cast<char*>(address);
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
