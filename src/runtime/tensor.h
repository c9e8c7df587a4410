// SPDX-License-Identifier: Apache-2.0
// Views of packed matrices inside a mapped file, and aligned memory for everything the engine computes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "quant/formats.h"

namespace rkllm {

inline int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// A packed [rows, cols] matrix; rows are outputs. Does not own its bytes.
struct Matrix {
  const Format* format = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  Layout layout = {};
  const uint8_t* packed = nullptr;
};

// Whether all floats of these bytes are finite: a bit pattern is when its exponent is not all ones.
template <class Word>
bool all_finite(const uint8_t* data, int64_t n_bytes, Word exponent) {
  bool finite = true;
  for (int64_t at = 0; at < n_bytes; at += int64_t(sizeof(Word))) {
    Word word;
    memcpy(&word, data + at, sizeof word);
    finite &= (word & exponent) != exponent;
  }
  return finite;
}

// Zeroed memory at a 64-byte boundary. Throws std::bad_alloc.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t n) { resize(n); }
  ~Buffer() { free(data_); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  // Zero n elements; what was there is lost.
  void resize(int64_t n) {
    free(data_);
    data_ = nullptr;
    size_ = 0;
    void* memory = nullptr;
    const size_t bytes = (size_t(n) * sizeof(T) + 63) / 64 * 64;
    if (bytes && posix_memalign(&memory, 64, bytes) != 0) throw std::bad_alloc();
    data_ = static_cast<T*>(memory);
    size_ = n;
    if (bytes) memset(static_cast<void*>(data_), 0, bytes);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace rkllm
