// SPDX-License-Identifier: Apache-2.0
// Encoding, in the order of the genuine library: added tokens out of the raw text, normalizer, added tokens out of the
// normalized text, words, byte-pair encoding.
#include "tokenizer.h"

#include "bpe.h"
#include "error.h"
#include "split.h"
#include "table.h"
#include "unicode.h"

namespace rkllm {
namespace {

constexpr size_t kMaxText = size_t{1} << 31;  // positions are 32 bits wide

// Encode normalized text without added tokens.
void encode_plain(std::string_view text, Encoder* encoder) {
  const TokenTable& table = encoder->table;
  if (!is_byte_level(table.model) && table.whole.empty()) return encode_marked(text, encoder);
  if (!is_byte_level(table.model)) {
    std::vector<Part> parts;
    table.whole.split(text, true, true, &parts);
    for (const Part& part : parts) part.id < 0 ? encode_marked(part.text, encoder) : encoder->out->push_back(part.id);
    return;
  }
  WordSplitter words(table.split, text);
  for (std::string_view word = words.next(); !word.empty(); word = words.next()) encode_bytes(word, encoder);
}

// Normalize and encode a part between added tokens of the raw text.
void encode_part(std::string_view part, bool parse_special, bool at_start, Encoder* encoder) {
  const TokenTable& table = encoder->table;
  const Normalizer normalizer = table.normalizer;
  const bool marked = normalizer == Normalizer::MARK || normalizer == Normalizer::MARK_PREPEND;
  std::string normalized;
  if (normalizer == Normalizer::MARK_PREPEND) normalized.push_back(' ');
  if (marked) append_unmarked(part, &normalized);
  if (normalizer == Normalizer::NFC) append_nfc(part, &normalized);
  if (marked || normalizer == Normalizer::NFC) part = normalized;

  std::vector<Part> parts;
  if (table.added_normalized.empty()) {
    parts.push_back({-1, part});
  } else {
    table.added_normalized.split(part, parse_special, marked, &parts);
  }
  std::string first;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].id >= 0) {
      encoder->out->push_back(parts[i].id);
    } else if (normalizer == Normalizer::MARK_FIRST) {
      first.clear();
      append_unmarked(parts[i].text, &first);
      if (at_start && i == 0 && first[0] != ' ') first.insert(0, 1, ' ');
      encode_plain(first, encoder);
    } else {
      encode_plain(parts[i].text, encoder);
    }
  }
}

}  // namespace

Tokenizer::Tokenizer(const Container& file) {
  auto table = std::make_shared<TokenTable>();
  load(file, table.get());
  table_ = std::move(table);
}

int32_t Tokenizer::vocab_size() const { return table_->size(); }
int32_t Tokenizer::bos_id() const { return table_->bos; }
bool Tokenizer::add_bos() const { return table_->add_bos; }
const std::vector<int32_t>& Tokenizer::prefix() const { return table_->prefix; }

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  std::string repaired;
  if (!valid_utf8(text)) {
    append_repaired(text, &repaired);
    text = repaired;
  }
  if (text.size() >= kMaxText) {
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("the text has %zu bytes, a tokenizer takes less than %zu at once", text.size(), kMaxText));
  }
  std::vector<int32_t> ids;
  Encoder encoder{*table_, &ids, {}, {}, {}};
  std::vector<Part> parts;
  table_->added.split(text, parse_special, false, &parts);
  for (const Part& part : parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      encode_part(part.text, parse_special, part.text.data() == text.data(), &encoder);
    }
  }
  return ids;
}

int32_t Tokenizer::id_of(std::string_view token_text) const {
  const TokenTable& table = *table_;
  for (const AddedSet* set : {&table.added, &table.added_normalized, &table.whole}) {
    for (const AddedToken& token : set->tokens()) {
      if (token.spelling == token_text) return token.id;
    }
  }
  if (!valid_utf8(token_text)) return -1;
  std::string bytes;
  if (is_byte_level(table.model)) {
    if (append_unmapped(token_text, &bytes)) return table.find(bytes);
    for (const int32_t id : table.unindexed) {
      if (table.bytes[id] == token_text) return id;
    }
    return -1;
  }
  if (token_text.find(' ') != std::string_view::npos) return -1;
  const int byte = byte_of_token(token_text);
  if (byte >= 0 && table.byte_ids[byte] >= 0) return table.byte_ids[byte];
  append_unmarked(token_text, &bytes);
  const int32_t found = table.find(bytes);
  if (found >= 0) return found;
  // Tokens that are never read from a text are in no index.
  for (size_t id = 0; id < table.bytes.size(); ++id) {
    if (table.bytes[id] == bytes && !(table.flags[id] & TokenTable::BYTE)) return static_cast<int32_t>(id);
  }
  return -1;
}

}  // namespace rkllm
