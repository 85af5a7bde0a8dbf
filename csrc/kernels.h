// The only contract between ops and backends: plain-data arguments and tables of function pointers, grouped in families
// (kernels/<family>.h). Kernels never throw and never allocate tensors; the ops have checked all geometry. A backend
// fills the entries it has; asking for a missing one raises a uniform error (see ops/dispatch.h).
//
// A table finds a family by its type, so a new family edits no central file and recompiles nothing but its own users.
#pragma once
#include <cstddef>

#include "core/dtype.h"

namespace pydlx {

inline constexpr int kMaxFamilies = 64;

struct KernelTable {
  const char* name = "none";  // instruction set or architecture, for `pydlx info` and PYDLX_VERBOSE
  void* families[kMaxFamilies] = {};
};

// The number of a family, the same in every table; registers it on first use. `key` is unique per type.
int family_number(const char* key, std::size_t size);
// The family's storage inside a table, zero-initialised on first use.
void* family_storage(KernelTable& table, int number);

// Forced inline: per-instruction-set objects must not export instantiations.
template <class Family>
inline __attribute__((always_inline)) const char* family_key() {
  return __PRETTY_FUNCTION__;
}

// The family inside a table that is being filled.
template <class Family>
inline __attribute__((always_inline)) Family& family(KernelTable& table) {
  return *static_cast<Family*>(family_storage(table, family_number(family_key<Family>(), sizeof(Family))));
}

// ---- filling rows that have one entry per dtype ---------------------------------------------------------------------

template <class... Ts>
struct Types {};
using AllTypes =
    Types<bool, std::uint8_t, std::int8_t, std::int16_t, std::int32_t, std::int64_t, Half, BFloat16, float, double>;
using FloatTypes = Types<Half, BFloat16, float, double>;
using WideTypes = Types<float, double>;  // of families whose ops widen 16-bit floats before

// Place in a row.
template <class T>
inline constexpr int idx = static_cast<int>(DTypeOf<T>::value);

// f.operator()<T>() for each type of a list.
template <class F, class... Ts>
inline __attribute__((always_inline)) void each_type(Types<Ts...>, const F& f) {
  (f.template operator()<Ts>(), ...);
}

}  // namespace pydlx
