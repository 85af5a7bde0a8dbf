// Where a tensor lives.
#pragma once
#include <cstdint>
#include <string>

namespace pydlx {

enum class DeviceType : std::uint8_t { CPU, CUDA };
inline constexpr int kDeviceTypes = 2;

struct Device {
  DeviceType type = DeviceType::CPU;
  std::int8_t index = 0;

  bool operator==(const Device&) const = default;
  bool is_cpu() const { return type == DeviceType::CPU; }
  std::string str() const { return is_cpu() ? "cpu" : "cuda:" + std::to_string(index); }
};

// Where factory functions put tensors when no device is named; the CPU unless set otherwise.
Device default_device() noexcept;
void set_default_device(Device d) noexcept;

}  // namespace pydlx
