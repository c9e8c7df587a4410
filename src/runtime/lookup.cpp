// SPDX-License-Identifier: Apache-2.0
#include "lookup.h"

#include <algorithm>
#include <cstddef>

namespace rkllm {

int propose(const std::vector<int32_t>& history, int max_ngram, int max_draft, int32_t* draft) {
  if (max_ngram < 1) return 0;
  const size_t size = history.size(), most = size_t(max_ngram);
  size_t best_length = 0, best_end = 0;  // the tokens before best_end are those at the end of the history
  for (size_t end = size; end-- > 1 && best_length < most;) {
    const int32_t* ours = &history[size - 1];
    const int32_t* theirs = &history[end - 1];
    size_t length = 0;
    while (length < end && length < most && *ours == *theirs && *ours >= 0) length++, ours--, theirs--;
    if (length > best_length) best_length = length, best_end = end;
  }
  if (best_length == 0) return 0;
  for (int i = 0; i < max_draft; i++) {
    const size_t at = best_end + size_t(i);
    draft[i] = at < size ? history[at] : draft[at - size];
    if (draft[i] < 0) return i;
  }
  return std::max(max_draft, 0);
}

}  // namespace rkllm
