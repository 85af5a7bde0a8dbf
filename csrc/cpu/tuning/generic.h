// Tuning of the portable path: 16 vector registers of 16 bytes (x86-64, NEON has 32). It is for correctness; the
// numbers are those of AVX2, which has as many registers.
#pragma once
#include "cpu/tuning/avx2.h"
