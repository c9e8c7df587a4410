// SPDX-License-Identifier: Apache-2.0
// What an RKLLMExtTokenizer is: a share of a tokenizer, a model's or one opened alone.
#pragma once

#include <memory>

#include "rkllm_ext.h"
#include "tokenizer/tokenizer.h"

struct RKLLMExtTokenizer {
  std::shared_ptr<const rkllm::Tokenizer> tokenizer;
};
