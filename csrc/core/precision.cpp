#include "core/precision.h"

#include <atomic>

namespace pydlx {

namespace {
std::atomic<MatmulPrecision> g_precision{MatmulPrecision::high};
std::atomic<bool> g_conv_tf32{false};
}  // namespace

MatmulPrecision matmul_precision() noexcept { return g_precision.load(std::memory_order_relaxed); }
void set_matmul_precision(MatmulPrecision p) noexcept { g_precision.store(p, std::memory_order_relaxed); }

bool conv_tf32() noexcept { return g_conv_tf32.load(std::memory_order_relaxed); }
void set_conv_tf32(bool allowed) noexcept { g_conv_tf32.store(allowed, std::memory_order_relaxed); }
bool conv_rounds_operands() noexcept {
  const MatmulPrecision p = matmul_precision();
  return p == MatmulPrecision::medium || (p == MatmulPrecision::high && conv_tf32());
}

}  // namespace pydlx
