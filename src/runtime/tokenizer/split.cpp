// SPDX-License-Identifier: Apache-2.0
#include "split.h"

#include "unicode.h"

namespace rkllm {
namespace {

// A text while one word is looked for in it. Each function takes a position and returns one.
struct Cursor {
  std::string_view text;

  bool at_end(size_t pos) const { return pos >= text.size(); }
  uint8_t cls(size_t pos) const { return at_end(pos) ? 0 : char_class(utf8_at(text, pos)); }
  size_t after(size_t pos) const { return pos + utf8_length(text[pos]); }
  bool is_newline(size_t pos) const { return !at_end(pos) && (text[pos] == '\n' || text[pos] == '\r'); }
  bool is_letter(size_t pos) const { return cls(pos) & LETTER; }
  bool is_number(size_t pos) const { return cls(pos) & NUMBER; }
  bool is_space(size_t pos) const { return cls(pos) & SPACE; }
  // [^\s\p{L}\p{N}]
  bool is_other(size_t pos) const { return !at_end(pos) && !(cls(pos) & (SPACE | LETTER | NUMBER)); }

  size_t skip_letters(size_t pos) const {
    while (is_letter(pos)) pos = after(pos);
    return pos;
  }
  size_t skip_others(size_t pos) const {
    while (is_other(pos)) pos = after(pos);
    return pos;
  }
};

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// 's|'t|'re|'ve|'m|'ll|'d : return its end, or pos. Without regard to case, U+017F (long s) counts as an s.
size_t contraction(const Cursor& at, size_t pos, bool any_case) {
  const std::string_view rest = at.text.substr(pos);
  if (rest.size() < 2 || rest[0] != '\'') return pos;
  if (any_case && rest.substr(1, 2) == "\xC5\xBF") return pos + 3;
  const char a = any_case ? lower(rest[1]) : rest[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return pos + 2;
  if (rest.size() < 3) return pos;
  const char b = any_case ? lower(rest[2]) : rest[2];
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? pos + 3 : pos;
}

// \s+(?!\S)|\s+ : whitespace up to the end, else all of it but the last, which is left to the next word.
size_t spaces(const Cursor& at, size_t pos) {
  size_t last = pos, end = pos;
  while (at.is_space(end)) {
    last = end;
    end = at.after(end);
  }
  return at.at_end(end) || last == pos ? end : last;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2_word(const Cursor& at, size_t pos) {
  const size_t end = contraction(at, pos, false);
  if (end > pos) return end;
  size_t first = pos + (at.text[pos] == ' ');
  if (at.is_letter(first)) return at.skip_letters(first);
  if (at.is_number(first)) {
    while (at.is_number(first)) first = at.after(first);
    return first;
  }
  if (at.is_other(first)) return at.skip_others(first);
  return spaces(at, pos);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
// |\s+(?!\S)|\s+
size_t llama3_word(const Cursor& at, size_t pos, int digits) {
  size_t end = contraction(at, pos, true);
  if (end > pos) return end;
  if (at.is_letter(pos)) return at.skip_letters(pos);
  if (at.is_number(pos)) {
    for (end = pos; digits > 0 && at.is_number(end); --digits) end = at.after(end);
    return end;
  }
  if (!at.is_newline(pos) && at.is_letter(at.after(pos))) return at.skip_letters(at.after(pos));
  const size_t first = pos + (at.text[pos] == ' ');
  if (at.is_other(first)) {
    end = at.skip_others(first);
    while (at.is_newline(end)) ++end;
    return end;
  }
  size_t newline = pos;  // behind the last line end of the whitespace
  for (end = pos; at.is_space(end); end = at.after(end)) {
    if (at.is_newline(end)) newline = end + 1;
  }
  return newline > pos ? newline : spaces(at, pos);
}

}  // namespace

// The digits splitter makes each numeric character a stretch of its own before the words are looked for.
size_t WordSplitter::end_of_stretch() const {
  if (split_ != Split::DIGITS_GPT2) return text_.size();
  size_t end = pos_;
  while (end < text_.size() && !(char_class(utf8_at(text_, end)) & DIGIT)) end += utf8_length(text_[end]);
  return end > pos_ ? end : end + utf8_length(text_[end]);
}

std::string_view WordSplitter::next() {
  if (pos_ >= text_.size()) return {};
  if (pos_ >= stretch_end_) stretch_end_ = end_of_stretch();
  const Cursor at{text_.substr(0, stretch_end_)};
  const size_t start = pos_;
  switch (split_) {
    case Split::NONE: pos_ = stretch_end_; break;
    case Split::GPT2:
    case Split::DIGITS_GPT2: pos_ = gpt2_word(at, pos_); break;
    case Split::LLAMA3: pos_ = llama3_word(at, pos_, 3); break;
    case Split::QWEN2: pos_ = llama3_word(at, pos_, 1); break;
  }
  return text_.substr(start, pos_ - start);
}

}  // namespace rkllm
