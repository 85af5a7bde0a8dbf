// The memory of an out= argument, offered to the op that computes the result. An elementwise op then writes there;
// otherwise its result is copied, which takes as long again. Only for outs that no argument overlaps, so that an op of
// several steps may still read its arguments after it has taken the offer.
#pragma once
#include <string_view>

#include "ops/dispatch.h"

namespace pydlx {

class OutOffer {
 public:
  // For the calling thread, until this object is gone or op `name` takes it. `out` is row-major and records nothing;
  // an undefined one offers nothing.
  OutOffer(std::string_view name, Tensor out);
  ~OutOffer();
  OutOffer(const OutOffer&) = delete;
  OutOffer& operator=(const OutOffer&) = delete;

  // The tensor on offer, once, when its op asks for just such a result; else an undefined one.
  static Tensor take(const char* name, const Dims& sizes, DType dtype, Device device);

 private:
  const std::string_view name_;
  Tensor out_;
  OutOffer* const before_;
};

}  // namespace pydlx
