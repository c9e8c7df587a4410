// SPDX-License-Identifier: Apache-2.0
// Fuzzes models: any file, its checksums made right, is either refused with a sentence that names it, or gives a
// model that runs: a prompt, a token, the logits of its last position.
#include <algorithm>

#include "memory_file.h"
#include "session.h"

namespace {

using rkllm::Error;
using rkllm::ErrorCode;

void use(const std::shared_ptr<const rkllm::Model>& model) {
  const int context = std::min(6, int(model->spec.max_context));
  rkllm::check_context(*model, context);
  rkllm::Session session(std::make_shared<rkllm::Executor>(model, context, 1), rkllm::default_kv_type(*model));
  const int32_t last = int32_t(model->spec.vocab_size) - 1;
  const int32_t ids[] = {0, last, last / 2};
  const int n = std::min(3, context);
  require(session.append({ids, nullptr, n}, n), "a prefill that nobody aborted ends");
  require(session.logits(), "there are no logits behind a prompt");
  if (n == context) return;
  rkllm::Session* one = &session;
  rkllm::Session::step(&one, &last, 1);
  require(session.sequence().length() == n + 1 && session.logits(), "there are no logits behind a step");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  MemoryFile bytes(data, size);
  bytes.correct_checksums();
  std::shared_ptr<const rkllm::Model> model;
  try {
    model = rkllm::open_model(bytes.path());
  } catch (const Error& error) {
    bytes.require_refusal(error);
    return 0;
  }
  use(model);
  return 0;
}
