// The numbers that were found by measuring: one file per class of machines, and one for what follows from the caches.
#pragma once
#include "cpu/tuning/caches.h"
#if defined(PYDLX_ISA_avx512)
#include "cpu/tuning/avx512.h"
#elif defined(PYDLX_ISA_avx2)
#include "cpu/tuning/avx2.h"
#else
#include "cpu/tuning/generic.h"
#endif
