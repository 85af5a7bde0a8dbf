// Sizes that both the engine and the kernels rely on.
#pragma once

namespace pydlx {

inline constexpr int kMaxDims = 32;  // more dimensions than this are refused with an error

}  // namespace pydlx
