// What the stand-ins for the vendor's libraries have in common: a log of calls, and elements of the types they serve.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "core/half.h"

namespace {

// Adds a line to the file that the environment variable names, if it is set.
template <class... V>
void say(const char* variable, const char* format, V... v) {
  const char* path = std::getenv(variable);
  std::FILE* f = path ? std::fopen(path, "a") : nullptr;
  if (!f) return;
  std::fprintf(f, format, v...);
  std::fputc('\n', f);
  std::fclose(f);
}

double read(int type, const void* p, std::int64_t i) {
  switch (type) {
    case 0:
      return static_cast<const float*>(p)[i];
    case 1:
      return static_cast<const double*>(p)[i];
    case 2:
      return static_cast<float>(static_cast<const pydlx::Half*>(p)[i]);
    default:
      return static_cast<float>(static_cast<const pydlx::BFloat16*>(p)[i]);
  }
}
void write(int type, void* p, std::int64_t i, double v) {
  if (type == 0)
    static_cast<float*>(p)[i] = static_cast<float>(v);
  else if (type == 1)
    static_cast<double*>(p)[i] = v;
  else if (type == 2)
    static_cast<pydlx::Half*>(p)[i] = static_cast<pydlx::Half>(static_cast<float>(v));
  else
    static_cast<pydlx::BFloat16*>(p)[i] = static_cast<pydlx::BFloat16>(static_cast<float>(v));
}

}  // namespace
