#include "core/verbose.h"

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/parallel.h"

namespace pydlx {

namespace {

constexpr int kTextSize = 4096;
thread_local char t_text[kTextSize];
thread_local int t_length = 0;
thread_local int t_depth = 0;

double now() noexcept {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool asked_for() {
  const char* v = std::getenv("PYDLX_VERBOSE");
  return v && *v && std::strcmp(v, "0") != 0;
}

}  // namespace

const bool verbose_on = asked_for();

void verbose_note(const char* format, ...) noexcept {
  if (t_depth == 0 || in_parallel_region()) return;
  std::va_list arguments;
  va_start(arguments, format);
  const int written =
      std::vsnprintf(t_text + t_length, static_cast<std::size_t>(kTextSize - t_length), format, arguments);
  va_end(arguments);
  t_length = std::min(t_length + std::max(written, 0), kTextSize - 1);  // what does not fit is cut off
}

void VerboseCall::begin(const char* op) noexcept {
  from_ = t_length;
  ++t_depth;
  verbose_note("%s", op);
  start_ = now();
}

void VerboseCall::end() noexcept {
  const double us = (now() - start_) * 1e6;
  if (!in_parallel_region()) std::fprintf(stderr, "pydlx: %.*s; %.1f us\n", t_length - from_, t_text + from_, us);
  t_length = from_;
  --t_depth;
}

}  // namespace pydlx
