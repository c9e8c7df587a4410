// SPDX-License-Identifier: Apache-2.0
#include "run.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "api.h"
#include "log.h"

namespace rkllm {

Occupied::Occupied(Runtime& runtime) : runtime_(runtime) {
  if (runtime_.busy.exchange(true))
    throw Error(ErrorCode::BUSY, "a run is active on this handle; wait for it or abort it");
  runtime_.session->clear_abort();
}

Occupied::~Occupied() { give_back(); }

void Occupied::give_back() {
  if (!std::exchange(given_back_, true)) runtime_.busy = false;
}

namespace {

// Counts are signed inside; one that is too large for that is too large for every context.
int64_t count_of(size_t n) { return int64_t(std::min<uint64_t>(n, INT64_MAX)); }

}  // namespace

RunInput read_input(const RKLLMInput& input) {
  const int type = number_of(input.input_type);
  RunInput run;
  run.type = RKLLMInputType(type & 3);
  switch (type) {
    case RKLLM_INPUT_PROMPT:
      need(input.prompt_input, "prompt_input is NULL");
      run.prompt = input.prompt_input;
      return run;
    case RKLLM_INPUT_TOKEN:
      need(input.token_input.input_ids, "token_input.input_ids is NULL");
      run.sequence = {input.token_input.input_ids, nullptr, count_of(input.token_input.n_tokens)};
      return run;
    case RKLLM_INPUT_EMBED:
      need(input.embed_input.embed, "embed_input.embed is NULL");
      run.sequence = {nullptr, input.embed_input.embed, count_of(input.embed_input.n_tokens)};
      return run;
    case RKLLM_INPUT_MULTIMODAL:
      not_here("multimodal input is");
  }
  throw Error(ErrorCode::INVALID_ARGUMENT, format("input_type is %d, but there are 0 to 3", type));
}

std::vector<int32_t> prompt_ids(const Runtime& runtime, const std::string& prompt) {
  const Tokenizer& tokenizer = *runtime.model->tokenizer;
  std::vector<int32_t> ids = tokenizer.encode(prompt, true);
  const bool add = runtime.add_bos < 0 ? tokenizer.add_bos() : runtime.add_bos > 0;
  const std::vector<int32_t>& prefix = tokenizer.prefix();
  if (add && !prefix.empty() && (ids.empty() || ids[0] != prefix[0])) {
    ids.insert(ids.begin(), prefix.begin(), prefix.end());
  }
  return ids;
}

namespace {

double peak_memory_mb() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_maxrss) / 1024.0;
}

void log_stages(const RKLLMExtPerf& perf) {
  if (log_level() < 1) return;
  const auto row = [](const char* stage, double ms, int tokens) {
    const double per_token = tokens ? ms / tokens : 0.0, per_second = ms > 0.0 ? tokens * 1000.0 / ms : 0.0;
    log(1, 'I', format("%-10s %15.2f %8d %20.2f %18.2f", stage, ms, tokens, per_token, per_second));
  };
  log(1, 'I', format("%-10s %15s %8s %20s %18s", "Stage", "Total Time (ms)", "Tokens", "Time per Token (ms)",
                     "Tokens per Second"));
  row("Prefill", perf.prefill_ms, perf.prefill_tokens);
  row("Generate", perf.generate_ms, perf.generate_tokens);
}

// Delivers the callbacks of one run.
class Delivery {
 public:
  Delivery(Runtime& runtime, void* userdata)
      : runtime_(runtime), userdata_(userdata), decoder_(*runtime.model->tokenizer, runtime.skip_special) {}

  void token(int32_t id) {
    const std::string text = decoder_.push(id);
    last_ = id;
    if (log_level() >= 2) log(2, 'I', format("token %d: %s", id, text.c_str()));
    send(text, text.empty() && decoder_.pending() ? RKLLM_RUN_WAITING : RKLLM_RUN_NORMAL);
  }

