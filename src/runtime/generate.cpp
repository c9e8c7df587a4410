// SPDX-License-Identifier: Apache-2.0
#include "generate.h"

#include <algorithm>
#include <chrono>

#include "error.h"
#include "lookup.h"

namespace rkllm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kNgram = 3;  // tokens that a guess looks for in earlier text

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// One run. The sequence is the input and the answer, of which a full context may have cost rows kept_ ... from_ - 1.
class Run {
 public:
  Run(Session& session, const SequenceInput& input, const Generation& settings, const GenerationEvents& events,
      Timing& timing)
      : session_(session), input_(input), settings_(settings), events_(events), timing_(timing),
        model_(session.model()), sampler_(settings.sampling, settings.seed), stride_(padded(model_.spec.vocab_size)),
        logits_(stride_ * (1 + settings.draft)) {}

  ~Run() { forget_guesses(); }

  Finish loop() {
    const auto start = Clock::now();
    if (!prefill()) return Finish::ABORT;
    timing_.prefill_ms = milliseconds(start, Clock::now());
    if (events_.on_prefilled) events_.on_prefilled();
    const auto prefilled = Clock::now();
    for (int64_t produced = 0;; produced++) {
      timing_.generate_ms = milliseconds(prefilled, Clock::now());
      if (session_.is_aborted()) return Finish::ABORT;
      if (settings_.max_new_tokens >= 0 && produced >= settings_.max_new_tokens) return Finish::LENGTH;
      if (used() >= session_.max_context()) {
        if (settings_.n_keep < 0 || !drop_older_half()) return Finish::CONTEXT;
        if (!rerun(settings_.n_keep, int(settings_.n_keep + total() - from_))) return Finish::ABORT;
      }
      if (produced > 0) {
        const Finish failed = advance();
        if (failed != Finish::NONE) return failed;
        timing_.generate_tokens++;
      }
      int32_t token;
      const Finish chosen = choose(&token);
      if (chosen != Finish::NONE || session_.is_aborted()) {
        timing_.generate_ms = milliseconds(prefilled, Clock::now());
        return chosen != Finish::NONE ? chosen : Finish::ABORT;
      }
      answer_.push_back(token);
      history_.push_back(token);
      if (!events_.on_token({token, settings_.logprobs >= 0 ? &logprobs_ : nullptr})) {
        timing_.generate_ms = milliseconds(prefilled, Clock::now());
        return Finish::STOP;
      }
    }
  }

 private:
  bool prefill() {
    timing_.reused_tokens = session_.keep_common(input_);
    if (input_.ids) history_.assign(input_.ids, input_.ids + input_.n);
    timing_.prefill_tokens = int32_t(input_.n) - timing_.reused_tokens;
    const SequenceInput rest = part(input_, timing_.reused_tokens, timing_.prefill_tokens, model_.spec.dim);
    if (!session_.append(rest, int(input_.n))) return false;
    keep_logits();
    return true;
  }

  // Have the logits behind the last token. Finish::NONE: they are there.
  Finish advance() {
    if (row_ < drafted_ && draft_[row_] == answer_.back()) {  // they were computed with the guess
      row_++;
      accepted_++;
      timing_.accepted_tokens++;
      return Finish::NONE;
    }
    forget_guesses();
    const int length = session_.next_length();
    if (model_.rope.restarts_at(length) && !rerun(0, length)) return Finish::ABORT;
    draft_[0] = answer_.back();
    const int guesses = guess(length);
    session_.decode(draft_, 1 + guesses, length, logits_.data());
    std::copy(draft_ + 1, draft_ + 1 + guesses, draft_);
    drafted_ = guesses;
    timing_.drafted_tokens += guesses;
    return Finish::NONE;
  }

  // Guess tokens behind the last one into draft_[1 ...]. Only such whose pass has the bits of single steps: rotary
  // angles must not change on the way. Wrong guesses make the next one shorter, right ones longer.
  int guess(int length) {
    if (settings_.draft == 0) return 0;
    if (last_guess_ > 0)
      ahead_ = accepted_ == last_guess_ ? std::min(2 * ahead_, settings_.draft) : std::max(1, accepted_);
    const int64_t left =
        settings_.max_new_tokens < 0 ? kMostDraft : settings_.max_new_tokens - int64_t(answer_.size()) - 1;
    const int64_t room = session_.max_context() - session_.sequence().length() - 1;
    const int most = int(std::min<int64_t>({ahead_, left, room, session_.executor().chunk() - 1}));
    accepted_ = 0;
    last_guess_ = propose(history_, kNgram, most, draft_ + 1);
    const double variant = model_.rope.variant(length);
    for (int i = 1; i <= last_guess_ && !model_.spec.rope_doubling; i++)
      if (model_.rope.variant(length + i) != variant) last_guess_ = i - 1;
    return last_guess_;
  }

