// Copies of rows of some KB. A call of memcpy costs more than moving a short row, and loses a tenth to a fifth on
// longer ones: four vectors at a time keep more loads in flight.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

// kCount pieces, of which the last two overlap where `bytes` asks for it. kPiece * (kCount - 1) < bytes.
template <int kPiece, int kCount>
PYDLX_INLINE void copy_pieces(char* to, const char* from, std::int64_t bytes) {
  typedef char Piece __attribute__((vector_size(kPiece), aligned(1), may_alias));
  Piece v[kCount];
#pragma GCC unroll 4
  for (int k = 0; k < kCount; ++k)
    v[k] = *reinterpret_cast<const Piece*>(from + (k + 1 < kCount ? k * kPiece : bytes - kPiece));
#pragma GCC unroll 4
  for (int k = 0; k < kCount; ++k)
    *reinterpret_cast<Piece*>(to + (k + 1 < kCount ? k * kPiece : bytes - kPiece)) = v[k];
}

// Fewer bytes than a vector has: two pieces that overlap.
template <int kPiece = kVectorBytes / 2>
PYDLX_INLINE void copy_few_bytes(char* to, const char* from, std::int64_t bytes) {
  if (bytes >= kPiece)
    copy_pieces<kPiece, kPiece == 1 ? 1 : 2>(to, from, bytes);
  else if constexpr (kPiece > 1)
    copy_few_bytes<kPiece / 2>(to, from, bytes);
}

// Calls with_pieces<kPiece, kCount>() for many rows of 2 to 4 * kVectorBytes bytes.
template <int kPiece = kVectorBytes / 2, class F>
PYDLX_INLINE void choose_pieces(std::int64_t bytes, const F& with_pieces) {
  if (bytes > 3 * kVectorBytes) return with_pieces.template operator()<kVectorBytes, 4>();
  if (bytes > 2 * kVectorBytes) return with_pieces.template operator()<kVectorBytes, 3>();
  if (bytes > kVectorBytes) return with_pieces.template operator()<kVectorBytes, 2>();
  if (bytes == kVectorBytes) return with_pieces.template operator()<kVectorBytes, 1>();
  if (bytes >= kPiece) return with_pieces.template operator()<kPiece, 2>();
  if constexpr (kPiece > 1) choose_pieces<kPiece / 2>(bytes, with_pieces);
}

// `to` and `from` do not overlap.
PYDLX_INLINE void copy_row_bytes(char* to, const char* from, std::int64_t bytes) {
  if (bytes < kVectorBytes) return copy_few_bytes(to, from, bytes);
  if (bytes > 32768) {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    return;
  }
  typedef char Bytes __attribute__((vector_size(kVectorBytes), aligned(1), may_alias));
  std::int64_t i = 0;
  for (; i + 4 * kVectorBytes <= bytes; i += 4 * kVectorBytes) {
    Bytes v[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) v[k] = *reinterpret_cast<const Bytes*>(from + i + k * kVectorBytes);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) *reinterpret_cast<Bytes*>(to + i + k * kVectorBytes) = v[k];
  }
  for (; i + kVectorBytes <= bytes; i += kVectorBytes)
    *reinterpret_cast<Bytes*>(to + i) = *reinterpret_cast<const Bytes*>(from + i);
  if (i < bytes) {  // the last vector overlaps what has been written
    i = bytes - kVectorBytes;
    *reinterpret_cast<Bytes*>(to + i) = *reinterpret_cast<const Bytes*>(from + i);
  }
}

// n neighbouring elements.
template <class W>
PYDLX_INLINE void copy_run(W* to, const W* from, std::int64_t n) {
  copy_row_bytes(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from),
                 n * static_cast<std::int64_t>(sizeof(W)));
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
