// SPDX-License-Identifier: Apache-2.0
#include "prompt_caches.h"

#include "error.h"

namespace rkllm {

void PromptCaches::put(const std::string& name, std::shared_ptr<const SavedState> state) {
  std::lock_guard<std::mutex> lock(mutex_);
  states_[name] = std::move(state);
}

void PromptCaches::release(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (states_.erase(name)) return;
  std::string loaded;
  for (const auto& entry : states_) loaded += (loaded.empty() ? "'" : ", '") + entry.first + "'";
  throw Error(ErrorCode::INVALID_ARGUMENT,
              "no prompt cache '" + name + "' is loaded; loaded: " + (loaded.empty() ? "none" : loaded));
}

void PromptCaches::release_all() {
  std::lock_guard<std::mutex> lock(mutex_);
  states_.clear();
}

Prefix PromptCaches::longest(const std::vector<uint64_t>& keys, double variant, uint64_t adapter, KvType type,
                              ActivationType activations) const {
  std::lock_guard<std::mutex> lock(mutex_);
  Prefix best;
  for (const auto& entry : states_) {
    const SavedState& state = *entry.second;
    const bool fits = state.adapter == adapter && state.kv_type == type && state.activations == activations;
    const int length = fits ? state.positions.common_prefix(keys, variant) : 0;
    if (length > best.length) best = {entry.second, length};
  }
  return best;
}

}  // namespace rkllm
