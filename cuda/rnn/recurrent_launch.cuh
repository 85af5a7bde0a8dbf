// Choosing and starting the kernels of recurrent_steps.cuh.
#pragma once
#include <cstdlib>
#include <cstring>

#include "core/verbose.h"
#include "cuda/rnn/recurrent_steps.cuh"
#include "cuda/runtime/scratch.h"
#include "cuda/runtime/upload.cuh"

namespace pydlx::cuda {
namespace {

inline bool switched_off() {
  static const bool off = [] {
    const char* v = std::getenv("PYDLX_CUDA_PERSISTENT");
    return v && std::strcmp(v, "0") == 0;
  }();
  return off;
}

inline const char* cell_name(CellKind kind) {
  constexpr const char* names[] = {"rnn_tanh", "rnn_relu", "lstm", "gru"};
  return names[static_cast<int>(kind)];
}

// The plan for a layer, with 0 blocks where its weights do not fit over the multiprocessors.
inline RecurrentPlan plan_of(CellKind kind, std::int64_t hidden, std::int64_t batch, std::int64_t steps, bool backward,
                             int element) {
  if (switched_off()) return {};
  const RecurrentPlan plan = recurrent_plan({hidden, batch, static_cast<int>(gates_of(kind)), backward, element},
                                            multiprocessors(), shared_memory_limit());
  // Counters of arrivals have 32 bits.
  return plan.blocks == 0 || steps >= (std::int64_t{1} << 31) / plan.blocks ? RecurrentPlan{} : plan;
}

// Times of a sequence as the kernels read them, and the counters. Lives as long as the call.
class Timeline {
 public:
  template <class Q>
  Timeline(const Q& q, const RecurrentPlan& plan) : counters_(plan.groups * kCounterStep), rows_(2 * q.steps) {
    fill_bytes(counters_.get(), 0, static_cast<std::size_t>(plan.groups * kCounterStep) * sizeof(unsigned));
    for (std::int64_t t = 0; t < q.steps; ++t) uneven_ |= q.rows[t] != q.batch;
    if (!uneven_) return;
    upload_table(rows_.get(), q.rows, static_cast<std::size_t>(q.steps) * sizeof(std::int64_t));
    upload_table(rows_.get() + q.steps, q.offset, static_cast<std::size_t>(q.steps) * sizeof(std::int64_t));
  }

  template <class Q, class T>
  void describe(const Q& q, const RecurrentPlan& plan, CellKind kind, const T* weight, std::int64_t depth,
                RecurrentSteps<T>& p) const {
    p.steps = q.steps;
    p.batch = q.batch;
    p.rows = uneven_ ? rows_.get() : nullptr;
    p.offset = uneven_ ? rows_.get() + q.steps : nullptr;
    p.reverse = q.reverse;
    p.hidden = static_cast<int>(q.hidden);
    p.units = static_cast<int>(plan.units);
    p.blocks = static_cast<int>(plan.blocks);
    p.group_rows = plan.rows;
    p.weight = weight;
    p.vectors = depth * static_cast<std::int64_t>(sizeof(T)) % 16 == 0;
    p.relu = kind == CellKind::relu;
    p.arrivals = counters_.get();
  }

 private:
  Scratch<unsigned> counters_;
  Scratch<std::int64_t> rows_;
  bool uneven_ = false;
};

inline bool whole_vectors(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

// Starts the kernel. False, with nothing written, when the device cannot hold its blocks at a time.
template <auto kernel, class Work>
bool start_steps(const RecurrentPlan& plan, const Work& work) {
  allow_shared<kernel>(plan.shared);
  if (!fits_together<kernel>(plan.grid(), kStepThreads, plan.shared)) return false;
  launch_together(kernel, static_cast<unsigned>(plan.grid()), kStepThreads, plan.shared, work);
  return true;
}

inline void note_plan(const RecurrentPlan& plan) {
  verbose_note(": weights stay on chip, %lld groups of %lld blocks, %lld units and %zu bytes each",
               static_cast<long long>(plan.groups), static_cast<long long>(plan.blocks),
               static_cast<long long>(plan.units), plan.shared);
}

}  // namespace
}  // namespace pydlx::cuda
