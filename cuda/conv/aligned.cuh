// Operands for kernels that read 16 bytes at a time.
#pragma once
#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {
namespace {

// Lets an operand that is read begin at a multiple of 16 bytes: the given one, or a copy of it.
template <class T>
class Aligned {
 public:
  Aligned(void*& operand, std::int64_t count, bool read)
      : copied_(read && reinterpret_cast<std::uintptr_t>(operand) % 16 != 0), copy_(copied_ ? count : 0) {
    if (!copied_) return;
    copy_bytes(copy_.get(), operand, static_cast<std::size_t>(count) * sizeof(T));
    operand = copy_.get();
  }

 private:
  const bool copied_;
  const Scratch<T> copy_;
};

}  // namespace
}  // namespace pydlx::cuda
