// SPDX-License-Identifier: Apache-2.0
// Writes a .rkllm file: a GGUF v3 file with alignment 64, whose last tensor holds checksums of everything before it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rkllm {

// Types of tensors that are written, by their GGML numbers.
enum class TensorType : uint32_t { F32 = 0, I8 = 24, I64 = 27 };

// Throw Error(INVALID_ARGUMENT) when no file can be put there: it is a folder or a device, or its folder is missing or
// may not be written to.
void check_target(const std::string& path);

// The file is written without a name, where the file system has such files, or under a temporary one in the same
// folder, and renamed at the end, so that the path is either what it was before or the whole new file. First come all
// keys and declarations, then the bytes of each tensor. One thread.
class ContainerWriter {
 public:
  explicit ContainerWriter(std::string path);
  // Without finish() nothing is left behind.
  ~ContainerWriter();
  ContainerWriter(const ContainerWriter&) = delete;
  ContainerWriter& operator=(const ContainerWriter&) = delete;

  void put(const std::string& key, std::string_view text);
  void put(const std::string& key, uint32_t number);
  void put(const std::string& key, double number);
  void put(const std::string& key, const std::vector<int64_t>& numbers);
  void put(const std::string& key, const std::vector<std::string>& texts);
  void declare(const std::string& name, TensorType type, uint64_t n_elements);

  // Write the header. This and what follows throw Error(MODEL_FILE) when the file cannot be written.
  void begin();
  // The bytes of the next tensor, all of them.
  void write(const void* data);
  void finish();

 private:
  struct Declared {
    std::string name;
    TensorType type;
    uint64_t n_elements;
    uint64_t n_bytes;
  };
  void start_key(const std::string& key, uint32_t type);
  // Try names until `take` makes a free one ours. False, with errno, when it fails for another reason.
  bool take_temporary_name(const std::function<bool(const char*)>& take);
  void append(const void* data, uint64_t n);
  [[noreturn]] void fail(const char* step) const;

  std::string path_;
  std::string temporary_;  // "": the file has no name yet
  std::string keys_;
  uint64_t n_keys_ = 0;
  std::vector<Declared> tensors_;
  std::vector<uint64_t> sums_;
  uint64_t header_sum_ = 0;
  uint64_t size_ = 0;  // of the whole file
  int fd_ = -1;
};

}  // namespace rkllm
