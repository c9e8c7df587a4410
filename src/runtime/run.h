// SPDX-License-Identifier: Apache-2.0
// One run of a handle: its input, its callbacks, its end.
#pragma once

#include <string>
#include <vector>

#include "handle.h"

namespace rkllm {

// The input of a run. A prompt is copied, since an asynchronous caller may free it; arrays stay where they are.
struct RunInput {
  RKLLMInputType type = RKLLM_INPUT_PROMPT;
  std::string prompt;
  SequenceInput sequence;
  RKLLMInferMode mode = RKLLM_INFER_GENERATE;
};

// Throws Error(INVALID_ARGUMENT / UNSUPPORTED_MODEL).
RunInput read_input(const RKLLMInput& input);

// Turn a prompt into ids, with the begin token where the tokenizer or the option add_bos asks for one and the text
// does not begin with it already.
std::vector<int32_t> prompt_ids(const Runtime& runtime, const std::string& prompt);

// Holds `busy` of a runtime. Throws Error(BUSY) when another holds it.
class Occupied {
 public:
  explicit Occupied(Runtime& runtime);
  ~Occupied();
  Occupied(const Occupied&) = delete;
  Occupied& operator=(const Occupied&) = delete;

  void give_back();

 private:
  Runtime& runtime_;
  bool given_back_ = false;
};

// The whole run, its last callback included. The handle is given back before that callback, so that whoever it wakes
// can start the next run. Returns the code of rkllm_run.
int run(Runtime& runtime, Occupied& occupied, RunInput& input, void* userdata);

}  // namespace rkllm
