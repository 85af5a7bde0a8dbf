// The optional external BLAS (PYDLX_BLAS at build time). Its own threads are never used: they would fight with ours
// (see core/parallel.h), so it is called for one tile at a time from our parallel loops.
#pragma once
#include "kernels.h"

namespace pydlx {

// Gives a CPU table the library's kernels where they were measured to win on that instruction set, and takes those away
// that the table inherited from a narrower one.
void register_blas(KernelTable& table);

}  // namespace pydlx
