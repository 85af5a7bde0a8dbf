#include "cuda/runtime/trace.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/operation.h"

namespace pydlx::cuda {

namespace {

std::FILE* g_file = [] {
  const char* path = std::getenv("PYDLX_CUDA_TRACE");
  std::FILE* f = path && *path ? std::fopen(path, "a") : nullptr;
  if (path && *path && !f) std::fprintf(stderr, "pydlx: PYDLX_CUDA_TRACE: cannot write to %s\n", path);
  operations_are_named = f != nullptr;
  return f;
}();
std::mutex g_mutex;

void drop(std::string& text, const char* part) {
  const std::string p = part;
  for (std::size_t at; (at = text.find(p)) != std::string::npos;) text.erase(at, p.size());
}

// "step_lists<float, Adam<float>>": without the places that all kernels share, and without parameters.
std::string readable(const char* mangled) {
  int status = 0;
  char* plain = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? plain : mangled;
  std::free(plain);
  if (const auto end = name.rfind(")("); name.starts_with("void ") && end == std::string::npos)
    name = name.substr(5, name.rfind('(') - 5);
  else if (name.starts_with("void "))
    name.erase(0, 5);
  drop(name, "(anonymous namespace)::");
  drop(name, "pydlx::cuda::");
  drop(name, "pydlx::");
  int depth = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0) name.resize(i);
  }
  return name;
}

const char* name_of(const void* kernel) {
  static std::unordered_map<const void*, std::string> known;
  const auto [at, is_new] = known.try_emplace(kernel);
  if (is_new) {
    const char* mangled = nullptr;
    const bool found = cudaFuncGetName(&mangled, kernel) == cudaSuccess && mangled;
    if (!found) cudaGetLastError();
    at->second = found ? readable(mangled) : "?";
  }
  return at->second.c_str();
}

void print_operation() {
  const Operation& op = current_operation;
  std::fprintf(g_file, "%s%s", *op.name ? op.name : "-", op.backward ? ".backward" : "");
}

}  // namespace

const bool trace_on = g_file != nullptr;

void trace_kernel(const void* kernel, dim3 grid, dim3 block, std::size_t shared) noexcept {
  const std::lock_guard lock(g_mutex);
  std::fputs("kernel ", g_file);
  print_operation();
  std::fprintf(g_file, " %ux%ux%u %ux%ux%u %zu %s\n", grid.x, grid.y, grid.z, block.x, block.y, block.z, shared,
               name_of(kernel));
  std::fflush(g_file);
}

void trace_other(const char* what, std::size_t bytes) noexcept {
  const std::lock_guard lock(g_mutex);
  std::fprintf(g_file, "%s ", what);
  print_operation();
  std::fprintf(g_file, " %zu\n", bytes);
  std::fflush(g_file);
}

}  // namespace pydlx::cuda
