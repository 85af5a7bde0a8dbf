// Thread-local switches: is recording on, are we in inference mode, is anomaly detection on.
#pragma once

namespace pydlx {

struct GradMode {
  static bool enabled() noexcept { return flag(); }
  static void set(bool on) noexcept { flag() = on; }

 private:
  static bool& flag() noexcept {
    static thread_local bool on = true;
    return on;
  }
};

struct InferenceMode {
  static bool enabled() noexcept { return flag(); }
  static void set(bool on) noexcept { flag() = on; }

 private:
  static bool& flag() noexcept {
    static thread_local bool on = false;
    return on;
  }
};

class GradModeGuard {
 public:
  explicit GradModeGuard(bool on) : previous_(GradMode::enabled()) { GradMode::set(on); }
  ~GradModeGuard() { GradMode::set(previous_); }
  GradModeGuard(const GradModeGuard&) = delete;

 private:
  bool previous_;
};

// Anomaly mode (process-wide): nodes remember the Python line that made them, and every op checks its result for
// NaN/Inf.
bool anomaly_enabled() noexcept;
void set_anomaly(bool on, bool check_nan) noexcept;
bool anomaly_checks_nan() noexcept;

}  // namespace pydlx
