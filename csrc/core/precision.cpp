#include "core/precision.h"

#include <atomic>

namespace pydlx {

namespace {
std::atomic<MatmulPrecision> g_precision{MatmulPrecision::high};
}

MatmulPrecision matmul_precision() noexcept { return g_precision.load(std::memory_order_relaxed); }
void set_matmul_precision(MatmulPrecision p) noexcept { g_precision.store(p, std::memory_order_relaxed); }

}  // namespace pydlx
