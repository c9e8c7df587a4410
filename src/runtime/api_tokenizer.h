// SPDX-License-Identifier: Apache-2.0
// What stands behind the opaque tokenizer of rkllm_ext.h, for the files of the C ABI.
#pragma once

#include <memory>

#include "tokenizer/tokenizer.h"

struct RKLLMExtTokenizer {
  std::shared_ptr<const rkllm::Tokenizer> tokenizer;
};
