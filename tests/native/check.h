// SPDX-License-Identifier: Apache-2.0
// The least a native test needs: a check that reports and counts, and a look at the sentence of an error.
#pragma once

#include <cstdio>
#include <string>

#include "error.h"

namespace check {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void report(bool holds, const char* file, int line, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
  failures()++;
}

// The sentence that body throws, "" when it returns.
template <class Body>
std::string sentence_of(Body&& body) {
  try {
    body();
  } catch (const rkllm::Error& error) {
    return error.sentence();
  }
  return "";
}

inline bool contains(const std::string& text, const char* part) { return text.find(part) != text.npos; }

// What main returns.
inline int result() {
  if (failures()) fprintf(stderr, "%d checks failed\n", failures());
  return failures() != 0;
}

}  // namespace check

#define CHECK(condition) check::report(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
