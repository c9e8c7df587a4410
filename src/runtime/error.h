// SPDX-License-Identifier: Apache-2.0
// The one exception of the engine. Thrown at the point of failure, where file and tensor names are known;
// api.cpp turns it into a return code and keeps the sentence.
#pragma once

#include <string>
#include <utility>

namespace rkllm {

enum class ErrorCode : int {
#define ERROR(name, value, exception, sentence) name = value,
#include "errors.def"
#undef ERROR
};

class Error {
 public:
  Error(ErrorCode code, std::string sentence) : code_(code), sentence_(std::move(sentence)) {}

  ErrorCode code() const { return code_; }
  const std::string& sentence() const { return sentence_; }

 private:
  ErrorCode code_;
  std::string sentence_;
};

// Build a sentence printf-style. Longer results than 1 KiB are cut.
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
std::string format(const char* pattern, ...);

}  // namespace rkllm
