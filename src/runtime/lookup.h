// SPDX-License-Identifier: Apache-2.0
// Prompt lookup: guesses the tokens to come from what followed the same tokens before. For speculative decoding, which
// checks every guess: guesses change the speed and never the tokens.
#pragma once

#include <cstdint>
#include <vector>

namespace rkllm {

// Find the longest suffix of the history, max_ngram tokens at most, that also occurs earlier, in its latest earlier
// place, and write the max_draft tokens that followed it there. The place may overlap the suffix: what follows is then
// read on from the guess itself, so a loop is continued as a loop. Negative ids stand for embeddings: they match
// nothing and end a guess. Returns how many tokens were written, 0 when not even the last token occurs earlier. One
// pass over the history, no allocation.
int propose(const std::vector<int32_t>& history, int max_ngram, int max_draft, int32_t* draft);

}  // namespace rkllm
