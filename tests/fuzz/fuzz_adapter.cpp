// SPDX-License-Identifier: Apache-2.0
// Fuzzes adapters of the model that RKLLM_FUZZ_MODEL names: any file, its checksums made right, is either refused
// with a sentence that names it, or gives an adapter that a prompt can be run with.
#include "adapter.h"
#include "memory_file.h"
#include "session.h"

namespace {

using namespace rkllm;

struct Base {
  std::shared_ptr<const Model> model;
  std::unique_ptr<Session> session;

  Base() {
    const char* path = getenv("RKLLM_FUZZ_MODEL");
    require(path, "RKLLM_FUZZ_MODEL names the model that make_model_corpus.py wrote beside the adapters");
    model = open_model(path);
    session = std::make_unique<Session>(std::make_shared<Executor>(model, 8, 1), default_kv_type(*model));
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Base& base = *new Base;
  MemoryFile bytes(data, size);
  bytes.correct_checksums();
  std::shared_ptr<const Adapter> adapter;
  try {
    adapter = open_adapter(bytes.path(), base.model, 0.5f);
  } catch (const Error& error) {
    bytes.require_refusal(error);
    return 0;
  }
  const int32_t ids[] = {1, 2, 3};
  base.session->use_adapter(adapter);
  require(base.session->append({ids, nullptr, 3}, 3) && base.session->logits(), "a prompt runs with the adapter");
  base.session->use_adapter(nullptr);
  return 0;
}
