// SPDX-License-Identifier: Apache-2.0
// The tokenizer functions of rkllm_ext.h.
#include "api_tokenizer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api.h"
#include "container.h"
#include "error.h"
#include "rkllm_ext.h"

using rkllm::Error;
using rkllm::ErrorCode;
using rkllm::Tokenizer;

namespace {

void require(bool holds, const char* function, const char* what) {
  if (!holds) throw Error(ErrorCode::INVALID_ARGUMENT, rkllm::format("%s: %s must not be NULL", function, what));
}

// Hand n elements over to the caller: their number always, themselves where out is given.
template <class T>
void hand_over(const char* function, const T* elements, size_t n, T* out, size_t capacity, size_t* count) {
  *count = n;
  if (out == nullptr) return;
  if (n > capacity) {
    throw Error(ErrorCode::INVALID_ARGUMENT, rkllm::format("%s: the result has %zu elements, there is room for %zu",
                                                           function, n, capacity));
  }
  if (n > 0) std::memcpy(out, elements, n * sizeof(T));
}

}  // namespace

extern "C" int rkllm_ext_tokenizer_open(const char* path, RKLLMExtTokenizer** tokenizer) {
  if (tokenizer) *tokenizer = nullptr;
  return rkllm::guard([&] {
    require(path && tokenizer, "rkllm_ext_tokenizer_open", "path and tokenizer");
    auto opened = std::make_shared<const Tokenizer>(*rkllm::Container::open(path));
    *tokenizer = new RKLLMExtTokenizer{std::move(opened)};
  });
}

extern "C" void rkllm_ext_tokenizer_close(RKLLMExtTokenizer* tokenizer) { delete tokenizer; }

extern "C" int rkllm_ext_tokenize(const RKLLMExtTokenizer* tokenizer, const char* text, size_t n_bytes, int flags,
                                  int32_t* out, size_t capacity, size_t* count) {
  return rkllm::guard([&] {
    const char* name = "rkllm_ext_tokenize";
    require(tokenizer && count && (text || n_bytes == 0), name, "tokenizer, text and count");
    const Tokenizer& t = *tokenizer->tokenizer;
    const std::string_view view(text ? text : "", n_bytes);
    std::vector<int32_t> ids = t.encode(view, flags & RKLLM_EXT_PARSE_SPECIAL);
    if (flags & RKLLM_EXT_ADD_BOS && t.add_bos()) ids.insert(ids.begin(), t.prefix().begin(), t.prefix().end());
    hand_over(name, ids.data(), ids.size(), out, capacity, count);
  });
}

extern "C" int rkllm_ext_detokenize(const RKLLMExtTokenizer* tokenizer, const int32_t* ids, size_t count, int flags,
                                    char* out, size_t capacity, size_t* n_bytes) {
  return rkllm::guard([&] {
    const char* name = "rkllm_ext_detokenize";
    require(tokenizer && n_bytes && (ids || count == 0), name, "tokenizer, ids and n_bytes");
    const std::string text = tokenizer->tokenizer->decode(ids, count, flags & RKLLM_EXT_SKIP_SPECIAL);
    hand_over(name, text.data(), text.size(), out, capacity, n_bytes);
  });
}

extern "C" int32_t rkllm_ext_vocab_size(const RKLLMExtTokenizer* tokenizer) {
  return tokenizer ? tokenizer->tokenizer->vocab_size() : 0;
}

extern "C" int32_t rkllm_ext_token_id(const RKLLMExtTokenizer* tokenizer, const char* text) {
  return tokenizer && text ? tokenizer->tokenizer->id_of(text) : -1;
}

extern "C" const char* rkllm_ext_token_bytes(const RKLLMExtTokenizer* tokenizer, int32_t id, size_t* n_bytes,
                                             int* special) {
  if (!tokenizer || !n_bytes || !special || id < 0 || id >= tokenizer->tokenizer->vocab_size()) return nullptr;
  const std::string_view bytes = tokenizer->tokenizer->bytes_of(id);
  *n_bytes = bytes.size();
  *special = tokenizer->tokenizer->is_special(id);
  return bytes.empty() ? "" : bytes.data();
}
