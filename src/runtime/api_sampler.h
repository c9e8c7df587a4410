// SPDX-License-Identifier: Apache-2.0
// How log-probabilities leave through the C ABI.
#pragma once

#include <cstddef>
#include <vector>

#include "logprobs.h"

namespace rkllm {

// count receives the number of rows; where ids or logprobs are given, at most capacity rows are written.
// Throws Error(INVALID_ARGUMENT) when there are more.
void hand_over(const std::vector<TokenLogprob>& rows, int32_t* ids, float* logprobs, size_t capacity, size_t* count);

}  // namespace rkllm
