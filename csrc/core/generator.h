// Random numbers: Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Element i of a
// draw depends only on (seed, offset + i), so results do not depend on threads or device.
#pragma once
#include <algorithm>
#include <cstdint>
#include <mutex>
#include <thread>

#include "core/device.h"

namespace pydlx {

struct PhiloxState {
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;  // counter blocks of four 32-bit words consumed so far
  // Draws of a recorded graph: device memory with the seed and the offset that `offset` counts from, set by every
  // replay.
  const std::uint64_t* base = nullptr;
};

class Generator {
 public:
  explicit Generator(std::uint64_t seed = kDefaultSeed) { state_.seed = seed; }
  void manual_seed(std::uint64_t seed) {
    const std::lock_guard lock(mutex_);
    state_ = {seed, 0, nullptr};
  }
  std::uint64_t initial_seed() const {
    const std::lock_guard lock(mutex_);
    return state_.seed;
  }
  // In a recording, of the recording: its draws can be repeated there, too.
  PhiloxState state() const {
    const std::lock_guard lock(mutex_);
    return {state_.seed, records() ? recorded_ : state_.offset, nullptr};
  }
  void set_state(PhiloxState s) {
    const std::lock_guard lock(mutex_);
    if (records())
      recorded_ = s.offset;
    else
      state_ = {s.seed, s.offset, nullptr};
  }
  // Reserves `blocks` counter blocks and returns the state before them.
  PhiloxState reserve(std::uint64_t blocks) {
    const std::lock_guard lock(mutex_);
    if (records()) {
      const PhiloxState s{state_.seed, recorded_, base_};
      recorded_ += blocks;
      most_recorded_ = std::max(most_recorded_, recorded_);
      return s;
    }
    const PhiloxState s = state_;
    state_.offset += blocks;
    return s;
  }
  // Until end_recording, draws of the calling thread are relative to `base`; nothing is consumed. end_recording returns
  // how many blocks a replay consumes.
  void begin_recording(const std::uint64_t* base) {
    const std::lock_guard lock(mutex_);
    base_ = base;
    recorded_ = most_recorded_ = 0;
    recorder_ = std::this_thread::get_id();
  }
  std::uint64_t end_recording() {
    const std::lock_guard lock(mutex_);
    base_ = nullptr;
    return most_recorded_;
  }
  Device device;

  // Memory comes with a generator in it: Python can make an object and leave its __init__ out.
  static void* operator new(std::size_t n) { return ::new (::operator new(n)) Generator; }
  static void operator delete(void* p) { ::operator delete(p); }

  static constexpr std::uint64_t kDefaultSeed = 67280421310721;

 private:
  bool records() const { return base_ && recorder_ == std::this_thread::get_id(); }

  mutable std::mutex mutex_;
  PhiloxState state_;
  const std::uint64_t* base_ = nullptr;
  std::uint64_t recorded_ = 0, most_recorded_ = 0;
  std::thread::id recorder_;
};

Generator& default_generator();
Generator& default_generator(Device device);

}  // namespace pydlx