  // states: [n, dim]
  void hidden_states(const float* states, int64_t n) {
    RKLLMResult result = {"", -1, {states, int(runtime_.model->spec.dim), int(n)}};
    runtime_.callback(&result, userdata_, RKLLM_RUN_GET_LAST_HIDDEN_LAYER);
  }

  void end(LLMCallState state) { send(decoder_.finish(), state); }

 private:
  void send(const std::string& text, LLMCallState state) {
    RKLLMResult result = {text.c_str(), last_, {nullptr, 0, 0}};
    runtime_.callback(&result, userdata_, state);
  }

  Runtime& runtime_;
  void* userdata_;
  StreamDecoder decoder_;
  int32_t last_ = -1;
};

uint64_t choose_seed(const Runtime& runtime) {
  if (!runtime.random_seed) return runtime.generation.seed;
  std::random_device device;
  return uint64_t(device()) << 32 | device();
}

void produce_hidden_states(Runtime& runtime, const SequenceInput& input, Delivery& delivery, RKLLMExtPerf& perf) {
  const auto start = std::chrono::steady_clock::now();
  runtime.session->check(input);  // before its length is multiplied
  Buffer<float> states(input.n * int64_t(runtime.model->spec.dim));
  runtime.session->hidden_states(input, states.data());
  perf.prefill_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  perf.prefill_tokens = int32_t(input.n);
  perf.finish = RKLLM_EXT_FINISH_STOP;
  delivery.hidden_states(states.data(), input.n);
}

// Compute and deliver everything but the end. Throws Error.
void produce(Runtime& runtime, RunInput& input, Delivery& delivery, RKLLMExtPerf& perf) {
  std::vector<int32_t> ids;
  if (input.type == RKLLM_INPUT_PROMPT) {
    log(2, 'I', "prompt: " + input.prompt);
    if (input.prompt.empty()) throw Error(ErrorCode::INVALID_ARGUMENT, "the prompt is empty; give at least one character");
    ids = prompt_ids(runtime, input.prompt);
    input.sequence = {ids.data(), nullptr, int64_t(ids.size())};
  } else {
    perf.input_address = input.sequence.ids ? static_cast<const void*>(input.sequence.ids)
                                                    : static_cast<const void*>(input.sequence.embed);
  }
  if (input.mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER) {
    produce_hidden_states(runtime, input.sequence, delivery, perf);
    return;
  }
  Generation settings = runtime.generation;
  settings.seed = perf.seed = choose_seed(runtime);
  Timing timing;
  const Finish finish =
      runtime.session->generate(input.sequence, settings, [&](int32_t id) { delivery.token(id); }, timing);
  perf.prefill_ms = timing.prefill_ms;
  perf.generate_ms = timing.generate_ms;
  perf.prefill_tokens = timing.prefill_tokens;
  perf.generate_tokens = timing.generate_tokens;
  perf.finish = int32_t(finish);
}

}  // namespace

int run(Runtime& runtime, Occupied& occupied, RunInput& input, void* userdata) {
  RKLLMExtPerf perf = {};
  runtime.set_perf(perf);
  return guard([&] {
    Delivery delivery(runtime, userdata);
    const int failed = guard([&] { produce(runtime, input, delivery, perf); });
    const std::string sentence = failed ? kept_sentence() : "";
    if (failed) {
      perf.finish = RKLLM_EXT_FINISH_ERROR;
      runtime.keep_error(ErrorCode(failed), sentence);
      log(1, 'E', sentence);
    }
    perf.peak_memory_mb = peak_memory_mb();
    if (!failed) log_stages(perf);
    runtime.set_perf(perf);
    occupied.give_back();
    delivery.end(failed ? RKLLM_RUN_ERROR : RKLLM_RUN_FINISH);
    if (failed) throw Error(ErrorCode(failed), sentence);
  });
}

}  // namespace rkllm
