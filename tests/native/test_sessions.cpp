// SPDX-License-Identifier: Apache-2.0
// Sessions of rkllm_ext.h: however a sequence came about, its logits are those of one run over all of it, bit for bit.
// Passes run on several threads, so the thread sanitizer looks at these as well.
#include <cmath>
#include <cstring>

#include "open_session.h"

namespace {

// ---- one sequence ---------------------------------------------------------------------------------------------------

void prefills_and_steps_give_the_logits_of_one_run() {
  for (const char* format : {"fp32", "fp16", "w8a8", "w4a16_g32"}) {
    for (const char* kv_type : {"f16", "f32", "int8"}) {
      OpenModel model(24, format);
      model.set("kv_type", kv_type);
      const Ids ids = some_ids(90);
      const Rows expected = one_run(model.handle, token_input(ids.data(), ids.size()), ids.size());
      Session session(model.handle);
      CHECK(session.logits().empty());
      CHECK(session.prefill(part(ids, 0, 70)) == 70);  // more than a chunk
      CHECK(session.logits() == row(expected, 69));
      for (size_t i = 70; i < 80; i++) {
        session.step(ids[i]);
        CHECK(session.logits() == row(expected, i));
      }
      CHECK(session.prefill(part(ids, 80, 90)) == 10);
      CHECK(session.logits() == row(expected, 89));
      CHECK(session.tokens() == ids);
    }
  }
}

void a_prefill_in_parts_has_the_bits_of_a_whole_one() {
  const OpenModel model;
  const Ids ids = some_ids(90);
  const RKLLMInput input = token_input(ids.data(), ids.size());
  const Rows expected = one_run(model.handle, input, ids.size());
  for (const bool with_logits : {false, true}) {
    Session session(model.handle);
    Rows all, some(40 * kVocab);
    size_t left = 1, computed = 0;
    while (left > 0) {
      const size_t before = session.tokens().size();
      float* out = with_logits ? some.data() : nullptr;
      CHECK(rkllm_ext_session_prefill_part(session.get(), &input, 40, out, &computed, &left) == 0);
      CHECK(computed == std::min<size_t>(40, 90 - before) && left == 90 - before - computed);
      if (with_logits) all.insert(all.end(), some.begin(), some.begin() + std::ptrdiff_t(computed * kVocab));
    }
    CHECK(session.logits() == row(expected, 89) && session.tokens() == ids);
    if (with_logits) CHECK(all == expected);
  }
  Session session(model.handle);
  refused(rkllm_ext_session_prefill_part(session.get(), &input, 0, nullptr, nullptr, nullptr), kInvalid, "at least 1");
}

void steps_by_the_best_token_give_the_answer_of_a_run() {
  const OpenModel model;
  const Ids alone = undisturbed(model.handle);
  Session session(model.handle);
  session.prefill(prompt_input(kPrompt));
  for (const int32_t expected : alone) {
    int32_t sampled = -1;
    CHECK(rkllm_ext_session_sample(session.get(), nullptr, &sampled) == 0);
    CHECK(sampled == expected && session.best() == expected);
    session.step(sampled);
  }
}

void a_truncated_session_goes_on_as_if_nothing_had_followed() {
  const OpenModel model;
  const Ids ids = some_ids(40);
  Session session(model.handle);
  session.prefill(ids);
  session.truncate(25);
  CHECK(session.logits().empty());
  CHECK(session.tokens() == part(ids, 0, 25));
  session.step(7);
  Ids other = part(ids, 0, 25);
  other.push_back(7);
  CHECK(session.logits() == fresh(model.handle, other));
  session.truncate(0);
  session.prefill(ids);
  CHECK(session.logits() == fresh(model.handle, ids));
}

void a_fork_and_its_origin_go_on_apart() {
  const OpenModel model;
  const Ids ids = some_ids(40);
  Session session(model.handle);
  session.prefill(ids);
  const std::unique_ptr<Session> fork = session.fork();
  CHECK(fork->logits() == session.logits() && fork->tokens() == ids);
  session.step(1);
  fork->step(2);
  Ids one = ids, two = ids;
  one.push_back(1);
  two.push_back(2);
  CHECK(session.logits() == fresh(model.handle, one));
  CHECK(fork->logits() == fresh(model.handle, two));
}

void a_fork_draws_the_same_random_numbers() {
  OpenModel model;
  model.set("temperature", "1.5");
  model.set("top_k", "0");
  model.set("seed", "11");
  Session session(model.handle);
  session.prefill(some_ids(20));
  const auto draw = [](Session& from) {
    Ids drawn(20);
    for (int32_t& token : drawn) CHECK(rkllm_ext_session_sample(from.get(), nullptr, &token) == 0);
    return drawn;
  };
  draw(session);
  const std::unique_ptr<Session> fork = session.fork();
  const Ids drawn = draw(session);
  CHECK(draw(*fork) == drawn);
  CHECK(draw(session) != drawn);  // the numbers went on
  CHECK(rkllm_ext_session_set_option(session.get(), "seed", "11") == 0);
  Session again(model.handle);
  again.prefill(some_ids(20));
  CHECK(draw(again) == draw(session));  // a seed begins anew
}

void a_mask_leaves_only_what_it_allows() {
  const OpenModel model;
  Session session(model.handle);
  session.prefill(some_ids(5));
  std::vector<uint32_t> mask((kVocab + 31) / 32, 0);
  mask[2] = 1u << 5;
  int32_t token = -1;
  CHECK(rkllm_ext_session_sample(session.get(), mask.data(), &token) == 0);
  CHECK(token == 69);
}

void a_whole_sequence_keeps_what_is_common() {
  const OpenModel model;
  const Ids first = some_ids(60), other = some_ids(60, 5);
  Session session(model.handle);
  CHECK(session.prefill(first, RKLLM_EXT_WHOLE) == 60);
  Ids second = part(first, 0, 45);
  second.insert(second.end(), other.begin(), other.begin() + 20);
  CHECK(session.prefill(second, RKLLM_EXT_WHOLE) == 20);
  CHECK(session.tokens() == second && session.logits() == fresh(model.handle, second));
  CHECK(session.prefill(second, RKLLM_EXT_WHOLE) == 1);  // logits need a position that is run
  CHECK(session.logits() == fresh(model.handle, second));
  CHECK(session.prefill(part(second, 0, 30), RKLLM_EXT_WHOLE) == 1);
  CHECK(session.logits() == fresh(model.handle, part(second, 0, 30)));
  CHECK(session.prefill(other, RKLLM_EXT_WHOLE) == 60);
}

// ---- several sequences ----------------------------------------------------------------------------------------------

void sessions_stepped_together_have_the_bits_of_single_ones() {
  for (const char* format : {"fp32", "w8a8", "w4a16_g32"}) {
    const OpenModel model(24, format);
    constexpr size_t n = 70;  // more than one pass takes
    std::vector<std::unique_ptr<Session>> together, single;
    std::vector<RKLLMExtSession*> handles;
    for (size_t i = 0; i < n; i++) {
      together.push_back(std::make_unique<Session>(model.handle));
      single.push_back(std::make_unique<Session>(model.handle));
      handles.push_back(together.back()->get());
      const Ids ids = some_ids(1 + i % 9 * 5, int(i));
      together.back()->prefill(ids);
      single.back()->prefill(ids);
    }
    for (int round = 0; round < 3; round++) {
      Ids tokens;
      for (const auto& each : together) tokens.push_back(each->best());
      CHECK(rkllm_ext_session_step(handles.data(), tokens.data(), n) == 0);
      for (size_t i = 0; i < n; i++) {
        single[i]->step(tokens[i]);
        CHECK(together[i]->logits() == single[i]->logits());
      }
    }
  }
}

// ---- a context that is full -----------------------------------------------------------------------------------------

void after_a_shift_the_answer_is_that_of_a_prompt_of_what_is_left() {
  for (const size_t n_keep : {size_t(0), size_t(5), size_t(20)}) {
    const std::string path = model_path("w4a16_g32");
    RKLLMParam param = rkllm_createDefaultParam();
    param.model_path = path.c_str();
    param.max_context_len = 32;
    param.max_new_tokens = 70;
    param.top_k = 1;
    param.repeat_penalty = 1.0f;
    LLMHandle handle = nullptr;
    CHECK(rkllm_init(&handle, &param, record) == 0);
    CHECK(rkllm_ext_set_option(handle, "ignore_eos", "1") == 0);
    CHECK(rkllm_ext_set_option(handle, "n_keep", std::to_string(n_keep).c_str()) == 0);
    const Ids prompt = some_ids(22);
    Record shifted;
    CHECK(run(handle, shifted, token_input(prompt.data(), prompt.size())) == 0);
    CHECK(shifted.tokens().size() == 70 && finish_of(handle) == RKLLM_EXT_FINISH_LENGTH);
    Ids left = prompt;
    for (const int32_t token : shifted.tokens()) {
      if (left.size() == 32) {
        const size_t lost = (left.size() - 1 - n_keep) / 2;  // the last token has no position yet
        left.erase(left.begin() + std::ptrdiff_t(n_keep), left.begin() + std::ptrdiff_t(n_keep + lost));
      }
      Session session(handle);
      session.prefill(left);
      CHECK(session.best() == token);
      left.push_back(token);
    }
    CHECK(rkllm_destroy(handle) == 0);
  }
}

// ---- images ---------------------------------------------------------------------------------------------------------

// A model whose images stand between "(" and ")".
LLMHandle open_with_tags(const char* content) {
  const std::string path = model_path("w8a8");
  RKLLMParam param = rkllm_createDefaultParam();
  param.model_path = path.c_str();
  param.max_context_len = 256;
  param.max_new_tokens = 8;
  param.top_k = 1;
  param.img_start = "(";
  param.img_end = ")";
  param.img_content = content;
  LLMHandle handle = nullptr;
  CHECK(rkllm_init(&handle, &param, record) == 0);
  CHECK(rkllm_ext_set_option(handle, "add_bos", "0") == 0);
  return handle;
}

Ids ids_of(LLMHandle handle, const char* text) {
  Ids ids(64);
  size_t n = 0;
  CHECK(rkllm_ext_tokenize(rkllm_ext_tokenizer(handle), text, strlen(text), RKLLM_EXT_PARSE_SPECIAL, ids.data(),
                           ids.size(), &n) == 0);
  ids.resize(n);
  return ids;
}

void an_image_is_its_vectors_between_the_tags() {
  for (const char* content : {"", "<|im_end|>", "no token"}) {
    const LLMHandle handle = open_with_tags(content);
    const Rows vectors = some_vectors(5);
    Session explicit_one(handle), image(handle), two_images(handle), counted(handle);
    explicit_one.prefill(ids_of(handle, "see ("));
    explicit_one.prefill(embed_input(vectors.data(), 5));
    explicit_one.prefill(ids_of(handle, ") here"));
    image.prefill(multimodal_input("see <image> here", vectors));
    CHECK(image.logits() == explicit_one.logits());
    Ids expected = ids_of(handle, "see (");
    expected.insert(expected.end(), 5, -1);
    const Ids rest = ids_of(handle, ") here");
    expected.insert(expected.end(), rest.begin(), rest.end());
    CHECK(image.tokens() == expected);

    const size_t n = expected.size();
    const Rows rows = one_run(handle, multimodal_input("see <image> here", vectors), n);
    CHECK(row(rows, n - 1) == image.logits());
    Record answer;
    CHECK(run(handle, answer, multimodal_input("see <image> here", vectors)) == 0);
    CHECK(answer.ended_with(RKLLM_RUN_FINISH) && !answer.tokens().empty() && answer.tokens()[0] == image.best());

    const Rows six = some_vectors(6);
    two_images.prefill(multimodal_input("<image> or <image>", six));
    CHECK(rkllm_ext_set_option(handle, "image_tokens", "3,3") == 0);
    Session told(handle);
    told.prefill(multimodal_input("<image> or <image>", six));
    CHECK(told.tokens() == two_images.tokens() && told.logits() == two_images.logits());
    CHECK(rkllm_destroy(handle) == 0);
  }
}

void images_that_do_not_fit_their_prompt_are_refused() {
  const LLMHandle handle = open_with_tags("");
  const Rows vectors = some_vectors(5);
  Session session(handle);
  const auto attempt = [&](const char* prompt, int expected, const char* sentence) {
    const RKLLMInput input = multimodal_input(prompt, vectors);
    refused(rkllm_ext_session_prefill(session.get(), &input, 0, nullptr), expected, sentence);
    Record failed;
    CHECK(run(handle, failed, input) == expected && failed.ended_with(RKLLM_RUN_ERROR));
    CHECK(check::contains(rkllm_ext_last_error(handle), sentence));
    CHECK(session.tokens().empty());
  };
  attempt("no place", kInvalid, "the prompt has 0 <image> placeholders for 5 image tokens");
  attempt("<image> <image>", kInvalid, "5 image tokens cannot be shared by 2 <image> placeholders");
  CHECK(rkllm_ext_set_option(handle, "image_tokens", "2,2") == 0);
  Session told(handle);
  const RKLLMInput two = multimodal_input("<image> <image>", vectors), one = multimodal_input("<image>", vectors);
  refused(rkllm_ext_session_prefill(told.get(), &two, 0, nullptr), kInvalid,
          "adds up to 4, but there are 5 image tokens");
  refused(rkllm_ext_session_prefill(told.get(), &one, 0, nullptr), kInvalid, "names 2 images, but the prompt has 1");
  CHECK(rkllm_ext_set_option(handle, "image_tokens", "") == 0);
  Rows broken = vectors;
  broken[kDim + 3] = HUGE_VALF;
  const RKLLMInput infinite = multimodal_input("<image>", broken);
  refused(rkllm_ext_session_prefill(session.get(), &infinite, 0, nullptr), kInvalid,
          "row 1 of the embeddings has a value that is not finite in column 3");
  RKLLMInput many = multimodal_input("<image>", vectors);
  many.multimodal_input.n_image_tokens = SIZE_MAX / 2;  // refused before a vector is read
  refused(rkllm_ext_session_prefill(session.get(), &many, 0, nullptr), kContextFull, "max_context_len is 256");
  CHECK(rkllm_destroy(handle) == 0);
}

// ---- refusals -------------------------------------------------------------------------------------------------------

void wrong_calls_are_refused_and_change_nothing() {
  const OpenModel model, other;
  Session session(model.handle), second(model.handle), foreign(other.handle);
  const Ids ids = some_ids(10);
  for (Session* each : {&session, &second, &foreign}) each->prefill(ids);
  const Rows before = session.logits();
  const int32_t tokens[] = {1, 2};
  const auto step = [&](RKLLMExtSession* a, RKLLMExtSession* b, const int32_t* with) {
    RKLLMExtSession* both[] = {a, b};
    return rkllm_ext_session_step(both, with, 2);
  };
  refused(step(session.get(), foreign.get(), tokens), kInvalid, "session 1 belongs to another model");
  refused(step(session.get(), session.get(), tokens), kBusy, "named twice");
  refused(step(session.get(), nullptr, tokens), kInvalid, "NULL");
  const int32_t beyond[] = {1, kVocab}, negative[] = {1, -1};
  refused(step(session.get(), second.get(), beyond), kInvalid, "session 1: token 0 of the input is 300");
  refused(step(session.get(), second.get(), negative), kInvalid, "is -1, outside the vocabulary");
  refused(rkllm_ext_session_step(nullptr, tokens, 1), kInvalid, "must be given");
  RKLLMExtSession* one = session.get();
  refused(rkllm_ext_session_step(&one, tokens, 0), kInvalid, "must be given");
  refused(rkllm_ext_session_step(&one, nullptr, 1), kInvalid, "must be given");
  refused(rkllm_ext_session_truncate(session.get(), 11), kInvalid, "10 positions; it cannot be truncated to 11");
  refused(rkllm_ext_session_set_option(session.get(), "colour", "red"), kInvalid, "colour");
  refused(rkllm_ext_session_set_option(session.get(), "top_p", "-1"), kInvalid, "top_p");
  const RKLLMInput nothing = token_input(ids.data(), 0), no_ids = token_input(nullptr, 3);
  refused(rkllm_ext_session_prefill(session.get(), &nothing, 0, nullptr), kInvalid, "empty");
  refused(rkllm_ext_session_prefill(session.get(), &no_ids, 0, nullptr), kInvalid, "NULL");
  refused(rkllm_ext_session_prefill(session.get(), nullptr, 0, nullptr), kInvalid, "input is NULL");
  CHECK(session.logits() == before && session.tokens() == ids && second.tokens() == ids);

  session.truncate(5);
  int32_t token = -1;
  refused(rkllm_ext_session_sample(session.get(), nullptr, &token), kInvalid, "no logits to sample from");
  for (const int code : {rkllm_ext_session_truncate(nullptr, 0), rkllm_ext_session_abort(nullptr),
                         rkllm_ext_session_sample(nullptr, nullptr, &token), rkllm_ext_session_fork(nullptr, &one),
                         rkllm_ext_session_tokens(nullptr, nullptr, 0, nullptr),
                         rkllm_ext_session_prefill(nullptr, &nothing, 0, nullptr),
                         rkllm_ext_session_set_option(nullptr, "seed", "1")})
    CHECK(code == kInvalid);
  CHECK(!rkllm_ext_session_logits(nullptr));
  rkllm_ext_session_close(nullptr);
  CHECK(rkllm_ext_session_open(nullptr, &one) != 0);
}

void a_full_session_refuses_more() {
  const OpenModel model;
  Session session(model.handle), almost(model.handle);
  const Ids full = some_ids(256), rest = some_ids(3);
  session.prefill(full);
  const Rows before = session.logits();
  RKLLMExtSession* one = session.get();
  refused(rkllm_ext_session_step(&one, rest.data(), 1), kContextFull, "max_context_len is 256");
  almost.prefill(part(full, 0, 254));
  const RKLLMInput input = token_input(rest.data(), rest.size());
  refused(rkllm_ext_session_prefill(almost.get(), &input, 0, nullptr), kContextFull, "3 tokens behind 254");
  CHECK(almost.tokens().size() == 254);
  almost.prefill(part(rest, 0, 2));
  CHECK(session.logits() == before && session.tokens() == full);
}

void a_session_outlives_its_handle() {
  LLMHandle handle = OpenModel().release();
  Session session(handle);
  const Ids ids = some_ids(20);
  session.prefill(ids);
  const OpenModel other;
  const Rows expected = fresh(other.handle, ids);
  CHECK(rkllm_destroy(handle) == 0);
  CHECK(session.logits() == expected);
  session.step(4);
  const std::unique_ptr<Session> fork = session.fork();
  Ids longer = ids;
  longer.push_back(4);
  CHECK(fork->logits() == fresh(other.handle, longer));
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  prefills_and_steps_give_the_logits_of_one_run();
  a_prefill_in_parts_has_the_bits_of_a_whole_one();
  steps_by_the_best_token_give_the_answer_of_a_run();
  a_truncated_session_goes_on_as_if_nothing_had_followed();
  a_fork_and_its_origin_go_on_apart();
  a_fork_draws_the_same_random_numbers();
  a_mask_leaves_only_what_it_allows();
  a_whole_sequence_keeps_what_is_common();
  sessions_stepped_together_have_the_bits_of_single_ones();
  after_a_shift_the_answer_is_that_of_a_prompt_of_what_is_left();
  an_image_is_its_vectors_between_the_tags();
  images_that_do_not_fit_their_prompt_are_refused();
  wrong_calls_are_refused_and_change_nothing();
  a_full_session_refuses_more();
  a_session_outlives_its_handle();
  return check::result();
}
