// SPDX-License-Identifier: Apache-2.0
#include "unicode.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace rkllm {
namespace {

struct CombiningRange {
  uint32_t first, last;
  uint8_t value;
};
struct Decomposition {
  uint32_t code, first, second;  // second 0: into one character
};
struct Composition {
  uint32_t first, second, code;
};

#include "unicode.inc"

constexpr uint32_t kBlock = 128;

// The Hangul syllables are computed: 19 leads x 21 vowels x 28 tails (the first of which is none).
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;

uint8_t combining_class(uint32_t code) {
  if (code < kCombining[0].first) return 0;
  const CombiningRange* range = std::lower_bound(std::begin(kCombining), std::end(kCombining), code,
                                                 [](const CombiningRange& r, uint32_t c) { return r.last < c; });
  return range != std::end(kCombining) && range->first <= code ? range->value : 0;
}

void decompose(uint32_t code, std::vector<uint32_t>* out) {
  const uint32_t syllable = code - kSyllables;
  if (syllable < kLeadCount * kVowelCount * kTailCount) {
    out->push_back(kLeads + syllable / (kVowelCount * kTailCount));
    out->push_back(kVowels + syllable / kTailCount % kVowelCount);
    if (syllable % kTailCount != 0) out->push_back(kTails + syllable % kTailCount);
    return;
  }
  const Decomposition* row = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                                              [](const Decomposition& d, uint32_t c) { return d.code < c; });
  if (row == std::end(kDecompositions) || row->code != code) return out->push_back(code);
  decompose(row->first, out);  // the second part never decomposes further
  if (row->second != 0) out->push_back(row->second);
}

// Return the character that two compose to, or 0.
uint32_t compose(uint32_t first, uint32_t second) {
  const uint32_t lead = first - kLeads, vowel = second - kVowels;
  if (lead < kLeadCount && vowel < kVowelCount) return kSyllables + (lead * kVowelCount + vowel) * kTailCount;
  const uint32_t syllable = first - kSyllables, tail = second - kTails;
  if (syllable < kLeadCount * kVowelCount * kTailCount && syllable % kTailCount == 0 && tail - 1 < kTailCount - 1) {
    return first + tail;
  }
  const Composition* row = std::lower_bound(
      std::begin(kCompositions), std::end(kCompositions), second, [first](const Composition& c, uint32_t s) {
        return c.first != first ? c.first < first : c.second < s;
      });
  return row != std::end(kCompositions) && row->first == first && row->second == second ? row->code : 0;
}

// Compose in place a text that is decomposed and in canonical order. classes[i] belongs to codes[i].
void compose_all(std::vector<uint32_t>* codes, const std::vector<uint8_t>& classes) {
  constexpr size_t kNone = SIZE_MAX;
  size_t starter = kNone, kept = 0;
  int last_class = -1;  // of what is kept behind the starter; -1: nothing
  for (size_t i = 0; i < codes->size(); ++i) {
    const uint32_t code = (*codes)[i];
    const int cls = classes[i];
    const bool blocked = last_class >= cls;
    if (starter != kNone && !blocked) {
      if (const uint32_t joined = compose((*codes)[starter], code)) {
        (*codes)[starter] = joined;
        continue;
      }
    }
    if (cls == 0) {
      starter = kept;
      last_class = -1;
    } else {
      last_class = cls;
    }
    (*codes)[kept++] = code;
  }
  codes->resize(kept);
}

void append_nfc_slow(std::string_view text, std::string* out) {
  std::vector<uint32_t> codes;
  for (size_t pos = 0; pos < text.size(); pos += utf8_length(text[pos])) decompose(utf8_at(text, pos), &codes);
  std::vector<uint8_t> classes(codes.size());
  std::transform(codes.begin(), codes.end(), classes.begin(), combining_class);
  for (size_t i = 0; i < codes.size();) {
    size_t end = i + 1;
    while (end < codes.size() && classes[end] != 0) ++end;
    const size_t marks = classes[i] == 0 ? i + 1 : i;
    std::stable_sort(codes.begin() + marks, codes.begin() + end,
                     [](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); });
    std::stable_sort(classes.begin() + marks, classes.begin() + end);
    i = end;
  }
  compose_all(&codes, classes);
  for (const uint32_t code : codes) append_utf8(code, out);
}

}  // namespace

uint8_t char_class(uint32_t code) {
  constexpr size_t last = sizeof(kClassIndex) - 1;
  const size_t block = kClassIndex[std::min<size_t>(code / kBlock, last)];
  return kClassBlocks[block * kBlock + code % kBlock];
}

void append_utf8(uint32_t code, std::string* out) {
  char bytes[4];
  size_t n = 0;
  if (code < 0x80) {
    bytes[n++] = static_cast<char>(code);
  } else {
    if (code < 0x800) {
      bytes[n++] = static_cast<char>(0xC0 | code >> 6);
    } else {
      if (code < 0x10000) {
        bytes[n++] = static_cast<char>(0xE0 | code >> 12);
      } else {
        bytes[n++] = static_cast<char>(0xF0 | code >> 18);
        bytes[n++] = static_cast<char>(0x80 | (code >> 12 & 0x3F));
      }
      bytes[n++] = static_cast<char>(0x80 | (code >> 6 & 0x3F));
    }
    bytes[n++] = static_cast<char>(0x80 | (code & 0x3F));
  }
  out->append(bytes, n);
}

Utf8Step utf8_step(std::string_view bytes) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(bytes.data());
  if (p[0] < 0x80) return {Utf8Step::CHARACTER, 1};
  if (p[0] < 0xC2 || p[0] > 0xF4) return {Utf8Step::BROKEN, 1};
  const size_t length = utf8_length(p[0]);
  // The second byte also excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Utf8Step::INCOMPLETE, i};
    if (i == 1 ? p[1] < low || p[1] > high : (p[i] & 0xC0) != 0x80) return {Utf8Step::BROKEN, i};
  }
  return {Utf8Step::CHARACTER, length};
}

bool valid_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    if (step.kind != Utf8Step::CHARACTER) return false;
    bytes.remove_prefix(step.length);
  }
  return true;
}

void append_repaired(std::string_view bytes, std::string* out) {
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    if (step.kind == Utf8Step::CHARACTER) {
      out->append(bytes.substr(0, step.length));
    } else {
      out->append("\xEF\xBF\xBD");
    }
    bytes.remove_prefix(step.length);
  }
}

void append_nfc(std::string_view text, std::string* out) {
  // A character of no concern is left alone unless a character of concern follows it; from there to the next
  // character of no concern the text is normalized.
  size_t copied = 0, previous = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t length = utf8_length(text[pos]);
    if (static_cast<uint8_t>(text[pos]) < 0xCC || !(char_class(utf8_at(text, pos)) & RECOMPOSE)) {
      previous = pos;  // 0xCC leads U+0300, the first character of concern
      pos += length;
      continue;
    }
    out->append(text.substr(copied, previous - copied));
    while (pos < text.size() && char_class(utf8_at(text, pos)) & RECOMPOSE) pos += utf8_length(text[pos]);
    append_nfc_slow(text.substr(previous, pos - previous), out);
    copied = previous = pos;
  }
  out->append(text.substr(copied));
}

}  // namespace rkllm
