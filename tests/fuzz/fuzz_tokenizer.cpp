// SPDX-License-Identifier: Apache-2.0
// Fuzzes the tokenizer: any GGUF file is either refused with a sentence, or gives a tokenizer that turns any text into
// ids of its vocabulary and those back into UTF-8, as a whole and as a stream.
#include "memory_file.h"
#include "round_trip.h"

namespace {

using rkllm::Tokenizer;

void use(const Tokenizer& tokenizer, std::string_view tail) {
  using namespace std::string_view_literals;  // a NUL is part of the text
  constexpr std::string_view text =
      " The quick  <s> fox's 1234 \r\n\t e\xCC\x81\xE6\xB0\xB4\xF0\x9F\x98\x80 <0x0A>\xE2\x96\x81\0z\xFF"sv;
  for (const bool parse_special : {true, false}) {
    round_trip(tokenizer, text, parse_special);
    round_trip(tokenizer, tail, parse_special);
  }
  require(tokenizer.bos_id() < tokenizer.vocab_size(), "the begin token lies outside the vocabulary");
  for (int32_t id = -1; id <= tokenizer.vocab_size(); ++id) {
    tokenizer.is_special(id);
    tokenizer.id_of(tokenizer.bytes_of(id));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile bytes(data, size);
  try {
    const Tokenizer tokenizer(*rkllm::Container::open(bytes.path()));
    use(tokenizer, std::string_view(reinterpret_cast<const char*>(data), size).substr(size / 2));
  } catch (const rkllm::Error& error) {
    bytes.require_refusal(error);
  }
  return 0;
}
