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

// Any two neighbours whose joined text is a token can merge.
struct ScoredPairs {
  const TokenTable& table;
  std::string_view word;
  std::vector<uint32_t>& starts;
  std::vector<int32_t>& ends;

  uint32_t key(uint32_t left, uint32_t right) const {
    const size_t length = static_cast<size_t>(ends[right]) - starts[left];
    if (length > table.longest) return kNoPair;
    const int32_t id = table.find(word.substr(starts[left], length));
    return id < 0 ? kNoPair : table.order[id];
  }
  void join(uint32_t left, uint32_t right, uint32_t) const { ends[left] = ends[right]; }
};

void encode_bytes_scored(std::string_view word, Encoder* encoder) {
  encoder->starts.clear();
  encoder->symbols.clear();
  for (size_t pos = 0; pos < word.size(); ++pos) {
    encoder->starts.push_back(static_cast<uint32_t>(pos));
    encoder->symbols.push_back(static_cast<int32_t>(pos + 1));
  }
  merge_by_score(word, encoder);
  for (const uint32_t symbol : encoder->scratch.next) {
    const size_t start = encoder->starts[symbol];
    const int32_t id = encoder->table.find(word.substr(start, static_cast<size_t>(encoder->symbols[symbol]) - start));
    if (id >= 0) encoder->out->push_back(id);
  }
}

}  // namespace

void merge_by_score(std::string_view word, Encoder* encoder) {
  ScoredPairs pairs{encoder->table, word, encoder->starts, encoder->symbols};
  merge(static_cast<uint32_t>(encoder->starts.size()), &pairs, &encoder->scratch);
}

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
  if (encoder->table.model == Model::BYTE_SCORE_BPE) return encode_bytes_scored(word, encoder);
  encoder->symbols.clear();
  for (const char c : word) {
    const int32_t id = encoder->table.byte_ids[static_cast<uint8_t>(c)];
    if (id >= 0) encoder->symbols.push_back(id);  // the genuine encoder, too, drops bytes that have no token
  }
  merge_by_rank(encoder);
}

}  // namespace rkllm
