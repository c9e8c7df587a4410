// SPDX-License-Identifier: Apache-2.0
// The saved states that are loaded beside a model, by name: what runs may begin with.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "saved_state.h"

namespace rkllm {

// The longest beginning of a sequence that a state has.
struct Prefix {
  std::shared_ptr<const SavedState> state;  // nullptr: none has any
  int length = 0;
};

// Used from any number of threads.
class PromptCaches {
 public:
  // A name that is taken gets the new state.
  void put(const std::string& name, std::shared_ptr<const SavedState> state);

  // Throws Error(INVALID_ARGUMENT) that names the loaded ones when there is none of that name.
  void release(const std::string& name);
  void release_all();

  // For a sequence of these keys and rotary angles, computed with this adapter (0: none), type of KV cache and
  // activations.
  Prefix longest(const std::vector<uint64_t>& keys, double variant, uint64_t adapter, KvType type,
                 ActivationType activations) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const SavedState>> states_;
};

}  // namespace rkllm
