// SPDX-License-Identifier: Apache-2.0
// A GGUF v3 file, mapped read-only and validated before use: typed key/values and named, aligned tensors.
// Every count, offset, size and type is checked with overflow-safe arithmetic when the file is opened; after that the
// accessors cannot read outside the mapping. Knows nothing about models: model.cpp gives the keys their meaning.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rkllm {

// GGUF value types, as numbered by the format.
enum class ValueType : uint32_t {
  U8 = 0, I8 = 1, U16 = 2, I16 = 3, U32 = 4, I32 = 5, F32 = 6,
  BOOL = 7, STRING = 8, ARRAY = 9, U64 = 10, I64 = 11, F64 = 12,
};

struct Value {
  std::string key;
  ValueType type;
  ValueType element;    // element type of an ARRAY, otherwise equal to type
  uint64_t count;       // elements of an ARRAY, otherwise 1
  const uint8_t* data;  // first byte of the (first) element inside the mapping; not aligned
  uint64_t n_bytes;     // bytes from data to the end of the last element
};

struct TensorInfo {
  std::string name;
  uint32_t type;               // GGML type number
  std::vector<uint64_t> dims;  // fastest first, 1 to 4 of them
  uint64_t offset;             // from the start of the data section
  const uint8_t* data;
  uint64_t n_bytes;
};

// Immutable after open, hence safe to use from any number of threads. The mapping lives as long as the object.
class Container {
 public:
  // Map and validate. Throws Error(MODEL_FILE, "<path>: ...").
  static std::shared_ptr<const Container> open(const std::string& path);
  ~Container();
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  const std::string& path() const { return path_; }
  uint64_t file_size() const { return size_; }
  uint64_t header_size() const { return header_size_; }  // bytes before the data section
  const uint8_t* bytes() const { return bytes_; }

  const std::vector<Value>& values() const { return values_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  // nullptr when absent.
  const Value* find_value(std::string_view key) const;
  const TensorInfo* find_tensor(std::string_view name) const;

  // Typed access. Any integer type that holds the number is accepted by get_int, F32 and F64 by get_float.
  // Throw Error(MODEL_FILE) naming path and key when the key is absent or of another type.
  std::string_view get_string(std::string_view key) const;
  int64_t get_int(std::string_view key) const;
  double get_float(std::string_view key) const;
  bool get_bool(std::string_view key) const;
  std::vector<std::string_view> get_strings(std::string_view key) const;
  std::vector<int64_t> get_ints(std::string_view key) const;
  std::vector<float> get_floats(std::string_view key) const;

 private:
  Container() = default;
  void parse();

  std::string path_;
  const uint8_t* bytes_ = nullptr;
  uint64_t size_ = 0;
  uint64_t header_size_ = 0;
  std::vector<Value> values_;
  std::vector<TensorInfo> tensors_;
  std::vector<size_t> value_order_;   // values_ by key
  std::vector<size_t> tensor_order_;  // tensors_ by name
};

}  // namespace rkllm
