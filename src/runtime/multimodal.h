// SPDX-License-Identifier: Apache-2.0
// Prompts with images: which positions are tokens, and which are embeddings that the caller brings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace rkllm {

// What stands around an image's embeddings, and for each of them.
struct ImageTags {
  std::string start, end, content;
};

constexpr char kImagePlaceholder[] = "<image>";

// The ids of a prompt in which each placeholder is replaced by start, as many contents as the image has embeddings, and
// end; -1 at the contents. counts: embeddings of each image, n_embedded together; empty: all images have as many.
// Throws Error(INVALID_ARGUMENT) when placeholders and embeddings do not go together.
std::vector<int32_t> multimodal_ids(const Tokenizer& tokenizer, const std::string& prompt, const ImageTags& tags,
                                    const std::vector<int64_t>& counts, int64_t n_embedded);

}  // namespace rkllm
