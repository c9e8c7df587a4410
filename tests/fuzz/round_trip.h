// SPDX-License-Identifier: Apache-2.0
// What holds for every tokenizer and every text or list of ids.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "memory_file.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

inline void round_trip(const rkllm::Tokenizer& tokenizer, std::string_view text, bool parse_special) {
  const std::vector<int32_t> ids = tokenizer.encode(text, parse_special);
  rkllm::StreamDecoder stream(tokenizer, !parse_special);
  std::string pieces;
  for (const int32_t id : ids) {
    require(id >= 0 && id < tokenizer.vocab_size(), "an id lies outside the vocabulary");
    pieces += stream.push(id);
  }
  require(rkllm::valid_utf8(pieces + stream.finish()), "a stream is not UTF-8");
  require(rkllm::valid_utf8(tokenizer.decode(ids.data(), ids.size(), !parse_special)), "decoded text is not UTF-8");
}

// Ids that no text gives, outside the vocabulary as well.
inline void decode_any(const rkllm::Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  rkllm::StreamDecoder stream(tokenizer, skip_special);
  std::string pieces;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    require(rkllm::valid_utf8(piece), "a piece of a stream is not whole UTF-8");
    pieces += piece;
  }
  pieces += stream.finish();
  require(!stream.pending(), "a finished stream holds bytes");
  const std::string whole = tokenizer.decode(ids.data(), ids.size(), skip_special);
  require(rkllm::valid_utf8(whole), "decoded text is not UTF-8");
  // Broken characters become another number of U+FFFD in a stream. A whole sequence may lack the space that the
  // tokenizer put in front; a stream goes on behind a prompt.
  const bool broken = pieces.find("\xEF\xBF\xBD") != pieces.npos || whole.find("\xEF\xBF\xBD") != whole.npos;
  const size_t n = whole.size();
  require(broken || (pieces.size() >= n && pieces.compare(pieces.size() - n, n, whole) == 0),
          "a stream and a whole sequence give different texts");
}
