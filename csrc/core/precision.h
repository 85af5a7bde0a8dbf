// Which algorithms float32 products and convolutions may use (torch.set_float32_matmul_precision).
#pragma once

namespace pydlx {

enum class MatmulPrecision : int {
  highest,  // every product and sum in float32, of the operands themselves
  high,     // also algorithms with fewer multiplications whose error stays within a few of the plain sum's: Winograd
  medium,   // also operands rounded to fewer digits, where a backend has units for them
};

MatmulPrecision matmul_precision() noexcept;
void set_matmul_precision(MatmulPrecision p) noexcept;

// Whether convolutions may round their operands: at medium, or at high where this was asked for
// (torch.backends.cudnn.allow_tf32).
bool conv_rounds_operands() noexcept;
bool conv_tf32() noexcept;
void set_conv_tf32(bool allowed) noexcept;

}  // namespace pydlx
