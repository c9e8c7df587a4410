// SPDX-License-Identifier: Apache-2.0
// What the files of the C ABI (api*.cpp) share: the one place where exceptions end.
#pragma once

#include <exception>
#include <new>
#include <string>

#include "error.h"

namespace rkllm {

// Keep code and sentence for the calling thread and return the code. Never throws.
int keep_error(ErrorCode code, const char* sentence) noexcept;

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
