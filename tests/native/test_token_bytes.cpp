// SPDX-License-Identifier: Apache-2.0
// rkllm_ext_token_bytes: what each token of a vocabulary stands for.
#include "open_session.h"

namespace {

struct Token {
  bool exists;
  std::string bytes;
  bool special;
};

Token token(const RKLLMExtTokenizer* tokenizer, int32_t id) {
  size_t size = 0;
  int special = -1;
  const char* data = rkllm_ext_token_bytes(tokenizer, id, &size, &special);
  return {data != nullptr, data ? std::string(data, size) : "", special == 1};
}

void the_bytes_of_its_tokens_are_the_text() {
  const OpenModel model;
  const RKLLMExtTokenizer* tokenizer = rkllm_ext_tokenizer(model.handle);
  for (const std::string text : {"Once upon a time", "h\xc3\xa9 \xf0\x9f\x99\x82!", "<|im_start|>user\n1 + 1\n"}) {
    int32_t ids[100];
    size_t count = 0;
    CHECK(rkllm_ext_tokenize(tokenizer, text.data(), text.size(), RKLLM_EXT_PARSE_SPECIAL, ids, 100, &count) == 0);
    std::string bytes;
    for (size_t i = 0; i < count; i++) bytes += token(tokenizer, ids[i]).bytes;
    CHECK(bytes == text && count > 0);
  }
}

void special_tokens_are_called_so_and_have_their_text() {
  const OpenModel model;
  const RKLLMExtTokenizer* tokenizer = rkllm_ext_tokenizer(model.handle);
  const int32_t id = rkllm_ext_token_id(tokenizer, "<|im_end|>");
  CHECK(id >= 0);
  const Token end = token(tokenizer, id);
  CHECK(end.exists && end.special && end.bytes == "<|im_end|>");
  int specials = 0, bytes = 0;
  for (int32_t i = 0; i < rkllm_ext_vocab_size(tokenizer); i++) {
    const Token found = token(tokenizer, i);
    CHECK(found.exists && !found.bytes.empty());
    specials += found.special;
    bytes += !found.special && found.bytes.size() == 1;
  }
  CHECK(specials == 3 && bytes == 256);  // a byte-level vocabulary has a token for each byte
}

void what_is_no_token_has_no_bytes() {
  const OpenModel model;
  const RKLLMExtTokenizer* tokenizer = rkllm_ext_tokenizer(model.handle);
  size_t size = 0;
  int special = 0;
  for (const int32_t id : {-1, kVocab, INT32_MAX, INT32_MIN}) CHECK(!token(tokenizer, id).exists);
  CHECK(!rkllm_ext_token_bytes(nullptr, 0, &size, &special));
  CHECK(!rkllm_ext_token_bytes(tokenizer, 0, nullptr, &special));
  CHECK(!rkllm_ext_token_bytes(tokenizer, 0, &size, nullptr));
}

}  // namespace

int main() {
  if (model_path("").empty()) return kSkipped;
  the_bytes_of_its_tokens_are_the_text();
  special_tokens_are_called_so_and_have_their_text();
  what_is_no_token_has_no_bytes();
  return check::result();
}
