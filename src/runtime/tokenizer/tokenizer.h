// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, as the model's own tokenizer does it. A tokenizer is read from the keys of a .rkllm file
// (docs/format.md, "Tokenizer"); nothing in here knows a model family.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "container.h"

namespace rkllm {

struct TokenTable;  // table.h

// Immutable after construction: any number of threads may use one. Copies share the table.
class Tokenizer {
 public:
  // Read and check the tokenizer keys; nothing of the file is needed afterwards.
  // Throws Error(MODEL_FILE) for damage, Error(UNSUPPORTED_MODEL) for a kind this version does not know.
  explicit Tokenizer(const Container& file);

  int32_t vocab_size() const;
  int32_t bos_id() const;  // -1: none
  bool add_bos() const;    // a prompt starts with prefix()
  const std::vector<int32_t>& prefix() const;  // bos_id() or, for some models, several ids; may be empty

  // Turn text into ids; nothing is added. Invalid UTF-8 is read as U+FFFD. With parse_special, special tokens that are
  // spelled out in the text become their ids; without, they are text like any other.
  std::vector<int32_t> encode(std::string_view text, bool parse_special) const;

  // Return the bytes that a token stands for (a special token: its text); "" for ids outside the table.
  // Valid as long as the tokenizer.
  std::string_view bytes_of(int32_t id) const;
  bool is_special(int32_t id) const;
  int32_t id_of(std::string_view token_text) const;  // by the spelling in the file ("Ġthe"); -1: none

  // Turn a whole sequence into text, leaving ids outside the table out. Broken characters become U+FFFD, and the space
  // that the tokenizer itself put in front is taken off again where the model's tokenizer does so.
  std::string decode(const int32_t* ids, size_t n, bool skip_special) const;

 private:
  std::shared_ptr<const TokenTable> table_;
};

// Turns a stream of ids into text, whole characters at a time. One per run; the text continues a prompt, so no leading
// space is taken off. Keeps its own reference to the token table.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);

  // Return the text that this token completes; "" while its bytes do not complete a character.
  std::string push(int32_t id);
  bool pending() const { return !held_.empty(); }
  // Return what is left as U+FFFD and start anew.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  std::string held_;  // the first bytes of a character, 3 at most
};

}  // namespace rkllm
