// SPDX-License-Identifier: Apache-2.0
// Prompt lookup: guesses follow the latest place of the longest suffix that was seen before.
#include "lookup.h"

#include <algorithm>

#include "check.h"

namespace {

using Ids = std::vector<int32_t>;

Ids guess(const Ids& history, int max_ngram = 3, int max_draft = 4) {
  Ids draft(size_t(std::max(max_draft, 0)) + 1, -7);
  draft.resize(size_t(rkllm::propose(history, max_ngram, max_draft, draft.data())));
  return draft;
}

// The definition: try every length from the longest, every place from the latest; then copy, one token after the other.
Ids defined(const Ids& history, int max_ngram, int max_draft) {
  const int size = int(history.size());
  for (int n = std::min(max_ngram, size - 1); n > 0; n--) {
    if (std::any_of(history.end() - n, history.end(), [](int32_t id) { return id < 0; })) continue;
    for (int at = size - n - 1; at >= 0; at--) {
      if (!std::equal(history.end() - n, history.end(), history.begin() + at)) continue;
      Ids whole = history;
      for (int i = 0; i < max_draft && whole[size_t(at + n + i)] >= 0; i++) whole.push_back(whole[size_t(at + n + i)]);
      return {whole.begin() + size, whole.end()};
    }
  }
  return {};
}

void examples() {
  CHECK(guess({}) == Ids() && guess({5}) == Ids() && guess({1, 2, 3}) == Ids());
  CHECK(guess({1, 2, 3, 4, 5, 6, 1, 2}) == Ids({3, 4, 5, 6}));
  CHECK(guess({9, 2, 7, 1, 2, 8, 1, 2}) == Ids({8, 1, 2, 8}));   // the longer suffix; then on from the guess
  CHECK(guess({2, 7, 0, 2, 8, 0, 0, 2}) == Ids({8, 0, 0, 2}));   // [0, 2] is latest at 2; its follower is 8
  CHECK(guess({4, 4, 4}) == Ids({4, 4, 4, 4}));                  // a loop goes on
  CHECK(guess({1, 2, 3, 1, 2, 3}, 1) == Ids({1, 2, 3, 1}));
  CHECK(guess({1, 2, 1}, 0) == Ids() && guess({1, 2, 1}, -1) == Ids());
  CHECK(guess({1, 2, 1}, 3, 0) == Ids() && guess({1, 2, 1}, 3, -1) == Ids());
}

void embeddings_match_nothing_and_end_a_guess() {
  CHECK(guess({1, -1, 2, -1}) == Ids());
  CHECK(guess({1, 2, 3, -1, 5, 1, 2}) == Ids({3}));
  CHECK(guess({1, -1, 5, 1}) == Ids());
  CHECK(guess({-1, 1, 6, -1, 1}) == Ids({6}));
}

void random_histories_give_what_the_definition_says() {
  uint32_t state = 3;
  const auto next = [&](uint32_t n) { return int((state = state * 1664525u + 1013904223u) >> 16) % int(n); };
  int n_found = 0;
  for (int round = 0; round < 20000; round++) {
    Ids history(size_t(next(30)));
    const uint32_t letters = 1 + uint32_t(next(6));
    for (int32_t& id : history) id = next(12) == 0 ? -1 : next(letters);
    const int max_ngram = 1 + next(5), max_draft = next(7);
    const Ids expected = defined(history, max_ngram, max_draft);
    CHECK(guess(history, max_ngram, max_draft) == expected);
    n_found += !expected.empty();
  }
  CHECK(n_found > 10000 && n_found < 19500);
}

}  // namespace

int main() {
  examples();
  embeddings_match_nothing_and_end_a_guess();
  random_histories_give_what_the_definition_says();
  return check::result();
}
