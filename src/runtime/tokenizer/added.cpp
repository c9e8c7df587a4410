// SPDX-License-Identifier: Apache-2.0
#include "added.h"

#include <algorithm>

#include "unicode.h"

namespace rkllm {
namespace {

bool is_space(std::string_view text, size_t pos, bool spaces_are_marks) {
  if (text[pos] == ' ' && spaces_are_marks) return false;
  return char_class(utf8_at(text, pos)) & SPACE;
}

bool inside_word(std::string_view text, size_t start, size_t end) {
  const bool before = start > 0 && char_class(utf8_at(text, utf8_before(text, start))) & WORD;
  const bool behind = end < text.size() && char_class(utf8_at(text, end)) & WORD;
  return before || behind;
}

}  // namespace

void AddedSet::sort() {
  std::sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) { return a.text < b.text; });
  for (const AddedToken& token : tokens_) begins_[static_cast<uint8_t>(token.text[0])] = true;
}

// The candidates are a range of the sorted tokens that share the bytes read so far; each byte narrows it.
const AddedToken* AddedSet::match(std::string_view text, size_t pos) const {
  if (!begins_[static_cast<uint8_t>(text[pos])]) return nullptr;
  const AddedToken* longest = nullptr;
  auto first = tokens_.begin(), last = tokens_.end();
  for (size_t depth = 0; first != last; ++depth) {
    if (first->text.size() == depth) longest = &*first++;
    if (pos + depth == text.size()) break;
    const uint8_t byte = static_cast<uint8_t>(text[pos + depth]);
    first = std::partition_point(first, last, [depth, byte](const AddedToken& token) {
      return static_cast<uint8_t>(token.text[depth]) < byte;
    });
    last = std::partition_point(first, last, [depth, byte](const AddedToken& token) {
      return static_cast<uint8_t>(token.text[depth]) == byte;
    });
  }
  return longest;
}

void AddedSet::split(std::string_view text, bool parse_special, bool spaces_are_marks, std::vector<Part>* parts) const {
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    const AddedToken* token = match(text, pos);
    if (token == nullptr) {
      ++pos;
      continue;
    }
    size_t start = pos, end = pos + token->text.size();
    pos = end;
    if (token->flags & AddedToken::SPECIAL && !parse_special) continue;
    if (token->flags & AddedToken::SINGLE_WORD && inside_word(text, start, end)) continue;
    if (token->flags & AddedToken::LSTRIP) {
      while (start > done && is_space(text, utf8_before(text, start), spaces_are_marks)) {
        start = utf8_before(text, start);
      }
      start = std::max(start, done);
    }
    if (token->flags & AddedToken::RSTRIP) {
      while (end < text.size() && is_space(text, end, spaces_are_marks)) end += utf8_length(text[end]);
    }
    // A token of whitespace may lie in what the one before took along. As in the genuine library it counts, unless it
    // strips to the left and nothing of it is left.
    if (start >= end) continue;
    if (start > done) parts->push_back({-1, text.substr(done, start - done)});
    parts->push_back({token->id, {}});
    done = end;
  }
  if (done < text.size()) parts->push_back({-1, text.substr(done)});
}

}  // namespace rkllm
