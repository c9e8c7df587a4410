// SPDX-License-Identifier: Apache-2.0
#include "run.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>

#include "api.h"
#include "container_writer.h"
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
      need(input.multimodal_input.prompt, "multimodal_input.prompt is NULL");
      need(input.multimodal_input.image_embed, "multimodal_input.image_embed is NULL");
      run.prompt = input.multimodal_input.prompt;
      run.sequence = {nullptr, input.multimodal_input.image_embed, count_of(input.multimodal_input.n_image_tokens)};
      return run;
  }
  throw Error(ErrorCode::INVALID_ARGUMENT, format("input_type is %d, but there are 0 to 3", type));
}

void prepare(RunInput& input, const Session& session, const PromptRules& rules, bool begins) {
  if (input.type != RKLLM_INPUT_PROMPT && input.type != RKLLM_INPUT_MULTIMODAL) return;
  if (input.prompt.empty())
    throw Error(ErrorCode::INVALID_ARGUMENT, "the prompt is empty; give at least one character");
  const Tokenizer& tokenizer = *session.model().tokenizer;
  const int64_t n_embedded = input.type == RKLLM_INPUT_MULTIMODAL ? input.sequence.n : 0;
  if (n_embedded > session.max_context())
    throw Error(
        ErrorCode::CONTEXT_FULL,
        format("the prompt has %lld image tokens, but max_context_len is %d; use fewer or raise max_context_len",
               static_cast<long long>(n_embedded), session.max_context()));
  input.ids = input.type == RKLLM_INPUT_PROMPT
                  ? tokenizer.encode(input.prompt, true)
                  : multimodal_ids(tokenizer, input.prompt, rules.tags, rules.image_tokens, n_embedded);
  const bool add = begins && (rules.add_bos < 0 ? tokenizer.add_bos() : rules.add_bos > 0);
  const std::vector<int32_t>& prefix = tokenizer.prefix();
  if (add && !prefix.empty() && (input.ids.empty() || input.ids[0] != prefix[0]))
    input.ids.insert(input.ids.begin(), prefix.begin(), prefix.end());
  input.sequence.ids = input.ids.data();
  input.sequence.n = int64_t(input.ids.size());
}

uint64_t RunSettings::choose_seed() const {
  if (!random_seed) return generation.seed;
  std::random_device device;
  return uint64_t(device()) << 32 | device();
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

void log_ids(const SequenceInput& input) {
  if (!input.ids) return;
  std::string ids;
  for (int64_t i = 0; i < input.n; i++) ids += (i ? " " : "") + std::to_string(input.ids[i]);
  log(2, 'I', format("prompt token ids (%lld): %s", static_cast<long long>(input.n), ids.c_str()));
}

// Delivers the tokens of one run.
class Delivery {
 public:
  Delivery(Runtime& runtime, void* userdata)
      : runtime_(runtime), userdata_(userdata), decoder_(*runtime.model->tokenizer, runtime.skip_special),
        stop_(runtime.settings.generation.stop) {}

  // False when the text has come to a stop string.
  bool token(const Sampled& token) {
    const std::string decoded = decoder_.push(token.id), text = stop_.push(decoded);
    last_ = token.id;
    if (log_level() >= 2) log(2, 'I', format("token %d: %s", token.id, decoded.c_str()));
    const bool waits = text.empty() && !stop_.stopped() && (decoder_.pending() || stop_.holding());
    if (token.logprobs) runtime_.set_logprobs(token.logprobs);
    send(text, waits ? RKLLM_RUN_WAITING : RKLLM_RUN_NORMAL);
    if (token.logprobs) runtime_.set_logprobs(nullptr);
    return !stop_.stopped();
  }

  // states: [n, dim]
  void hidden_states(const float* states, int64_t n) {
    RKLLMResult result = {"", -1, {states, int(runtime_.model->spec.dim), int(n)}};
    runtime_.callback(&result, userdata_, RKLLM_RUN_GET_LAST_HIDDEN_LAYER);
  }

  // What is left of the text when the run has ended.
  std::string rest() {
    const std::string text = stop_.push(decoder_.finish());
    return text + stop_.finish();
  }
  int32_t last_token() const { return last_; }

 private:
  void send(const std::string& text, LLMCallState state) {
    RKLLMResult result = {text.c_str(), last_, {nullptr, 0, 0}};
    runtime_.callback(&result, userdata_, state);
  }

  Runtime& runtime_;
  void* userdata_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  int32_t last_ = -1;
};

void produce_hidden_states(Runtime& runtime, const SequenceInput& input, Delivery& delivery, RKLLMExtPerf& perf) {
  const auto start = std::chrono::steady_clock::now();
  runtime.session->check(input, 0);  // before its length is multiplied
  Buffer<float> states(input.n * int64_t(runtime.model->spec.dim));
  runtime.session->hidden_states(input, states.data());
  perf.prefill_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  perf.prefill_tokens = int32_t(input.n);
  perf.finish = RKLLM_EXT_FINISH_STOP;
  delivery.hidden_states(states.data(), input.n);
}

// What the mask function of a handle says, as the decode loop asks for it.
Constraint constraint_of(const Runtime& runtime) {
  if (!runtime.mask) return nullptr;
  return [&runtime](const int32_t* tokens, size_t n, std::vector<uint32_t>& mask) {
    const int code = runtime.mask(tokens, n, mask.data(), mask.size(), runtime.mask_userdata);
    if (code < 0) throw Error(ErrorCode::ABORTED, format("the mask function ended the run with %d", code));
    return code == 0;
  };
}

void save_prompt_cache(const Session& session, const std::string& path) {
  session.save(path);
  log(1, 'I',
      format("saved a prompt cache with prompt size of %d tokens to '%s'", session.sequence().length(), path.c_str()));
}

// Put what the handle's runs have kept before an input. Throws Error(INVALID_ARGUMENT) for one that is not tokens
// alone.
void put_behind(const std::vector<int32_t>& history, RunInput& input) {
  SequenceInput& sequence = input.sequence;
  if (sequence.embed)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                "keep_history keeps tokens; embeddings and images go on in a session only");
  if (history.empty()) return;
  std::vector<int32_t> ids(history);
  ids.insert(ids.end(), sequence.ids, sequence.ids + sequence.n);
  input.ids = std::move(ids);  // after the last use of what sequence may point to
  sequence.ids = input.ids.data();
  sequence.n = int64_t(input.ids.size());
}

