// SPDX-License-Identifier: Apache-2.0
// Added tokens: looked for in a text before it is cut into words, special tokens among them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rkllm {

struct AddedToken {
  enum Flag : uint32_t {
    SPECIAL = 1,
    LSTRIP = 2,        // takes the whitespace before it along
    RSTRIP = 4,        // takes the whitespace behind it along
    NORMALIZED = 8,    // looked for in the normalized text, itself normalized
    SINGLE_WORD = 16,  // not inside a word
    IN_MODEL = 32,     // also a token of the model's own vocabulary
  };
  static constexpr uint32_t kAllFlags = 63;

  int32_t id;
  uint32_t flags;
  std::string spelling;  // in the file
  std::string text;      // what is looked for
};

// A part of a text: an added token, or text (id -1).
struct Part {
  int32_t id;
  std::string_view text;
};

// A set of added tokens. Immutable after sort().
class AddedSet {
 public:
  void add(AddedToken token) { tokens_.push_back(std::move(token)); }
  void sort();
  bool empty() const { return tokens_.empty(); }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Cut text at the tokens in it, the leftmost first and the longest of those. Special tokens take part but stay text
  // without parse_special. spaces_are_marks: U+0020 stands for a space mark, which is not whitespace.
  void split(std::string_view text, bool parse_special, bool spaces_are_marks, std::vector<Part>* parts) const;

 private:
  const AddedToken* match(std::string_view text, size_t pos) const;

  std::vector<AddedToken> tokens_;  // sorted by text
  bool begins_[256] = {};           // some token begins with this byte
};

}  // namespace rkllm
