// SPDX-License-Identifier: Apache-2.0
// A LoRA adapter of one model: low-rank additions to some of its linear layers, checked against them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "low_rank.h"
#include "model.h"

namespace rkllm {

// Immutable once opened: any number of sequences on any threads share one. The matrices lie in the mapped file, or in
// `adjusted` where the model's conversion has put factors into the layer.
struct Adapter {
  std::shared_ptr<const Model> model;
  std::shared_ptr<const Container> file;
  float scale = 1.0f;
  uint64_t fingerprint = 0;  // of the file's content and the scale
  std::unordered_map<const Linear*, LowRank> additions;
  std::vector<Buffer<uint8_t>> adjusted;

  // nullptr where it changes nothing.
  const LowRank* find(const Linear& linear) const;
};

// Throws Error(MODEL_FILE / UNSUPPORTED_MODEL) for a file that is damaged, or an adapter that was not made for this
// model, Error(INVALID_ARGUMENT) for a scale that is not finite.
std::shared_ptr<const Adapter> open_adapter(const std::string& path, std::shared_ptr<const Model> model, float scale);

// The adapters that are loaded beside a model, by name. Used from any number of threads.
class Adapters {
 public:
  explicit Adapters(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

  // Throws as open_adapter, and Error(INVALID_ARGUMENT) for a name that is empty or taken. Nothing has changed then.
  void load(const std::string& name, const std::string& path, float scale);

  // nullptr for ""; throw Error(INVALID_ARGUMENT) that names the loaded ones when there is none of that name.
  std::shared_ptr<const Adapter> find(const std::string& name) const;

  // nullptr when none of them has this fingerprint.
  std::shared_ptr<const Adapter> find_fingerprint(uint64_t fingerprint) const;

  // Forget it and return it; whoever computes with it keeps it. Throws as find.
  std::shared_ptr<const Adapter> release(const std::string& name);

 private:
  std::shared_ptr<const Model> model_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Adapter>> adapters_;
};

}  // namespace rkllm
