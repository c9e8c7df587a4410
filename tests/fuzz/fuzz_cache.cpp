// SPDX-License-Identifier: Apache-2.0
// Fuzzes prompt caches of the model that RKLLM_FUZZ_MODEL names: any file, its checksums made right, is either refused
// with a sentence that names it, or gives a session that goes on, and a beginning for prompts.
#include <algorithm>

#include "memory_file.h"
#include "session.h"

namespace {

using namespace rkllm;

struct Base {
  std::shared_ptr<Executor> executor;
  std::vector<std::unique_ptr<Session>> sessions;  // one for each kind of KV cache

  Base() {
    const char* path = getenv("RKLLM_FUZZ_MODEL");
    require(path, "RKLLM_FUZZ_MODEL names the model that the caches were saved with");
    executor = std::make_shared<Executor>(open_model(path), 12, 1);
    for (KvType type : {KvType::F16, KvType::F32, KvType::INT8})
      sessions.push_back(std::make_unique<Session>(executor, type));
  }
};

// The state serves a prompt that begins as it does and goes on with two tokens.
void begin_with(Session& session, std::shared_ptr<const SavedState> state) {
  Executor& executor = session.executor();
  std::vector<int32_t> ids;
  for (uint64_t key : state->positions.keys) ids.push_back(std::max(token_of(key), 0));
  ids.resize(std::min<size_t>(ids.size(), 8));
  ids.resize(ids.size() + 2, 1);
  executor.caches().put("", std::move(state));
  const SequenceInput input = {ids.data(), nullptr, int64_t(ids.size())};
  session.truncate(0);
  const int kept = session.keep_common(input);
  require(kept >= 0 && kept < input.n, "a row is left to run");
  const SequenceInput rest = part(input, kept, input.n - kept, executor.model().spec.dim);
  require(session.append(rest, int(input.n)) && session.logits(), "a prompt runs behind a cache");
  executor.caches().release_all();
}

void go_on(Session& session, const std::string& path) {
  try {
    session.restore(path);
  } catch (const Error& error) {
    require(error.code() == ErrorCode::CONTEXT_FULL, "a state that was opened is refused for its length only");
    return;
  }
  if (session.sequence().length() == session.max_context()) return;
  Session* one = &session;
  const int32_t token = 1;
  Session::step(&one, &token, 1);
  require(session.logits(), "there are no logits behind a step");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Base& base = *new Base;
  MemoryFile bytes(data, size);
  bytes.correct_checksums();
  for (const std::unique_ptr<Session>& session : base.sessions) {
    std::shared_ptr<const SavedState> state;
    try {
      state = session->open_saved(bytes.path());
    } catch (const Error& error) {
      bytes.require_refusal(error);
      continue;
    }
    go_on(*session, bytes.path());
    begin_with(*session, std::move(state));
  }
  return 0;
}
