// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizers of byte-level BPE: cut a text into words, by code instead of by the regular expressions that
// define them. Every byte of the text falls into exactly one word.
#pragma once

#include <cstddef>
#include <string_view>

#include "table.h"

namespace rkllm {

class WordSplitter {
 public:
  WordSplitter(Split split, std::string_view text) : split_(split), text_(text) {}

  // Return the next word; empty at the end of the text.
  std::string_view next();

 private:
  size_t end_of_stretch() const;

  Split split_;
  std::string_view text_;
  size_t pos_ = 0;
  size_t stretch_end_ = 0;  // patterns do not look beyond
};

}  // namespace rkllm
