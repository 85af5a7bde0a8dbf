// The only contract between ops and backends: plain-data arguments and one table of function pointers per device. Kernels never
// throw and never allocate tensors; the ops have checked all geometry. A backend fills the entries it has; asking for a missing one
// raises a uniform error (see ops/dispatch.h). Every family keeps its argument structs in kernels/<family>.h.
#pragma once
#include "kernels/conv.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/optim.h"
#include "kernels/pointwise.h"
#include "kernels/pool.h"
#include "kernels/reduce.h"

namespace pydlx {

struct KernelTable {
  const char* name = "none";  // instruction set or architecture, for `pydlx info` and PYDLX_VERBOSE
  PointwiseKernels pointwise;
  ReduceKernels reduce;
  GemmKernels gemm;
  ConvKernels conv;
  PoolKernels pool;
  NormKernels norm;
  OptimKernels optim;
};

}  // namespace pydlx
