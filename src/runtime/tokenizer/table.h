// SPDX-License-Identifier: Apache-2.0
// The token table: what the tokenizer keys of a file say, checked and indexed. Plain data, immutable once loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "added.h"
#include "container.h"

namespace rkllm {

enum class Model : uint8_t {
  BYTE_BPE,        // words of bytes, merged by rank
  BYTE_SCORE_BPE,  // the same, merged by the score of the result
  RANK_BPE,        // characters with byte fallback, merged by rank; a space mark (U+2581) stands for a space
  SCORE_BPE,       // the same, merged by the score of the result
  UNIGRAM,         // the same characters, cut into the tokens whose scores have the greatest sum
};
inline bool is_byte_level(Model model) { return model <= Model::BYTE_SCORE_BPE; }
enum class Normalizer : uint8_t {
  NONE,
  NFC,
  MARK,          // spaces become space marks
  MARK_PREPEND,  // and one is put before each text, that is also after each special token
  MARK_FIRST,    // and one is put at the very start of the text unless it begins with one
};
enum class Split : uint8_t { NONE, GPT2, DIGITS_GPT2, LLAMA3, QWEN2 };

// Strings to ids, by open addressing; the strings themselves are the table's.
class StringIndex {
 public:
  // Make room for this many strings.
  void reserve(size_t count);
  // Return -1, or the id that has this text already.
  int32_t insert(std::string_view text, int32_t id, const std::vector<std::string_view>& texts);
  // Return -1 when there is none.
  int32_t find(std::string_view text, const std::vector<std::string_view>& texts) const;

 private:
  std::vector<int32_t> slots_;  // -1: free; their number is a power of two, at least twice the strings
};

// Pairs of ids to ranks, by open addressing.
class MergeIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  void reserve(size_t count);
  void set(int32_t left, int32_t right, uint32_t rank);  // the last one wins
  uint32_t find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t pair;
    uint32_t rank;  // kNone: free
  };
  size_t slot_of(uint64_t pair) const;
  std::vector<Slot> slots_;
};

struct TokenTable {
  enum Flag : uint8_t { SPECIAL = 1, BYTE = 2 };

  Model model = Model::BYTE_BPE;
  Normalizer normalizer = Normalizer::NONE;
  Split split = Split::NONE;
  bool ignore_merges = false;        // a word that is a token is that token, whatever the merges say
  bool fuse_unknown = false;         // neighbouring unknown characters are one unknown token
  bool strip_space = false;          // decoding takes one leading space off
  bool space_special = false;        // decoding puts a space before special tokens
  bool clean_up = false;             // decoding takes spaces before punctuation off
  bool add_bos = false;
  bool words_end_at_spaces = false;  // no token reaches over the boundary before a space: texts can be cut there
  int32_t bos = -1;
  std::vector<int32_t> prefix;       // what a prompt begins with; bos where the file names nothing else
  int32_t unknown = -1;

  // By id. Space marks are spaces in bytes, and so they are while encoding.
  std::vector<std::string_view> bytes;  // what the token decodes to, in arena
  std::vector<uint8_t> flags;
  std::string arena;

  StringIndex index;                  // the model's own tokens by their bytes; byte tokens are not in it
  size_t longest = 0;                 // bytes of the longest of them
  int32_t byte_ids[256];              // tokens of single bytes; -1: none
  std::vector<int32_t> unindexed;     // byte-level tokens with characters that stand for no byte

  MergeIndex merges;
  std::vector<int32_t> merged;        // by rank: the token that the pair becomes
  std::vector<uint32_t> order;        // models by score, by id: a smaller number merges earlier

  std::vector<float> scores;          // UNIGRAM, by id
  std::vector<int32_t> sorted;        // UNIGRAM: the model's own tokens by their bytes
  float unknown_score = 0;            // UNIGRAM: of a character without a token

  AddedSet added;                     // looked for in the text as it is
  AddedSet added_normalized;          // looked for in the normalized text
  AddedSet whole;                     // SCORE_BPE: user-defined tokens, cut out of that; nothing merges with them

  TokenTable() = default;
  TokenTable(const TokenTable&) = delete;  // the views would point into the other one
  TokenTable& operator=(const TokenTable&) = delete;

  int32_t size() const { return static_cast<int32_t>(bytes.size()); }
  int32_t find(std::string_view text) const { return index.find(text, bytes); }
};

// Read, check and index the tokenizer keys. Throws as Tokenizer's constructor does.
void load(const Container& file, TokenTable* table);

// Append the bytes that the printable characters of byte-level BPE stand for ("Ġthe" -> " the").
// False, with out as it was, when some character stands for no byte.
bool append_unmapped(std::string_view text, std::string* out);

// Return the byte that a byte token ("<0x0A>") names, or -1.
int byte_of_token(std::string_view text);

// Append text with every space mark as a space.
void append_unmarked(std::string_view text, std::string* out);

}  // namespace rkllm
