// SPDX-License-Identifier: Apache-2.0
#include "table.h"

#include <cstring>

#include "unicode.h"

namespace rkllm {
namespace {

uint64_t mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
  return hash ^ hash >> 32;
}

uint64_t hash_of(std::string_view text) {
  uint64_t hash = text.size();
  while (text.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, text.data(), 8);
    hash = mix(hash, word);
    text.remove_prefix(8);
  }
  uint64_t word = 0;
  std::memcpy(&word, text.data(), text.size());
  return mix(hash, word);
}

// Return the power of two that leaves half of the slots free.
size_t slots_for(size_t count) {
  size_t slots = 16;
  while (slots < 2 * count) slots *= 2;
  return slots;
}

}  // namespace

void StringIndex::reserve(size_t count) { slots_.assign(slots_for(count), -1); }

int32_t StringIndex::insert(std::string_view text, int32_t id, const std::vector<std::string_view>& texts) {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_of(text) & mask;
  for (; slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if (texts[slots_[slot]] == text) return slots_[slot];
  }
  slots_[slot] = id;
  return -1;
}

int32_t StringIndex::find(std::string_view text, const std::vector<std::string_view>& texts) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_of(text) & mask;
  for (; slots_[slot] >= 0; slot = (slot + 1) & mask) {
    if (texts[slots_[slot]] == text) return slots_[slot];
  }
  return -1;
}

void MergeIndex::reserve(size_t count) { slots_.assign(slots_for(count), Slot{0, kNone}); }

size_t MergeIndex::slot_of(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = mix(0, pair) & mask;
  while (slots_[slot].rank != kNone && slots_[slot].pair != pair) slot = (slot + 1) & mask;
  return slot;
}

void MergeIndex::set(int32_t left, int32_t right, uint32_t rank) {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  slots_[slot_of(pair)] = {pair, rank};
}

uint32_t MergeIndex::find(int32_t left, int32_t right) const {
  return slots_[slot_of(static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right))].rank;
}

// Byte-level BPE writes the bytes that print as themselves and the 68 others, in order, as U+0100, U+0101 ...
bool append_unmapped(std::string_view text, std::string* out) {
  const size_t size = out->size();
  for (size_t pos = 0; pos < text.size(); pos += utf8_length(text[pos])) {
    const uint32_t code = utf8_at(text, pos);
    uint32_t byte = code;
    if (code >= 0x100) {
      const uint32_t n = code - 0x100;
      byte = n < 33 ? n : n < 67 ? n - 33 + 0x7F : n == 67 ? 0xAD : 0x100;
    }
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte < 0x100 && byte != 0xAD);
    if (byte > 0xFF || printable != (code < 0x100)) {
      out->resize(size);
      return false;
    }
    out->push_back(static_cast<char>(byte));
  }
  return true;
}

int byte_of_token(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const size_t high = digits.find(text[3]), low = digits.find(text[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

void append_unmarked(std::string_view text, std::string* out) {
  constexpr std::string_view mark = "\xE2\x96\x81";
  for (;;) {
    const size_t pos = text.find(mark);
    out->append(text.substr(0, pos));
    if (pos == std::string_view::npos) return;
    out->push_back(' ');
    text.remove_prefix(pos + mark.size());
  }
}

}  // namespace rkllm
