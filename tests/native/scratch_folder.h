// SPDX-License-Identifier: Apache-2.0
// A folder for one test program's files, and whole files as strings.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "check.h"

// Made anew, and emptied at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    char name[] = "/tmp/rkllm_test_XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~ScratchFolder() {
    for (const std::string& name : names()) unlink((path_ + "/" + name).c_str());
    CHECK(rmdir(path_.c_str()) == 0);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    DIR* folder = opendir(path_.c_str());
    while (const dirent* entry = folder ? readdir(folder) : nullptr)
      if (std::string(entry->d_name) != "." && std::string(entry->d_name) != "..") names.push_back(entry->d_name);
    if (folder) closedir(folder);
    return names;
  }

 private:
  std::string path_;
};

inline std::string bytes_of_file(const std::string& path) {
  std::string bytes;
  FILE* file = fopen(path.c_str(), "rb");
  CHECK(file != nullptr);
  char block[4096];
  while (const size_t n = file ? fread(block, 1, sizeof block, file) : 0) bytes.append(block, n);
  if (file) fclose(file);
  return bytes;
}

inline void write_file(const std::string& path, const std::string& bytes) {
  FILE* file = fopen(path.c_str(), "wb");
  CHECK(file != nullptr && fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  if (file) CHECK(fclose(file) == 0);
}
