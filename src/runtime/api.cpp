// SPDX-License-Identifier: Apache-2.0
// The vendor's interface and what rkllm_ext.h adds for a handle. A handle is a slot number with a generation, so that a
// closed or foreign one is recognised instead of followed.
#include "api.h"

#include <cstring>

#include "rkllm_ext.h"

namespace rkllm {
namespace {

// The last failure of a thread. Plain memory: reporting an error cannot fail.
thread_local int last_code = 0;
thread_local char last_sentence[1024] = "";

}  // namespace

int keep_error(ErrorCode code, const char* sentence) noexcept {
  last_code = int(code);
  strncpy(last_sentence, sentence, sizeof last_sentence - 1);
  return last_code;
}

}  // namespace rkllm

extern "C" {

const char* rkllm_ext_last_error(LLMHandle) { return rkllm::last_sentence; }

int rkllm_ext_last_error_code(LLMHandle) { return rkllm::last_code; }

}  // extern "C"
