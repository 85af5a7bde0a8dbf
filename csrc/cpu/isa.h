// Included first by every CPU kernel file. The file is compiled once per instruction set (see CMakeLists.txt) with
// PYDLX_ISA naming the namespace: generic, avx2 or avx512. Everything except the register function stays in an
// anonymous namespace: a template or inline function shared between these objects would be merged by the linker, and
// the generic path could then run AVX-512 code. For the same reason no standard containers or algorithms are used
// inside.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/parallel.h"
#include "kernels.h"

#ifndef PYDLX_ISA
#error "PYDLX_ISA is set by the build"
#endif
