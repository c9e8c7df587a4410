// SPDX-License-Identifier: Apache-2.0
#include "bpe.h"

namespace rkllm {
namespace {

struct RankedPairs {
  const TokenTable& table;
  std::vector<int32_t>& ids;

  uint32_t key(uint32_t left, uint32_t right) const { return table.merges.find(ids[left], ids[right]); }
  void join(uint32_t left, uint32_t, uint32_t rank) const { ids[left] = table.merged[rank]; }
};

}  // namespace

void merge_by_rank(Encoder* encoder) {
  std::vector<int32_t>& ids = encoder->symbols;
  RankedPairs pairs{encoder->table, ids};
  merge(static_cast<uint32_t>(ids.size()), &pairs, &encoder->scratch);
  for (const uint32_t symbol : encoder->scratch.next) encoder->out->push_back(ids[symbol]);
}

void encode_bytes(std::string_view word, Encoder* encoder) {
  if (encoder->table.ignore_merges) {
    const int32_t id = encoder->table.find(word);
    if (id >= 0) return encoder->out->push_back(id);
  }
  encoder->symbols.clear();
  for (const char c : word) {
    const int32_t id = encoder->table.byte_ids[static_cast<uint8_t>(c)];
    if (id >= 0) encoder->symbols.push_back(id);  // the genuine encoder, too, drops bytes that have no token
  }
  merge_by_rank(encoder);
}

}  // namespace rkllm
