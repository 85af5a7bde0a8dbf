// PYDLX_VERBOSE=1: one line on standard error per matrix product, convolution and attention, naming the kernel chosen,
// why the alternatives were refused, and the time. Read once when the library is loaded; when it is off, a call costs
// one test of a constant.
#pragma once

namespace pydlx {

extern const bool verbose_on;

// What a kernel or an op says about its choice, as in printf. It joins the line of the VerboseCall around it. Ignored
// without one, and inside parallel regions, where every piece would repeat it. Guard it with `if (verbose_on)`.
__attribute__((cold, format(printf, 1, 2))) void verbose_note(const char* format, ...) noexcept;

// The line about one call of a kernel, printed when the call is over.
class VerboseCall {
 public:
  explicit VerboseCall(const char* op) noexcept {
    if (verbose_on) [[unlikely]]
      begin(op);
  }
  ~VerboseCall() {
    if (verbose_on) [[unlikely]]
      end();
  }
  VerboseCall(const VerboseCall&) = delete;
  VerboseCall& operator=(const VerboseCall&) = delete;

 private:
  __attribute__((cold)) void begin(const char* op) noexcept;
  __attribute__((cold)) void end() noexcept;
  double start_;  // seconds
  int from_;      // where this call's text begins; calls nest
};

}  // namespace pydlx
