// SPDX-License-Identifier: Apache-2.0
// Fuzzes texts: every tokenizer of a folder (RKLLM_FUZZ_TOKENIZERS) turns any bytes into ids of its vocabulary and
// back, and any ids into UTF-8. The first byte of an input chooses the tokenizer, the second one how.
#include <dirent.h>

#include <algorithm>
#include <cstring>

#include "round_trip.h"

namespace {

using rkllm::Tokenizer;

std::vector<Tokenizer> open_all() {
  const char* folder = getenv("RKLLM_FUZZ_TOKENIZERS");
  require(folder, "RKLLM_FUZZ_TOKENIZERS names a folder that make_tokenizer_corpus.py wrote");
  std::vector<std::string> names;
  DIR* open_folder = opendir(folder);
  require(open_folder, "the folder of tokenizers can be read");
  while (const dirent* entry = readdir(open_folder))
    if (entry->d_name[0] != '.') names.push_back(std::string(folder) + "/" + entry->d_name);
  closedir(open_folder);
  std::sort(names.begin(), names.end());
  std::vector<Tokenizer> all;
  for (const std::string& name : names) all.emplace_back(*rkllm::Container::open(name));
  require(!all.empty(), "the folder has tokenizers");
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<Tokenizer>& tokenizers = *new std::vector<Tokenizer>(open_all());
  if (size < 2) return 0;
  const Tokenizer& tokenizer = tokenizers[data[0] % tokenizers.size()];
  const bool special = data[1] & 1, as_ids = data[1] & 2;
  data += 2;
  size -= 2;
  if (!as_ids) {
    round_trip(tokenizer, {reinterpret_cast<const char*>(data), size}, special);
    return 0;
  }
  std::vector<int32_t> ids;
  for (size_t i = 0; i + 2 <= size; i += 2) {
    int16_t id;
    memcpy(&id, data + i, sizeof id);
    ids.push_back(id);
  }
  decode_any(tokenizer, ids, special);
  return 0;
}
