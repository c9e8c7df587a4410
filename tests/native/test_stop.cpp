// SPDX-License-Identifier: Apache-2.0
// Stop strings: what is delivered, held back and dropped, against a definition that looks at the whole text.
#include "stop.h"

#include <cstdint>

#include "check.h"

namespace {

using rkllm::StopMatcher;

struct Outcome {
  std::string text;
  bool stopped;
};

Outcome read(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  std::string text;
  for (const std::string& piece : pieces) {
    text += matcher.push(piece);
    if (matcher.stopped()) {
      CHECK(!matcher.holding() && matcher.push("more").empty());
      break;
    }
  }
  return {text + matcher.finish(), matcher.stopped()};
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The definition: read byte by byte; the first byte that completes a stop string ends the text before the longest one.
Outcome defined(const std::vector<std::string>& stops, const std::string& whole) {
  for (size_t n = 1; n <= whole.size(); n++) {
    size_t longest = 0;
    for (const std::string& stop : stops)
      if (ends_with(whole.substr(0, n), stop)) longest = std::max(longest, stop.size());
    if (longest) return {whole.substr(0, n - longest), true};
  }
  return {whole, false};
}

void examples() {
  const auto is = [](const Outcome& outcome, const char* text, bool stopped) {
    CHECK(outcome.text == text && outcome.stopped == stopped);
  };
  is(read({}, {"a", "b"}), "ab", false);
  is(read({"END"}, {"the END of"}), "the ", true);
  is(read({"END"}, {"the E", "N", "D of"}), "the ", true);
  is(read({"END"}, {"the E", "N", "d"}), "the ENd", false);
  is(read({"END"}, {"the E", "N"}), "the EN", false);
  is(read({"ENEND"}, {"ENEN", "END"}), "EN", true);
  is(read({"abcd", "bc"}, {"abcd"}), "a", true);
  is(read({"abcd", "bc"}, {"a", "b", "c", "d"}), "a", true);
  is(read({"bc", "abc"}, {"xa", "bc"}), "x", true);
  is(read({"\n\n"}, {"one\n", "two\n", "\nthree"}), "one\ntwo", true);
  is(read({"\xc3\xa9t\xc3\xa9"}, {"un \xc3\xa9", "t\xc3\xa9."}), "un ", true);
}

void what_cannot_begin_a_stop_string_is_delivered_at_once() {
  StopMatcher matcher({"###", "\nUser:"});
  CHECK(matcher.push("hello") == "hello" && !matcher.holding());
  CHECK(matcher.push(" #") == " " && matcher.holding());
  CHECK(matcher.push("#").empty() && matcher.holding());
  CHECK(matcher.push("1") == "##1" && !matcher.holding());
  CHECK(matcher.push("a\nUs") == "a" && matcher.holding());
  CHECK(matcher.push("e\n") == "\nUse" && matcher.holding());
  CHECK(matcher.finish() == "\n" && !matcher.holding());
}

uint32_t next(uint32_t& state) { return (state = state * 1664525u + 1013904223u) >> 16; }

std::string random_text(uint32_t& state, size_t length) {
  std::string text;
  while (text.size() < length) text += char('a' + next(state) % 2);
  return text;
}

// Texts of two letters, in which beginnings of stop strings overlap all the time, cut at random places.
void any_cut_gives_what_the_definition_says() {
  uint32_t state = 7;
  int n_stopped = 0;
  for (int round = 0; round < 20000; round++) {
    std::vector<std::string> stops, pieces;
    for (size_t i = 1 + next(state) % 3; i > 0; i--) stops.push_back(random_text(state, 1 + next(state) % 7));
    const std::string whole = random_text(state, next(state) % 40);
    for (size_t at = 0; at < whole.size(); at += pieces.back().size())
      pieces.push_back(whole.substr(at, next(state) % 5 + 1));
    const Outcome expected = defined(stops, whole), outcome = read(stops, pieces);
    CHECK(outcome.text == expected.text && outcome.stopped == expected.stopped);
    n_stopped += outcome.stopped;
  }
  CHECK(n_stopped > 5000 && n_stopped < 19500);
}

// What is held back is never more than it must be: some stop string begins with it.
void no_text_is_held_back_without_need() {
  uint32_t state = 11;
  for (int round = 0; round < 2000; round++) {
    const std::string stop = random_text(state, 2 + next(state) % 6);
    StopMatcher matcher({stop});
    std::string whole, delivered;
    while (whole.size() < 60 && !matcher.stopped()) {
      whole += random_text(state, 1);
      delivered += matcher.push(whole.substr(whole.size() - 1));
      if (matcher.stopped()) break;
      const std::string held = whole.substr(delivered.size());
      CHECK(held.size() < stop.size() && stop.compare(0, held.size(), held) == 0);
    }
  }
}

void refusals() {
  const auto sentence = [](const std::vector<std::string>& stops) {
    return check::sentence_of([&] { rkllm::check_stops(stops); });
  };
  CHECK(sentence({}).empty() && sentence({"a", "b"}).empty());
  CHECK(check::contains(sentence({"a", ""}), "a stop string is empty"));
  CHECK(check::contains(sentence({std::string(1025, 'a')}), "1025 bytes, but at most 1024"));
  CHECK(check::contains(sentence(std::vector<std::string>(65, "a")), "65 stop strings, but at most 64"));
}

}  // namespace

int main() {
  examples();
  what_cannot_begin_a_stop_string_is_delivered_at_once();
  any_cut_gives_what_the_definition_says();
  no_text_is_held_back_without_need();
  refusals();
  return check::result();
}
