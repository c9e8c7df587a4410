// SPDX-License-Identifier: Apache-2.0
// The decode loop: an input, then tokens that are sampled and fed back until something ends the run.
#pragma once

#include <functional>

#include "logprobs.h"
#include "sampler.h"
#include "session.h"
#include "stop.h"

namespace rkllm {

enum class Finish : int { NONE = 0, STOP = 1, LENGTH = 2, CONTEXT = 3, ABORT = 4, ERROR = 5 };

// Fills the mask of the tokens that may come next from those chosen since the last call. Returns false when nothing
// may.
using Constraint = std::function<bool(const int32_t* tokens, size_t n_tokens, std::vector<uint32_t>& mask)>;

struct Generation {
  Sampling sampling;
  uint64_t seed = 0;
  int32_t max_new_tokens = -1;  // -1: until an end token or a full context
  bool ignore_eos = false;
  int32_t n_keep = -1;          // tokens that stay when the context is full; -1: the run ends there
  int32_t draft = 0;            // tokens to guess ahead from earlier text
  int32_t logprobs = -1;        // alternatives whose log-probabilities come with each token; -1: nor its own
  std::vector<std::string> stop = {};  // whoever reads the text ends the run: see StopMatcher
};

// A sampled token. logprobs: NULL unless asked for; valid during the call it is given to.
struct Sampled {
  int32_t id;
  const Logprobs* logprobs;
};

constexpr int kMostDraft = 16;

// Throws Error(INVALID_ARGUMENT) naming the setting that is out of range.
void check_generation(const Generation& settings);

// What a run calls while it lasts.
struct GenerationEvents {
  std::function<bool(const Sampled&)> on_token;  // false ends the run
  std::function<void()> on_prefilled;            // may be empty
  Constraint constraint;                         // empty: every token may come
};

struct Timing {
  double prefill_ms = 0.0;
  double generate_ms = 0.0;
  int32_t prefill_tokens = 0;   // computed
  int32_t reused_tokens = 0;
  int32_t generate_tokens = 0;  // chosen, but for the first, which the prefill brings; an end token counts
  int32_t drafted_tokens = 0;
  int32_t accepted_tokens = 0;
};

// Run the input, which is the whole sequence (what the session has in common with it is kept), and pass each sampled
// token to on_token until something ends the run. End tokens are not passed on. The input must stay where it is.
// Throws Error(INVALID_ARGUMENT / CONTEXT_FULL) before anything is computed.
Finish generate(Session& session, const SequenceInput& input, const Generation& settings,
                const GenerationEvents& events, Timing& timing);

}  // namespace rkllm
