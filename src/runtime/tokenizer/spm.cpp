// SPDX-License-Identifier: Apache-2.0
// SentencePiece-style models: symbols are characters, those without a token fall back to byte tokens or the unknown
// one.
#include "bpe.h"
#include "unicode.h"

namespace rkllm {
namespace {

// Append the byte tokens of a character. False, with nothing appended, when one is missing.
bool append_bytes(std::string_view character, const TokenTable& table, std::vector<int32_t>* ids) {
  for (const char byte : character) {
    if (table.byte_ids[static_cast<uint8_t>(byte)] < 0) return false;
  }
  for (const char byte : character) ids->push_back(table.byte_ids[static_cast<uint8_t>(byte)]);
  return true;
}

// The genuine encoder holds an unknown token back until the next character that has a token of its own: byte tokens
// overtake it.
void encode_ranked(std::string_view word, Encoder* encoder) {
  const TokenTable& table = encoder->table;
  std::vector<int32_t>& ids = encoder->symbols;
  ids.clear();
  bool held = false;
  for (size_t pos = 0; pos < word.size();) {
    const std::string_view character = word.substr(pos, utf8_length(word[pos]));
    pos += character.size();
    const int32_t id = table.find(character);
    if (id >= 0) {
      if (held) ids.push_back(table.unknown);
      held = false;
      ids.push_back(id);
    } else if (!append_bytes(character, table, &ids) && table.unknown >= 0) {
      if (held && !table.fuse_unknown) ids.push_back(table.unknown);
      held = true;
    }
  }
  if (held) ids.push_back(table.unknown);
  merge_by_rank(encoder);
}

// Append the pieces of a word that remain, those without a token as their bytes or as one unknown token for a run.
void append_pieces(std::string_view word, Encoder* encoder) {
  const TokenTable& table = encoder->table;
  bool unknown_before = false;
  for (const uint32_t symbol : encoder->scratch.next) {
    const size_t start = encoder->starts[symbol];
    const std::string_view piece = word.substr(start, static_cast<size_t>(encoder->symbols[symbol]) - start);
    const int32_t id = table.find(piece);
    const bool unknown = id < 0 && !append_bytes(piece, table, encoder->out);
    if (id >= 0) encoder->out->push_back(id);
    if (unknown && !unknown_before && table.unknown >= 0) encoder->out->push_back(table.unknown);
    unknown_before = unknown;
  }
}

void encode_scored(std::string_view word, Encoder* encoder) {
  encoder->starts.clear();
  encoder->symbols.clear();
  for (size_t pos = 0; pos < word.size();) {
    encoder->starts.push_back(static_cast<uint32_t>(pos));
    pos += utf8_length(word[pos]);
    encoder->symbols.push_back(static_cast<int32_t>(pos));
  }
  merge_by_score(word, encoder);
  append_pieces(word, encoder);
}

void encode_unigram(std::string_view text, Encoder* encoder) {
  cut_unigram(text, encoder);
  append_pieces(text, encoder);
}

}  // namespace

void encode_marked(std::string_view text, Encoder* encoder) {
  if (encoder->table.model == Model::UNIGRAM) return encode_unigram(text, encoder);
  const auto encode_word = encoder->table.model == Model::SCORE_BPE ? encode_scored : encode_ranked;
  if (!encoder->table.words_end_at_spaces) return encode_word(text, encoder);
  while (!text.empty()) {
    const size_t word = std::min(text.find_first_not_of(' '), text.size());
    const size_t end = std::min(text.find(' ', word), text.size());
    encode_word(text.substr(0, end), encoder);
    text.remove_prefix(end);
  }
}

}  // namespace rkllm
