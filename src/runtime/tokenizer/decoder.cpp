// SPDX-License-Identifier: Apache-2.0
// Ids to text: a whole sequence as the genuine library decodes it, or a stream in whole characters.
#include "table.h"
#include "tokenizer.h"
#include "unicode.h"

namespace rkllm {
namespace {

// Append a run of byte tokens: as text if all of it is text, else every byte as U+FFFD. So does the genuine decoder.
void append_byte_run(std::string_view run, std::string* text) {
  if (valid_utf8(run)) {
    text->append(run);
    return;
  }
  for (size_t i = 0; i < run.size(); ++i) text->append("\xEF\xBF\xBD");
}

}  // namespace

std::string_view Tokenizer::bytes_of(int32_t id) const {
  return id >= 0 && id < table_->size() ? table_->bytes[id] : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < table_->size() && table_->flags[id] & TokenTable::SPECIAL;
}

std::string Tokenizer::decode(const int32_t* ids, size_t n, bool skip_special) const {
  const TokenTable& table = *table_;
  std::string text, run;  // run: bytes that may yet be joined to characters
  for (size_t i = 0; i < n; ++i) {
    const int32_t id = ids[i];
    if (id < 0 || id >= table.size() || (skip_special && table.flags[id] & TokenTable::SPECIAL)) continue;
    if (table.model == Model::BYTE_BPE || table.flags[id] & TokenTable::BYTE) {
      run.append(table.bytes[id]);
    } else if (!table.bytes[id].empty()) {
      append_byte_run(run, &text);
      run.clear();
      text.append(table.bytes[id]);
    }
  }
  if (table.model == Model::BYTE_BPE) {
    append_repaired(run, &text);
  } else {
    append_byte_run(run, &text);
  }
  if (table.strip_space && !text.empty() && text[0] == ' ') text.erase(0, 1);
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