  // Rows that have been run or are to be run again: all but the last token, which advance() feeds.
  int64_t total() const { return input_.n + (answer_.empty() ? 0 : int64_t(answer_.size()) - 1); }

  // Positions that are taken, that of the last token included.
  int used() const { return session_.sequence().length() - (drafted_ - row_) + (answer_.empty() ? 0 : 1); }

  void forget_guesses() {
    session_.truncate(session_.sequence().length() - (drafted_ - row_));
    row_ = drafted_ = 0;
  }

  // Decide which rows a full context loses. False: there are none to lose.
  bool drop_older_half() {
    const int64_t first = std::max<int64_t>(from_, settings_.n_keep);
    const int64_t lost = (total() - first) / 2;
    if (lost < 1) return false;
    from_ = first + lost;
    forget_guesses();
    session_.truncate(settings_.n_keep);
    return true;
  }

  // Run the rows again that the sequence is to have from position `at` on, at most n_keep where rows were dropped.
  bool rerun(int at, int length) {
    session_.truncate(at);
    if (from_ && at < settings_.n_keep && !append(at, settings_.n_keep, length)) return false;
    if (!append(from_ ? from_ : at, total(), length)) return false;
    keep_logits();
    return true;
  }

  void keep_logits() { memcpy(logits_.data(), session_.logits(), size_t(stride_) * sizeof(float)); }

  // Append rows first ... last - 1 of input and answer.
  bool append(int64_t first, int64_t last, int length) {
    if (first < input_.n) {
      const int64_t n = std::min(last, input_.n) - first;
      if (n > 0 && !session_.append(part(input_, first, n, model_.spec.dim), length)) return false;
      first += n;
    }
    if (first >= last) return true;
    return session_.append({answer_.data() + (first - input_.n), nullptr, last - first}, length);
  }

  // Finish::NONE: *token is the next one.
  Finish choose(int32_t* token) {
    const int32_t vocab = int32_t(model_.spec.vocab_size);
    const uint32_t* mask = nullptr;
    if (events_.constraint) {
      mask_.assign((size_t(vocab) + 31) / 32, 0xffffffffu);
      const bool more = events_.constraint(answer_.data() + told_, answer_.size() - told_, mask_);
      told_ = answer_.size();
      if (!more) return Finish::STOP;
      mask = mask_.data();
    }
    float* logits = logits_.data() + row_ * stride_;
    if (settings_.logprobs >= 0) unchanged_.assign(logits, logits + vocab);
    *token = sampler_.sample(logits, vocab, history_, mask);
    if (settings_.logprobs >= 0)
      top_logprobs(unchanged_.data(), vocab, *token, settings_.logprobs, &logprobs_.chosen, &logprobs_.top);
    return !settings_.ignore_eos && model_.is_end(*token) ? Finish::STOP : Finish::NONE;
  }

  Session& session_;
  const SequenceInput& input_;
  const Generation& settings_;
  const GenerationEvents& events_;
  Timing& timing_;
  const Model& model_;
  Sampler sampler_;
  int64_t stride_;
  Buffer<float> logits_;  // [1 + draft, stride_] behind the last token and behind each guess
  int row_ = 0;           // of these, that behind the last token
  int drafted_ = 0;       // guesses of the last pass that are in the sequence
  int ahead_ = settings_.draft;  // how many to guess
  int last_guess_ = 0, accepted_ = 0;  // of the last pass, guessed and right
  int32_t draft_[1 + kMostDraft];
  std::vector<int32_t> answer_, history_;
  size_t told_ = 0;       // tokens of the answer that the constraint knows
  int64_t from_ = 0;      // rows from n_keep to here are dropped; 0: none
  std::vector<uint32_t> mask_;
  std::vector<float> unchanged_;  // the logits before the sampler changed them
  Logprobs logprobs_;             // of the last token
};

}  // namespace

void check_generation(const Generation& settings) {
  const auto need = [](bool good, const char* name, int value, const char* range) {
    if (!good) throw Error(ErrorCode::INVALID_ARGUMENT, format("%s is %d, but must be %s", name, value, range));
  };
  check_sampling(settings.sampling);
  need(settings.max_new_tokens == -1 || settings.max_new_tokens > 0, "max_new_tokens", settings.max_new_tokens,
       "at least 1, or -1 for no limit");
  need(settings.n_keep >= -1, "n_keep", settings.n_keep, "at least 0, or -1 to end at a full context");
  need(settings.logprobs >= -1 && settings.logprobs <= kMostLogprobs, "logprobs", settings.logprobs,
       "0 to 20, or -1 for none");
  check_stops(settings.stop);
  need(settings.draft >= 0 && settings.draft <= kMostDraft, "draft", settings.draft, "0 to 16");
}

Finish generate(Session& session, const SequenceInput& input, const Generation& settings,
                const GenerationEvents& events, Timing& timing) {
  session.check(input, 0);
  check_generation(settings);
  timing = {};
  return Run(session, input, settings, events, timing).loop();
}

}  // namespace rkllm
