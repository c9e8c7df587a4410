// SPDX-License-Identifier: Apache-2.0
// Ids to text: a whole sequence as the genuine library decodes it, or a stream in whole characters.
#include "table.h"
#include "tokenizer.h"
#include "unicode.h"

namespace rkllm {
namespace {

// Append a run of byte tokens, what is no text as a U+FFFD for each byte. As the genuine decoders do, RANK_BPE takes a
// run as a whole, the others take it character by character.
void append_byte_run(std::string_view run, Model model, std::string* text) {
  if (valid_utf8(run)) {
    text->append(run);
    return;
  }
  while (!run.empty()) {
    const Utf8Step step = utf8_step(run);
    const bool character = step.kind == Utf8Step::CHARACTER && model != Model::RANK_BPE;
    text->append(character ? run.substr(0, step.length) : "\xEF\xBF\xBD");
    run.remove_prefix(character ? step.length : 1);
  }
}

std::string decode_stretch(const TokenTable& table, const int32_t* ids, size_t n, bool skip_special) {
  // Models by score take off the space of a token, not a byte that is one.
  bool strip = table.strip_space && table.model != Model::RANK_BPE;
  std::string text, run;  // run: bytes that may yet be joined to characters
  for (size_t i = 0; i < n; ++i) {
    const int32_t id = ids[i];
    if (id < 0 || id >= table.size() || (skip_special && table.flags[id] & TokenTable::SPECIAL)) continue;
    if (is_byte_level(table.model) || table.flags[id] & TokenTable::BYTE) {
      run.append(table.bytes[id]);
    } else if (!table.bytes[id].empty()) {
      append_byte_run(run, table.model, &text);
      run.clear();
      const bool marked = strip && text.empty() && table.bytes[id][0] == ' ';
      text.append(table.bytes[id].substr(marked));
      strip = strip && !marked;
    }
  }
  if (is_byte_level(table.model)) {
    append_repaired(run, &text);
  } else {
    append_byte_run(run, table.model, &text);
  }
  if (table.strip_space && table.model == Model::RANK_BPE && !text.empty() && text[0] == ' ') text.erase(0, 1);
  return text;
}

// Special tokens end stretches that are texts of their own; a space goes before such a stretch, but none between two
// special tokens.
std::string decode_spaced(const TokenTable& table, const int32_t* ids, size_t n) {
  std::string text;
  size_t start = 0;
  for (size_t i = 0; i < n; ++i) {
    if (ids[i] < 0 || ids[i] >= table.size() || !(table.flags[ids[i]] & TokenTable::SPECIAL)) continue;
    if (i == 0 || start < i) text.push_back(' ');
    text.append(decode_stretch(table, ids + start, i - start, false)).append(table.bytes[ids[i]]);
    start = i + 1;
  }
  return text.append(decode_stretch(table, ids + start, n - start, false));
}

void replace_all(std::string_view from, std::string_view to, std::string* text) {
  std::string result;
  size_t done = 0;
  for (size_t at = text->find(from); at != std::string::npos; at = text->find(from, done)) {
    result.append(*text, done, at - done).append(to);
    done = at + from.size();
  }
  if (done > 0) *text = result.append(*text, done, std::string::npos);
}

// The genuine library's cleaning of spaces before English punctuation, in its order.
void clean_up(std::string* text) {
  for (const char* mark : {" .", " ?", " !", " ,"}) replace_all(mark, mark + 1, text);
  replace_all(" ' ", "'", text);
  for (const char* ending : {" n't", " 'm", " 's", " 've", " 're"}) replace_all(ending, ending + 1, text);
}

}  // namespace

std::string_view Tokenizer::bytes_of(int32_t id) const {
  return id >= 0 && id < table_->size() ? table_->bytes[id] : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < table_->size() && table_->flags[id] & TokenTable::SPECIAL;
}

std::string Tokenizer::decode(const int32_t* ids, size_t n, bool skip_special) const {
  const bool spaced = table_->space_special && !skip_special;
  std::string text = spaced ? decode_spaced(*table_, ids, n) : decode_stretch(*table_, ids, n, skip_special);
  if (table_->clean_up) clean_up(&text);
  return text;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  if (skip_special_ && tokenizer_.is_special(id)) return text;
  held_.append(tokenizer_.bytes_of(id));
  std::string_view rest = held_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Step::INCOMPLETE) break;
    text.append(step.kind == Utf8Step::CHARACTER ? rest.substr(0, step.length) : "\xEF\xBF\xBD");
    rest.remove_prefix(step.length);
  }
  held_.erase(0, held_.size() - rest.size());
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_repaired(held_, &text);
  held_.clear();
  return text;
}

}  // namespace rkllm
