// SPDX-License-Identifier: Apache-2.0
// The state of a sequence in a file of the type "prompt_cache" (docs/format.md): its positions, keys and values.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "sequence.h"

namespace rkllm {

// Immutable once opened: any number of sequences on any threads share one. Keys and values lie in the mapped file.
struct SavedState {
  std::shared_ptr<const Container> file;
  Positions positions;
  KvType kv_type = KvType::F16;
  ActivationType activations = ActivationType::AUTO;
  uint64_t adapter = 0;      // fingerprint of the one it was computed with; 0: none
  int prompt_length = 0;     // that decoding goes on from, see Session::next_length
  std::vector<const uint8_t*> layers;  // KvCache::read_state of each
  std::vector<float> logits;           // [vocab_size] behind the last position; empty: none were saved
};

// What is written besides the positions.
struct StateContext {
  ActivationType activations = ActivationType::AUTO;
  uint64_t adapter = 0;
  int prompt_length = 0;
  const float* logits = nullptr;
};

// Throws Error(INVALID_ARGUMENT / MODEL_FILE); the path is then what it was.
void save_state(const std::string& path, const Model& model, const Sequence& sequence, const StateContext& context);

// Throws Error(MODEL_FILE / UNSUPPORTED_MODEL) for a file that is damaged, or that was not saved with this model and
// with keys and values like those of the cache and these activations.
std::shared_ptr<const SavedState> open_state(const std::string& path, const Model& model, const KvCache& like,
                                             ActivationType activations);

// Make a sequence of the model and type of cache what the first n positions of the state are.
void restore_state(const SavedState& state, int n, Sequence& sequence);

}  // namespace rkllm
