// SPDX-License-Identifier: Apache-2.0
// UTF-8, character classes and NFC. Text given to these functions is valid UTF-8 unless said otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace rkllm {

// Classes of a code point, a bit each. make_unicode.py says which Unicode version each one follows.
enum CharClass : uint8_t {
  LETTER = 1,      // \p{L}
  NUMBER = 2,      // \p{N}
  SPACE = 4,       // \s, White_Space
  DIGIT = 8,       // numeric for the Digits splitter
  WORD = 16,       // \w
  RECOMPOSE = 32,  // NFC may change it or join it to what stands before
};
uint8_t char_class(uint32_t code);

// Return the length of the character whose first byte is given.
inline size_t utf8_length(uint8_t lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

// Return the code point at text[pos].
inline uint32_t utf8_at(std::string_view text, size_t pos) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(text.data()) + pos;
  if (p[0] < 0x80) return p[0];
  if (p[0] < 0xE0) return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
  if (p[0] < 0xF0) return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
  return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

// Return where the character before text[end] begins; end > 0.
inline size_t utf8_before(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

void append_utf8(uint32_t code, std::string* out);

// What stands at the beginning of arbitrary bytes: a character, bytes that cannot begin one (the longest such run that
// counts as one broken character, as Python and Rust count), or the beginning of a character that the end cuts off.
struct Utf8Step {
  enum Kind { CHARACTER, BROKEN, INCOMPLETE } kind;
  size_t length;
};
Utf8Step utf8_step(std::string_view bytes);

bool valid_utf8(std::string_view bytes);
// Append bytes to out, each broken character replaced by U+FFFD.
void append_repaired(std::string_view bytes, std::string* out);

// Append text to out in normalization form C.
void append_nfc(std::string_view text, std::string* out);

}  // namespace rkllm
