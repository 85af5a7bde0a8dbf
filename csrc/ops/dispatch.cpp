#include "ops/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "blas/blas.h"
#include "core/backend.h"
#include "cpu_families.h"  // generated: declares register_<family> for every csrc/cpu/<family>.cpp and instruction set
#include "ops/missing_kernels.h"

namespace pydlx {

namespace {

struct FamilyInfo {
  std::string key;
  std::size_t size;
};
// Tables are filled while the process starts and families are looked up later, possibly from several threads.
struct FamilyRegistry {
  std::mutex mutex;
  std::vector<FamilyInfo> families;
};
FamilyRegistry& family_registry() {
  static FamilyRegistry r;
  return r;
}

}  // namespace

int family_number(const char* key, std::size_t size) {
  FamilyRegistry& r = family_registry();
  const std::lock_guard lock(r.mutex);
  for (std::size_t i = 0; i < r.families.size(); ++i)
    if (r.families[i].key == key) return static_cast<int>(i);
  require(r.families.size() < kMaxFamilies, "kernels", "", ErrorKind::Runtime, "expected at most ", kMaxFamilies,
          " kernel families");
  r.families.push_back({key, size});
  return static_cast<int>(r.families.size()) - 1;
}

void* family_storage(KernelTable& table, int number) {
  void*& slot = table.families[number];
  if (!slot) slot = std::calloc(1, family_registry().families[number].size);  // lives as long as the process
  if (!slot) throw std::bad_alloc();
  return slot;
}

namespace {

bool machine_has(const char* isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(isa, "avx512_bf16"))
    return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16");
  if (!std::strcmp(isa, "avx512")) return __builtin_cpu_supports("x86-64-v4");
  if (!std::strcmp(isa, "avx2")) return __builtin_cpu_supports("x86-64-v3");
#endif
  return !std::strcmp(isa, "generic");
}

struct CpuTables {
  KernelTable tables[kIsaCount];
  std::atomic<const KernelTable*> current{nullptr};

  // Every path starts from the one below it, so nothing is ever missing.
  CpuTables() {
    for (int i = 0; i < kIsaCount && machine_has(kIsaNames[i]); ++i) {
      if (i > 0) inherit(tables[i], tables[i - 1]);
      tables[i].name = kIsaNames[i];
      fill_cpu_table(i, tables[i]);
      register_blas(tables[i]);
      current = &tables[i];
    }
    if (const char* forced = std::getenv("PYDLX_CPU_ISA"); forced && *forced) select(forced);
  }
  static void inherit(KernelTable& to, const KernelTable& from) {
    for (int f = 0; f < kMaxFamilies; ++f)
      if (from.families[f]) std::memcpy(family_storage(to, f), from.families[f], family_registry().families[f].size);
  }
  void select(const char* name) {
    for (const auto& t : tables)
      if (!std::strcmp(t.name, name)) {
        current = &t;
        return;
      }
    std::string have;
    for (const char* n : available()) have += std::string(have.empty() ? "" : ", ") + n;
    fail("set_cpu_isa", "name", ErrorKind::Value, "expected one of ", have, " (what this machine can run), got ", name);
  }
  std::vector<const char*> available() const {
    std::vector<const char*> names;
    for (const auto& t : tables)
      if (std::strcmp(t.name, "none") != 0) names.push_back(t.name);
    return names;
  }
};

CpuTables& cpu_tables() {
  static CpuTables t;
  return t;
}

}  // namespace

const KernelTable& kernels_for(Device device) {
  if (device.is_cpu()) [[likely]]
    return *cpu_tables().current.load(std::memory_order_relaxed);
  return require_backend(device).kernels(device.index);
}

std::vector<const char*> cpu_isas() { return cpu_tables().available(); }
void set_cpu_isa(const char* name) { cpu_tables().select(name); }

std::string describe_cpu_path() {
  const std::string chosen = kernels_for({}).name;
  std::string text = "CPU path " + chosen;
  const char* forced = std::getenv("PYDLX_CPU_ISA");
  bool wider = false;
  for (const char* name : kIsaNames) {
    if (wider) {
      text += std::string("; not ") + name + ": ";
      text += machine_has(name) ? "PYDLX_CPU_ISA=" + std::string(forced ? forced : "") : "this processor lacks it";
    }
    wider |= chosen == name;
  }
  return text;
}

std::vector<std::pair<std::string, int>> missing_kernels(Device device) {
  std::vector<std::pair<std::string, int>> missing;
  const KernelTable &portable = cpu_tables().tables[0], &table = kernels_for(device);
  const auto entry = [](const KernelTable& t, std::size_t family, std::size_t i) {
    return t.families[family] ? static_cast<void* const*>(t.families[family])[i] : nullptr;
  };
  const auto& families = family_registry().families;
  for (std::size_t f = 0; f < families.size(); ++f) {
    const std::string& key = families[f].key;  // "... Family = NormKernels]"
    const std::size_t begin = key.find_last_of(" :") + 1;
    for (std::size_t i = 0; i < families[f].size / sizeof(void*); ++i)
      if (entry(portable, f, i) && !entry(table, f, i))
        missing.emplace_back(key.substr(begin, key.size() - 1 - begin), static_cast<int>(i));
  }
  return missing;
}

void missing_kernel(const char* op, Device device, DType dtype) {
  fail(op, "input", ErrorKind::DType, "expected a supported dtype; there is no ", device.is_cpu() ? "CPU" : "CUDA",
       " kernel for ", dtype);
}

Device common_device(const char* op, std::initializer_list<const Tensor*> tensors) {
  const Tensor* first = nullptr;
  for (const Tensor* t : tensors) {
    if (!t->defined() || (t->ndim() == 0 && t->is_cpu())) continue;
    if (!first)
      first = t;
    else if (!(first->device() == t->device()))
      fail(op, "", ErrorKind::Device, "expected all tensors on one device, got ", first->device(), " and ", t->device(),
           "; move one with .to()");
  }
  return first ? first->device() : Device{};
}

}  // namespace pydlx