// Compute and deliver everything but the end. Throws Error.
void produce(Runtime& runtime, RunInput& input, Delivery& delivery, RKLLMExtPerf& perf) {
  Session& session = *runtime.session;
  if (!input.prompt.empty()) log(2, 'I', "prompt: " + input.prompt);
  if (input.sequence.ids || input.sequence.embed)
    perf.input_address = input.sequence.ids ? static_cast<const void*>(input.sequence.ids)
                                            : static_cast<const void*>(input.sequence.embed);
  const bool keeps = runtime.keep_history && input.mode == RKLLM_INFER_GENERATE;
  prepare(input, session, runtime.prompt, !keeps || runtime.history.empty());
  if (keeps) {
    session.check(input.sequence, 0);  // before its ids are copied
    put_behind(runtime.history, input);
  }
  if (log_level() >= 2) {
    session.check(input.sequence, 0);  // before its ids are read
    log_ids(input.sequence);
  }
  session.use_adapter(input.adapter);
  if (!input.save_path.empty()) check_target(input.save_path);  // before a long prefill
  if (input.mode == RKLLM_INFER_GET_LAST_HIDDEN_LAYER) {
    produce_hidden_states(runtime, input.sequence, delivery, perf);
    if (!input.save_path.empty()) save_prompt_cache(session, input.save_path);
    return;
  }
  Generation settings = runtime.settings.generation;
  settings.seed = perf.seed = runtime.settings.choose_seed();
  if (!runtime.reuse_prefix && !keeps) session.truncate(0);
  GenerationEvents events;
  std::vector<int32_t> answer;  // what is to be kept of it
  events.on_token = [&](const Sampled& token) {
    if (keeps) answer.push_back(token.id);
    return delivery.token(token);
  };
  if (!input.save_path.empty()) events.on_prefilled = [&] { save_prompt_cache(session, input.save_path); };
  events.constraint = constraint_of(runtime);
  Timing timing;
  const Finish finish = generate(session, input.sequence, settings, events, timing);
  if (keeps) {
    answer.insert(answer.begin(), input.sequence.ids, input.sequence.ids + input.sequence.n);
    runtime.history = std::move(answer);
  }
  perf.prefill_ms = timing.prefill_ms;
  perf.generate_ms = timing.generate_ms;
  perf.prefill_tokens = timing.prefill_tokens;
  perf.generate_tokens = timing.generate_tokens;
  perf.reused_tokens = timing.reused_tokens;
  perf.drafted_tokens = timing.drafted_tokens;
  perf.accepted_tokens = timing.accepted_tokens;
  perf.finish = int32_t(finish);
}

}  // namespace

int run(Runtime& runtime, Occupied& occupied, RunInput& input, void* userdata) {
  RKLLMExtPerf perf = {};
  runtime.set_perf(perf);
  std::optional<Delivery> delivery;
  const int failed = guard([&] {
    delivery.emplace(runtime, userdata);
    produce(runtime, input, *delivery, perf);
  });
  // From here on nothing may fail for want of memory: whoever waits for the end hears of it.
  char sentence[1024] = "";
  if (failed) {
    strncpy(sentence, kept_sentence(), sizeof sentence - 1);
    perf.finish = RKLLM_EXT_FINISH_ERROR;
    runtime.keep_error(ErrorCode(failed), sentence);
    log(1, 'E', sentence);
  }
  perf.peak_memory_mb = peak_memory_mb();
  std::string text;
  guard([&] {
    if (!failed) log_stages(perf);
    if (delivery) text = delivery->rest();
  });
  runtime.set_perf(perf);
  occupied.give_back();
  RKLLMResult result = {text.c_str(), delivery ? delivery->last_token() : -1, {nullptr, 0, 0}};
  guard([&] { runtime.callback(&result, userdata, failed ? RKLLM_RUN_ERROR : RKLLM_RUN_FINISH); });
  return failed ? keep_error(ErrorCode(failed), sentence) : 0;
}

}  // namespace rkllm
