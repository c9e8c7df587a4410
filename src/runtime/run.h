// SPDX-License-Identifier: Apache-2.0
// One run of a handle: its input, its callbacks, its end.
#pragma once

#include <string>
#include <vector>

#include "handle.h"

namespace rkllm {

// An input of the interface. Text is copied, since an asynchronous caller may free it; arrays stay where they are.
struct RunInput {
  RKLLMInputType type = RKLLM_INPUT_PROMPT;
  std::string prompt;
  std::vector<int32_t> ids;  // what a prompt has become
  SequenceInput sequence;
  RKLLMInferMode mode = RKLLM_INFER_GENERATE;
  std::shared_ptr<const Adapter> adapter;
  std::string save_path;  // where the state of the input goes as a prompt cache; "": nowhere
};

// Throws Error(INVALID_ARGUMENT).
RunInput read_input(const RKLLMInput& input);

// Turn the prompt of an input, if it has one, into ids, so that `sequence` is complete. A sequence that begins gets the
// begin token where the tokenizer or the rules ask for one and the text does not begin with it already.
// Throws Error(INVALID_ARGUMENT / CONTEXT_FULL).
void prepare(RunInput& input, const Session& session, const PromptRules& rules, bool begins);

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
