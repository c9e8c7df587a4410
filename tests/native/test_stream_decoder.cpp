// SPDX-License-Identifier: Apache-2.0
// The streaming decoder, which Python reaches only through a running model: whole characters, nothing lost.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "check.h"
#include "container.h"
#include "gguf_bytes.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace {

using gguf_bytes::bytes_of;
using gguf_bytes::key;
using gguf_bytes::text;
using rkllm::Container;
using rkllm::StreamDecoder;
using rkllm::Tokenizer;

// ---- a small vocabulary in a file ----

constexpr uint32_t kU32 = 4, kI32 = 5, kString = 8, kArray = 9;
constexpr int32_t kSpecial = 0, kWord = 1, kByte = 2;  // ids: a special token, " the", then the bytes 0 ... 255

std::string numbers(const std::string& name, uint32_t element, const std::vector<uint32_t>& values) {
  std::string payload = bytes_of(element) + bytes_of<uint64_t>(values.size());
  for (const uint32_t value : values) payload += bytes_of(value);
  return key(name, kArray, payload);
}

Tokenizer make_tokenizer() {
  std::string tokens = text("<s>") + text("\xE2\x96\x81the");
  std::vector<uint32_t> types = {3, 1};
  for (int byte = 0; byte < 256; ++byte) {
    tokens += text(rkllm::format("<0x%02X>", byte));
    types.push_back(6);
  }
  const std::string keys[] = {
      key("rkllm.version", kU32, bytes_of<uint32_t>(1)),
      key("rkllm.tokenizer.model", kString, text("rank_bpe")),
      key("rkllm.tokenizer.normalizer", kString, text("mark_prepend")),
      key("rkllm.tokenizer.split", kString, text("none")),
      key("tokenizer.ggml.tokens", kArray, bytes_of(kString) + bytes_of<uint64_t>(types.size()) + tokens),
      numbers("tokenizer.ggml.token_type", kI32, types),
      numbers("rkllm.tokenizer.added_ids", kU32, {0}),
      numbers("rkllm.tokenizer.added_flags", kU32, {1}),
  };
  std::string file = "GGUF" + bytes_of<uint32_t>(3) + bytes_of<uint64_t>(0) + bytes_of<uint64_t>(std::size(keys));
  for (const std::string& each : keys) file += each;
  std::string path = "/tmp/rkllm-stream-XXXXXX";
  const int fd = mkstemp(&path[0]);
  CHECK(fd >= 0 && write(fd, file.data(), file.size()) == static_cast<ssize_t>(file.size()));
  close(fd);
  Tokenizer tokenizer(*Container::open(path));
  unlink(path.c_str());
  return tokenizer;
}

std::vector<int32_t> byte_ids(const std::string& bytes) {
  std::vector<int32_t> ids;
  for (const char byte : bytes) ids.push_back(kByte + static_cast<uint8_t>(byte));
  return ids;
}

// What a stream yields, each piece followed by '|', and whether something was pending after each token.
std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special = false) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string all;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    all += piece + (decoder.pending() ? "?" : "") + "|";
  }
  return all + decoder.finish();
}

// ---- the tests ----

void a_character_comes_out_whole_with_its_last_byte() {
  const Tokenizer tokenizer = make_tokenizer();
  CHECK(stream(tokenizer, byte_ids("\xE6\xB0\xB4")) == "?|?|\xE6\xB0\xB4|");
  CHECK(stream(tokenizer, byte_ids("a\xF0\x9F\x98\x80z")) == "a|?|?|?|\xF0\x9F\x98\x80|z|");
}

void broken_bytes_become_one_replacement_for_each_broken_character() {
  const Tokenizer tokenizer = make_tokenizer();
  CHECK(stream(tokenizer, byte_ids("\xE6z")) == "?|\xEF\xBF\xBDz|");
  CHECK(stream(tokenizer, byte_ids("\x80")) == "\xEF\xBF\xBD|");
  CHECK(stream(tokenizer, byte_ids("\xE6\xB0")) == "?|?|\xEF\xBF\xBD");
  CHECK(stream(tokenizer, byte_ids("\xE6\xE6\xB0\xB4")) == "?|\xEF\xBF\xBD?|?|\xE6\xB0\xB4|");
}

void a_stream_keeps_its_leading_space() {
  const Tokenizer tokenizer = make_tokenizer();
  CHECK(stream(tokenizer, {kWord, kWord}) == " the| the|");
}

void special_tokens_are_text_or_left_out() {
  const Tokenizer tokenizer = make_tokenizer();
  CHECK(stream(tokenizer, {kSpecial, kWord}) == "<s>| the|");
  CHECK(stream(tokenizer, {kSpecial, kWord}, true) == "| the|");
  // One that is left out does not tear a character apart.
  CHECK(stream(tokenizer, {kByte + 0xC3, kSpecial, kByte + 0xA9}, true) == "?|?|\xC3\xA9|");
}

void ids_outside_the_table_have_no_text() {
  const Tokenizer tokenizer = make_tokenizer();
  CHECK(stream(tokenizer, {-1, tokenizer.vocab_size(), INT32_MAX, INT32_MIN}) == "||||");
  CHECK(tokenizer.bytes_of(-1).empty());
  CHECK(!tokenizer.is_special(tokenizer.vocab_size()));
}

// Any bytes in any order: what comes out is what decoding them at once by the usual rule gives, and it is never broken.
void random_bytes_come_out_as_if_decoded_at_once() {
  const Tokenizer tokenizer = make_tokenizer();
  uint64_t state = 1;
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    const int length = round % 13;
    for (int i = 0; i < length; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const char* const leads = "\xC3\xE2\xE0\xED\xF0\xF4\x80\x9F\xA0\xBF\x90\x41\xFF\xC0\x8F\x20";
      bytes.push_back(state >> 63 ? leads[state >> 40 & 15] : static_cast<char>(state >> 50));
    }
    StreamDecoder decoder(tokenizer, false);
    std::string pieces, at_once;
    for (const int32_t id : byte_ids(bytes)) {
      const std::string piece = decoder.push(id);
      CHECK(rkllm::valid_utf8(piece));
      pieces += piece;
    }
    rkllm::append_repaired(bytes, &at_once);
    CHECK(pieces + decoder.finish() == at_once);
    CHECK(!decoder.pending());
  }
}

}  // namespace

int main() {
  a_character_comes_out_whole_with_its_last_byte();
  broken_bytes_become_one_replacement_for_each_broken_character();
  a_stream_keeps_its_leading_space();
  special_tokens_are_text_or_left_out();
  ids_outside_the_table_have_no_text();
  random_bytes_come_out_as_if_decoded_at_once();
  return check::result();
}
