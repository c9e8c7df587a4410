// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz target over files and over the files of directories, without a fuzzer: for any compiler, and to look into
// a finding.
#include <dirent.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::vector<std::string> files_of(const std::string& path) {
  DIR* folder = opendir(path.c_str());
  if (!folder) return {path};
  std::vector<std::string> files;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') files.push_back(path + "/" + entry->d_name);
  }
  closedir(folder);
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  for (int i = 1; i < argc; i++) {
    for (const std::string& path : files_of(argv[i])) {
      std::ifstream file(path, std::ios::binary);
      if (!file) {
        fprintf(stderr, "%s: cannot be opened\n", path.c_str());
        return 1;
      }
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
      count++;
    }
  }
  printf("%d inputs\n", count);
  return count == 0;
}
