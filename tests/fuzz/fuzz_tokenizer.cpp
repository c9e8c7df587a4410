// SPDX-License-Identifier: Apache-2.0
// Fuzzes the tokenizer: any GGUF file is either refused with a sentence, or gives a tokenizer that turns any text into
// ids of its vocabulary and those back into UTF-8, as a whole and as a stream.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "container.h"
#include "error.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace {

using rkllm::Container;
using rkllm::Error;
using rkllm::ErrorCode;
using rkllm::StreamDecoder;
using rkllm::Tokenizer;

void require(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "fuzz_tokenizer: %s\n", what);
  abort();
}

void round_trip(const Tokenizer& tokenizer, std::string_view text, bool parse_special) {
  const std::vector<int32_t> ids = tokenizer.encode(text, parse_special);
  StreamDecoder stream(tokenizer, !parse_special);
  std::string pieces;
  for (const int32_t id : ids) {
    require(id >= 0 && id < tokenizer.vocab_size(), "an id lies outside the vocabulary");
    pieces += stream.push(id);
  }
  require(rkllm::valid_utf8(pieces + stream.finish()), "a stream is not UTF-8");
  require(rkllm::valid_utf8(tokenizer.decode(ids.data(), ids.size(), !parse_special)), "decoded text is not UTF-8");
}

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
  const int fd = memfd_create("fuzz", 0);
  require(fd >= 0 && write(fd, data, size) == static_cast<ssize_t>(size), "no file");
  const std::string path = rkllm::format("/proc/self/fd/%d", fd);
  try {
    const Tokenizer tokenizer(*Container::open(path));
    use(tokenizer, std::string_view(reinterpret_cast<const char*>(data), size).substr(size / 2));
  } catch (const Error& error) {
    require(error.code() == ErrorCode::MODEL_FILE || error.code() == ErrorCode::UNSUPPORTED_MODEL, "another code");
    require(error.sentence().compare(0, path.size(), path) == 0, "a sentence does not name the file");
  }
  close(fd);
  return 0;
}
