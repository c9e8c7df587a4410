// SPDX-License-Identifier: Apache-2.0
// What the files of the C ABI (api*.cpp) share: the one place where exceptions end.
#pragma once

#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "error.h"

namespace rkllm {

// Keep code and sentence for the calling thread and return the code. Never throws.
int keep_error(ErrorCode code, const char* sentence) noexcept;

// The sentence that keep_error kept last for the calling thread.
const char* kept_sentence() noexcept;

// Throw Error(INVALID_ARGUMENT) unless the condition holds.
inline void need(bool condition, const char* sentence) {
  if (!condition) throw Error(ErrorCode::INVALID_ARGUMENT, sentence);
}

// The number in an enum field of a caller, who may have put any there: reading it as the enum would be undefined.
template <class Enum>
int number_of(const Enum& field) {
  int number;
  static_assert(sizeof number == sizeof field, "enums of the interface are ints");
  memcpy(&number, &field, sizeof number);
  return number;
}

// Run body and turn whatever it throws into a return code, keeping the sentence. 0 when it returns.
template <class Body>
int guard(Body&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const Error& error) {
    return keep_error(error.code(), error.sentence().c_str());
  } catch (const std::bad_alloc&) {
    return keep_error(ErrorCode::OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return keep_error(ErrorCode::INTERNAL, error.what());
  } catch (...) {
    return keep_error(ErrorCode::INTERNAL, "unknown exception");
  }
}

}  // namespace rkllm
