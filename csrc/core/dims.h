// A short list of integers (sizes, strides, axes) that lives inline for up to six dimensions.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "core/limits.h"

namespace pydlx {

class Dims {
 public:
  Dims() = default;
  Dims(std::initializer_list<std::int64_t> v) : Dims(v.begin(), v.size()) {}
  Dims(const std::int64_t* p, std::size_t n) {
    resize(n);
    std::copy_n(p, n, data());
  }
  Dims(std::span<const std::int64_t> v) : Dims(v.data(), v.size()) {}
  Dims(const std::vector<std::int64_t>& v) : Dims(v.data(), v.size()) {}
  Dims(const Dims& o) { assign(o); }
  Dims(Dims&& o) noexcept { take(o); }
  Dims& operator=(const Dims& o) {
    if (this != &o) assign(o);
    return *this;
  }
  Dims& operator=(Dims&& o) noexcept {
    if (this != &o) {
      delete[] heap_;
      take(o);
    }
    return *this;
  }
  ~Dims() { delete[] heap_; }

  static Dims filled(std::size_t n, std::int64_t value) {
    Dims d;
    d.resize(n);
    std::fill_n(d.data(), n, value);
    return d;
  }

  std::size_t size() const noexcept { return size_; }
  int ndim() const noexcept { return static_cast<int>(size_); }
  bool empty() const noexcept { return size_ == 0; }
  std::int64_t* data() noexcept { return heap_ ? heap_ : inline_; }
  const std::int64_t* data() const noexcept { return heap_ ? heap_ : inline_; }
  std::int64_t& operator[](std::size_t i) noexcept { return data()[i]; }
  std::int64_t operator[](std::size_t i) const noexcept { return data()[i]; }
  std::int64_t* begin() noexcept { return data(); }
  std::int64_t* end() noexcept { return data() + size_; }
  const std::int64_t* begin() const noexcept { return data(); }
  const std::int64_t* end() const noexcept { return data() + size_; }
  std::int64_t back() const noexcept { return data()[size_ - 1]; }
  std::int64_t& back() noexcept { return data()[size_ - 1]; }

  // Keeps the first min(old, n) entries; new entries are unspecified.
  void resize(std::size_t n) {
    if (n > capacity()) reserve(n);
    size_ = static_cast<std::uint32_t>(n);
  }
  void push_back(std::int64_t v) {
    if (size_ == capacity()) reserve(2 * capacity());  // lists of cuts and lengths may be long
    ++size_;
    back() = v;
  }
  void insert(std::size_t at, std::int64_t v) {
    push_back(0);
    std::copy_backward(begin() + at, end() - 1, end());
    data()[at] = v;
  }
  void erase(std::size_t at) {
    std::copy(begin() + at + 1, end(), begin() + at);
    --size_;
  }

  bool operator==(const Dims& o) const noexcept { return size_ == o.size_ && std::equal(begin(), end(), o.begin()); }
  operator std::span<const std::int64_t>() const noexcept { return {data(), size_}; }

 private:
  static constexpr std::size_t kInline = 6;
  std::size_t capacity() const noexcept { return heap_ ? heap_capacity_ : kInline; }
  __attribute__((noinline)) void reserve(std::size_t n) {
    if (n > UINT32_MAX) throw std::bad_alloc();
    auto* p = new std::int64_t[n];
    std::copy_n(data(), size_, p);
    delete[] heap_;
    heap_ = p;
    heap_capacity_ = static_cast<std::uint32_t>(n);
  }

  void assign(const Dims& o) {
    if (!heap_ && !o.heap_) [[likely]] {
      // The whole array, used or not: a copy of constant length is a few moves, a variable one a call.
      size_ = o.size_;
      std::memcpy(inline_, o.inline_, sizeof inline_);
      return;
    }
    resize(o.size());
    std::copy_n(o.data(), o.size(), data());
  }
  // Leaves `o` empty; this object's own memory has been given up.
  void take(Dims& o) noexcept {
    size_ = std::exchange(o.size_, 0);
    heap_capacity_ = o.heap_capacity_;
    heap_ = std::exchange(o.heap_, nullptr);
    std::memcpy(inline_, o.inline_, sizeof inline_);
  }

  std::uint32_t size_ = 0;
  std::uint32_t heap_capacity_ = 0;
  std::int64_t* heap_ = nullptr;
  std::int64_t inline_[kInline];
};

}  // namespace pydlx
