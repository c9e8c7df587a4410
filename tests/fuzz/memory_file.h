// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share: the bytes of one execution as a file, and a check that ends the program.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "checksum.h"
#include "container.h"
#include "error.h"

inline void require(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "does not hold: %s\n", what);
  abort();
}

// A file that exists in memory only, under a path that can be opened.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(memfd_create("fuzz", MFD_CLOEXEC)) {
    require(fd_ >= 0 && write(fd_, data, size) == static_cast<ssize_t>(size), "no memory file");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::string& path() const { return path_; }

  // Write the checksums that a .rkllm file of these bytes must have, so that what lies behind their comparison is
  // reached. Nothing changes where the bytes are no such file.
  void correct_checksums() {
    try {
      const auto file = rkllm::Container::open(path_);
      const std::vector<rkllm::TensorInfo>& tensors = file->tensors();
      if (tensors.empty() || tensors.back().name != "checksums" || tensors.back().n_bytes != tensors.size() * 8) return;
      std::vector<uint64_t> sums;
      for (size_t i = 0; i + 1 < tensors.size(); i++)
        sums.push_back(rkllm::checksum(tensors[i].data, tensors[i].n_bytes));
      sums.push_back(rkllm::checksum(file->bytes(), file->header_size()));
      const off_t at = tensors.back().data - file->bytes();
      require(pwrite(fd_, sums.data(), sums.size() * 8, at) == static_cast<ssize_t>(sums.size() * 8), "no memory file");
    } catch (const rkllm::Error&) {
      // The target will see it as well.
    }
  }

  // A refusal names the file and says something; its code is one that damage may have.
  void require_refusal(const rkllm::Error& error) const {
    using rkllm::ErrorCode;
    require(error.code() == ErrorCode::MODEL_FILE || error.code() == ErrorCode::UNSUPPORTED_MODEL, "another code");
    require(error.sentence().compare(0, path_.size(), path_) == 0, "a sentence does not name the file");
    require(error.sentence().size() > path_.size() + 8, "a sentence says nothing");
  }

 private:
  int fd_;
  std::string path_;
};
