// SPDX-License-Identifier: Apache-2.0
// What all .rkllm files share, be they models, adapters or prompt caches: their kind, version and checksums, and
// tensors under names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "container.h"
#include "tensor.h"

namespace rkllm {

// Throw Error(MODEL_FILE) that begins with the path of the file.
[[noreturn]] void refuse(const Container& file, const std::string& why);

// The version of .rkllm files that this library reads and writes.
constexpr uint32_t kFileVersion = 1;

// Throw Error(MODEL_FILE / UNSUPPORTED_MODEL) unless this is an undamaged .rkllm file of this type ("model", "adapter",
// "prompt_cache") in this version.
void check_file(const Container& file, std::string_view type);

// A number made of everything in a checked file.
uint64_t fingerprint_of(const Container& file);

// Gives out the tensors of a file by name and notes which were taken. All throw Error(MODEL_FILE / UNSUPPORTED_MODEL)
// that names the tensor.
class Tensors {
 public:
  explicit Tensors(const Container& file);

  bool has(const std::string& name) const { return file_.find_tensor(name) != nullptr; }

  // The logical shape that the file claims.
  int64_t rows(const std::string& name) const { return rows_[index_of(name)]; }
  int64_t cols(const std::string& name) const { return cols_[index_of(name)]; }

  // A packed matrix of this shape, where it lies in the file.
  Matrix matrix(const std::string& name, int64_t rows, int64_t cols);

  // n plain float32 values, all finite, padded.
  Buffer<float> vector(const std::string& name, int64_t n);

  void check_all_taken() const;

  int64_t n_parameters = 0;  // of what was taken

 private:
  size_t index_of(const std::string& name) const;
  size_t take(const std::string& name);

  const Container& file_;
  std::vector<bool> taken_;
  std::vector<std::string_view> formats_;
  std::vector<int64_t> rows_, cols_;
};

}  // namespace rkllm
