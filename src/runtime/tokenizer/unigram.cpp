// SPDX-License-Identifier: Apache-2.0
// Unigram models: of all ways to cut a text into tokens the one whose scores have the greatest sum, found from left to
// right. Sums are rounded to 32 bits at each step and candidates compared before that, as SentencePiece does, so that
// ties fall alike.
#include <algorithm>

#include "bpe.h"
#include "unicode.h"

namespace rkllm {
namespace {

// The best way to cut the text before a position.
struct Best {
  float sum = 0;
  int64_t start = -1;  // of its last token; -1: no way yet
};

void offer(double sum, size_t start, Best* best) {
  if (best->start >= 0 && !(sum > best->sum)) return;
  best->sum = static_cast<float>(sum);
  best->start = static_cast<int64_t>(start);
}

// Offer all tokens that begin at start to the positions behind them: a range of the sorted tokens, narrowed by each
// byte. False when none of them is the first character.
bool offer_tokens(std::string_view text, size_t start, const TokenTable& table, std::vector<Best>* best) {
  const size_t character = utf8_length(text[start]);
  bool single = false;
  auto first = table.sorted.begin(), last = table.sorted.end();
  for (size_t depth = 0; first != last; ++depth) {
    if (depth > 0 && table.bytes[*first].size() == depth) {
      offer(double((*best)[start].sum) + table.scores[*first], start, &(*best)[start + depth]);
      single = single || depth == character;
      ++first;
    }
    if (start + depth == text.size()) break;
    const uint8_t byte = static_cast<uint8_t>(text[start + depth]);
    const auto at = [&](int32_t id) { return static_cast<uint8_t>(table.bytes[id][depth]); };
    first = std::partition_point(first, last, [&](int32_t id) { return at(id) < byte; });
    last = std::partition_point(first, last, [&](int32_t id) { return at(id) == byte; });
  }
  return single;
}

}  // namespace

void cut_unigram(std::string_view text, Encoder* encoder) {
  const TokenTable& table = encoder->table;
  std::vector<Best> best(text.size() + 1);
  for (size_t pos = 0; pos < text.size(); pos += utf8_length(text[pos])) {
    if (offer_tokens(text, pos, table, &best)) continue;
    offer(best[pos].sum + table.unknown_score, pos, &best[pos + utf8_length(text[pos])]);
  }
  encoder->starts.clear();
  encoder->symbols.clear();
  for (size_t end = text.size(); end > 0; end = static_cast<size_t>(best[end].start)) {
    encoder->starts.push_back(static_cast<uint32_t>(best[end].start));
    encoder->symbols.push_back(static_cast<int32_t>(end));
  }
  std::vector<uint32_t>& order = encoder->scratch.next;
  order.resize(encoder->starts.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(order.size() - 1 - i);
}

}  // namespace rkllm
