// SPDX-License-Identifier: Apache-2.0
// From the tokenizer keys of a file to a token table. The file is not trusted: each id, size and string is checked
// here, so that nothing behind this file has to.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>
#include <utility>

#include "error.h"
#include "table.h"
#include "unicode.h"

namespace rkllm {
namespace {

// Token types of the GGUF convention.
enum Type : int64_t { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5, BYTE = 6 };

constexpr size_t kMaxTokens = 1 << 24;
constexpr size_t kMaxAddedLength = 4096;

template <class Enum>
struct Name {
  const char* text;
  Enum value;
};
constexpr Name<Model> kModels[] = {{"byte_bpe", Model::BYTE_BPE},
                                   {"byte_score_bpe", Model::BYTE_SCORE_BPE},
                                   {"rank_bpe", Model::RANK_BPE},
                                   {"score_bpe", Model::SCORE_BPE},
                                   {"unigram", Model::UNIGRAM}};
constexpr Name<Normalizer> kNormalizers[] = {{"none", Normalizer::NONE},
                                             {"nfc", Normalizer::NFC},
                                             {"mark", Normalizer::MARK},
                                             {"mark_prepend", Normalizer::MARK_PREPEND},
                                             {"mark_first", Normalizer::MARK_FIRST}};
constexpr Name<Split> kSplits[] = {{"none", Split::NONE},
                                   {"gpt2", Split::GPT2},
                                   {"digits_gpt2", Split::DIGITS_GPT2},
                                   {"llama3", Split::LLAMA3},
                                   {"qwen2", Split::QWEN2}};

struct Loader {
  const Container& file;
  TokenTable& table;
  std::vector<std::string_view> texts;  // as spelled in the file
  std::vector<int64_t> types;
  std::vector<uint8_t> own;  // 1: a token of the model's vocabulary, 0: an added one only, or unused

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::MODEL_FILE, file.path() + ": " + what);
  }

  template <class Enum, size_t n>
  Enum choice(const char* key, const Name<Enum> (&names)[n]) const {
    const std::string_view text = file.get_string(key);
    for (const Name<Enum>& name : names) {
      if (text == name.text) return name.value;
    }
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                format("%s: %s is '%.*s', which this version does not know; convert the model again or use a newer "
                       "runtime",
                       file.path().c_str(), key, static_cast<int>(std::min<size_t>(text.size(), 40)), text.data()));
  }

  bool flag(const char* key, bool absent) const { return file.find_value(key) ? file.get_bool(key) : absent; }

  int32_t optional_id(const char* key) const {
    if (!file.find_value(key)) return -1;
    const int64_t id = file.get_int(key);
    if (id < 0 || id >= table.size()) {
      fail(format("%s is %lld, the vocabulary has %d tokens", key, static_cast<long long>(id), table.size()));
    }
    return static_cast<int32_t>(id);
  }

  void load_kinds();
  void load_texts();
  std::string pattern_of(const AddedToken& token) const;
  void load_added();
  void load_added_token(int64_t id, int64_t flags);
  void load_whole();
  void load_whole_token(int64_t id, std::string_view text);
  void sort_added();
  void decode_texts();
  void decode_text(int32_t id);
  void index_texts();
  void load_merges();
  void load_scores();
  void prepare_unigram(const std::vector<float>& scores);
  void load_prefix();
  bool joins_over_space() const;
};

void Loader::load_kinds() {
  const int64_t version = file.get_int("rkllm.version");
  if (version != 1) {
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                format("%s: rkllm.version is %lld, this runtime reads 1; use a newer runtime", file.path().c_str(),
                       static_cast<long long>(version)));
  }
  table.model = choice("rkllm.tokenizer.model", kModels);
  table.normalizer = choice("rkllm.tokenizer.normalizer", kNormalizers);
  table.split = choice("rkllm.tokenizer.split", kSplits);
  const bool by_bytes = is_byte_level(table.model);
  const bool marks = table.normalizer >= Normalizer::MARK;
  if (by_bytes == marks || by_bytes == (table.split == Split::NONE)) {
    throw Error(ErrorCode::UNSUPPORTED_MODEL,
                file.path() + ": rkllm.tokenizer.model, normalizer and split do not go together in this version");
  }
  table.ignore_merges = flag("rkllm.tokenizer.ignore_merges", false);
  table.fuse_unknown = flag("rkllm.tokenizer.fuse_unknown", false);
  table.strip_space = flag("rkllm.tokenizer.strip_space", false);
  table.clean_up = flag("rkllm.tokenizer.clean_up", false);
  table.space_special = flag("rkllm.tokenizer.space_special", false);
  table.add_bos = flag("tokenizer.ggml.add_bos_token", false);
}

void Loader::load_texts() {
  texts = file.get_strings("tokenizer.ggml.tokens");
  types = file.get_ints("tokenizer.ggml.token_type");
  if (texts.empty() || texts.size() > kMaxTokens) {
    fail(format("tokenizer.ggml.tokens has %zu tokens, 1 to %zu can be used", texts.size(), kMaxTokens));
  }
  if (types.size() != texts.size()) {
    fail(format("tokenizer.ggml.token_type has %zu elements for %zu tokens", types.size(), texts.size()));
  }
  own.resize(texts.size());
  for (size_t id = 0; id < texts.size(); ++id) {
    if (types[id] < NORMAL || types[id] > BYTE) {
      fail(format("token %zu has type %lld, 1 to 6 exist", id, static_cast<long long>(types[id])));
    }
    if (!valid_utf8(texts[id])) fail(format("token %zu is not UTF-8", id));
    own[id] = (types[id] == NORMAL || types[id] == USER_DEFINED) && !texts[id].empty();
  }
}

// Return what is to be looked for: normalized tokens go through the normalizer, as the text does.
std::string Loader::pattern_of(const AddedToken& token) const {
  std::string pattern;
  if (!(token.flags & AddedToken::NORMALIZED)) return token.spelling;
  switch (table.normalizer) {
    case Normalizer::NONE:
    case Normalizer::MARK_FIRST: return token.spelling;  // marks come after the search
    case Normalizer::NFC: append_nfc(token.spelling, &pattern); break;
    case Normalizer::MARK_PREPEND: pattern = " "; append_unmarked(token.spelling, &pattern); break;
    case Normalizer::MARK: append_unmarked(token.spelling, &pattern); break;
  }
  return pattern;
}

void Loader::load_added_token(int64_t id, int64_t flags) {
  const long long shown = id;
  if (id < 0 || id >= static_cast<int64_t>(texts.size())) {
    fail(format("added token %lld is outside the vocabulary of %zu", shown, texts.size()));
  }
  if (flags < 0 || flags > AddedToken::kAllFlags) {
    fail(format("added token %lld has unknown flags %lld", shown, static_cast<long long>(flags)));
  }
  const std::string_view text = texts[id];
  if (text.empty() || text.size() > kMaxAddedLength) {
    fail(format("added token %lld has %zu bytes, 1 to %zu can be used", shown, text.size(), kMaxAddedLength));
  }
  AddedToken token{static_cast<int32_t>(id), static_cast<uint32_t>(flags), std::string(text), {}};
  token.text = pattern_of(token);
  own[id] = (flags & AddedToken::IN_MODEL) != 0;
  if (flags & AddedToken::SPECIAL) types[id] = CONTROL;
  (flags & AddedToken::NORMALIZED ? table.added_normalized : table.added).add(std::move(token));
}

void Loader::load_added() {
  if (!file.find_value("rkllm.tokenizer.added_ids")) return;
  const std::vector<int64_t> ids = file.get_ints("rkllm.tokenizer.added_ids");
  const std::vector<int64_t> flags = file.get_ints("rkllm.tokenizer.added_flags");
  if (ids.size() != flags.size()) {
    fail(format("rkllm.tokenizer.added_flags has %zu elements for %zu added tokens", flags.size(), ids.size()));
  }
  for (size_t i = 0; i < ids.size(); ++i) load_added_token(ids[i], flags[i]);
}

void Loader::load_whole_token(int64_t id, std::string_view text) {
  if (text.empty() || text.size() > kMaxAddedLength || !valid_utf8(text)) {
    fail(format("user-defined token %lld has %zu bytes, 1 to %zu of UTF-8 can be used", static_cast<long long>(id),
                text.size(), kMaxAddedLength));
  }
  AddedToken token{static_cast<int32_t>(id), 0, std::string(text), {}};
  append_unmarked(text, &token.text);
  table.whole.add(std::move(token));
}

// User-defined tokens that are no added ones, and what renamed ones are spelled in a text.
void Loader::load_whole() {
  if (table.model != Model::SCORE_BPE) return;
  for (size_t id = 0; id < texts.size(); ++id) {
    if (types[id] != USER_DEFINED || !own[id]) continue;
    // A token spelled with a real space is out of reach: every space of a text is a mark by then.
    if (texts[id].find(' ') == std::string_view::npos) load_whole_token(static_cast<int64_t>(id), texts[id]);
    own[id] = 0;
  }
  if (!file.find_value("rkllm.tokenizer.alias_ids")) return;
  const std::vector<int64_t> ids = file.get_ints("rkllm.tokenizer.alias_ids");
  const std::vector<std::string_view> spellings = file.get_strings("rkllm.tokenizer.alias_texts");
  if (ids.size() != spellings.size()) {
    fail(format("rkllm.tokenizer.alias_texts has %zu elements for %zu tokens", spellings.size(), ids.size()));
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= static_cast<int64_t>(texts.size())) {
      fail(format("renamed token %lld is outside the vocabulary of %zu", static_cast<long long>(ids[i]), texts.size()));
    }
    load_whole_token(ids[i], spellings[i]);
  }
}

void Loader::sort_added() {
  for (AddedSet* set : {&table.added, &table.added_normalized, &table.whole}) {
    set->sort();
    const std::vector<AddedToken>& tokens = set->tokens();
    for (size_t i = 1; i < tokens.size(); ++i) {
      if (tokens[i].text == tokens[i - 1].text) {
        fail(format("added tokens %d and %d have the same text", tokens[i - 1].id, tokens[i].id));
      }
    }
  }
}

void Loader::decode_text(int32_t id) {
  const size_t start = table.arena.size();
  if (types[id] == BYTE) {
    const int byte = byte_of_token(texts[id]);
    if (byte < 0) fail(format("byte token %d is '%.40s', not of the form <0x0A>", id, std::string(texts[id]).c_str()));
    table.arena.push_back(static_cast<char>(byte));
    if (table.byte_ids[byte] >= 0) fail(format("tokens %d and %d are both byte %d", table.byte_ids[byte], id, byte));
    table.byte_ids[byte] = id;
    table.flags[id] |= TokenTable::BYTE;
  } else if (!is_byte_level(table.model)) {
    append_unmarked(texts[id], &table.arena);
    // A token spelled with a real space is out of reach: every space of a text is a mark by then.
    if (texts[id].find(' ') != std::string_view::npos) own[id] = 0;
  } else if (!append_unmapped(texts[id], &table.arena)) {
    table.arena.append(texts[id]);
    if (own[id]) table.unindexed.push_back(id);
    own[id] = 0;
  }
  if (types[id] == CONTROL) table.flags[id] |= TokenTable::SPECIAL;
  table.bytes[id] = std::string_view(table.arena).substr(start);
}

void Loader::decode_texts() {
  size_t total = 0;
  for (const std::string_view text : texts) total += text.size();
  table.arena.reserve(total);  // decoding never lengthens a text: the views stay valid
  table.bytes.resize(texts.size());
  table.flags.resize(texts.size());
  std::fill(std::begin(table.byte_ids), std::end(table.byte_ids), -1);
  for (size_t id = 0; id < texts.size(); ++id) decode_text(static_cast<int32_t>(id));
  if (is_byte_level(table.model) &&
      std::any_of(types.begin(), types.end(), [](int64_t type) { return type == BYTE; })) {
    fail("byte tokens like <0x0A> do not belong into a byte-level vocabulary");
  }
}

void Loader::index_texts() {
  table.index.reserve(texts.size());
  for (size_t id = 0; id < texts.size(); ++id) {
    const std::string_view bytes = table.bytes[id];
    if (!own[id]) continue;
    const int32_t other = table.index.insert(bytes, static_cast<int32_t>(id), table.bytes);
    if (other >= 0) fail(format("tokens %d and %zu are the same", other, id));
    table.longest = std::max(table.longest, bytes.size());
    if (is_byte_level(table.model) && bytes.size() == 1) {
      table.byte_ids[static_cast<uint8_t>(bytes[0])] = static_cast<int32_t>(id);
    }
  }
}

void Loader::load_merges() {
  std::vector<int64_t> pairs;
  if (file.find_value("rkllm.tokenizer.merges")) pairs = file.get_ints("rkllm.tokenizer.merges");
  if (pairs.size() % 2 != 0) fail(format("rkllm.tokenizer.merges has %zu elements, not pairs", pairs.size()));
  table.merges.reserve(pairs.size() / 2);
  table.merged.assign(pairs.size() / 2, -1);
  std::string joined;
  for (size_t rank = 0; rank < pairs.size() / 2; ++rank) {
    const int64_t left = pairs[2 * rank], right = pairs[2 * rank + 1];
    if (left < 0 || left >= table.size() || right < 0 || right >= table.size()) {
      fail(format("merge %zu joins tokens %lld and %lld of a vocabulary of %d", rank, static_cast<long long>(left),
                  static_cast<long long>(right), table.size()));
    }
    if (!own[left] || !own[right]) continue;  // no text leads to such a token
    joined.assign(table.bytes[left]).append(table.bytes[right]);
    table.merged[rank] = table.find(joined);
    if (table.merged[rank] < 0) {
      fail(format("merge %zu joins tokens %lld and %lld to one that the vocabulary lacks", rank,
                  static_cast<long long>(left), static_cast<long long>(right)));
    }
    table.merges.set(static_cast<int32_t>(left), static_cast<int32_t>(right), static_cast<uint32_t>(rank));
  }
}

// Turn scores, of which the greatest merges first, into unsigned numbers in the opposite order.
void Loader::load_scores() {
  const std::vector<float> scores = file.get_floats("tokenizer.ggml.scores");
  if (scores.size() != texts.size()) {
    fail(format("tokenizer.ggml.scores has %zu elements for %zu tokens", scores.size(), texts.size()));
  }
  table.order.resize(scores.size());
  for (size_t id = 0; id < scores.size(); ++id) {
    if (std::isnan(scores[id])) fail(format("token %zu has no number as its score", id));
    const float score = scores[id] + 0.0f;  // -0 becomes 0
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof bits);
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    table.order[id] = ~ascending;
  }
  if (table.model == Model::UNIGRAM) prepare_unigram(scores);
}

// A character without a token costs 10 more than the worst token.
void Loader::prepare_unigram(const std::vector<float>& scores) {
  float worst = 0;
  for (size_t id = 0; id < texts.size(); ++id) {
    if (!own[id]) continue;
    if (!std::isfinite(scores[id])) fail(format("token %zu has no finite number as its score", id));
    worst = table.sorted.empty() ? scores[id] : std::min(worst, scores[id]);
    table.sorted.push_back(static_cast<int32_t>(id));
  }
  table.unknown_score = worst - 10.0f;
  table.scores = scores;
  std::sort(table.sorted.begin(), table.sorted.end(),
            [this](int32_t a, int32_t b) { return table.bytes[a] < table.bytes[b]; });
}

void Loader::load_prefix() {
  table.bos = optional_id("tokenizer.ggml.bos_token_id");
  if (table.bos >= 0) table.prefix = {table.bos};
  if (file.find_value("rkllm.tokenizer.prefix_ids")) {
    table.prefix.clear();
    for (const int64_t id : file.get_ints("rkllm.tokenizer.prefix_ids")) {
      if (id < 0 || id >= table.size()) {
        fail(format("rkllm.tokenizer.prefix_ids has %lld, the vocabulary has %d tokens", static_cast<long long>(id),
                    table.size()));
      }
      table.prefix.push_back(static_cast<int32_t>(id));
    }
  }
  table.add_bos = table.add_bos && !table.prefix.empty();
}

// Whether some token holds a space behind something else ("a b").
bool Loader::joins_over_space() const {
  for (size_t id = 0; id < texts.size(); ++id) {
    const size_t word = table.bytes[id].find_first_not_of(' ');
    if (own[id] && word != std::string_view::npos && table.bytes[id].find(' ', word) != std::string_view::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace

void load(const Container& file, TokenTable* table) {
  Loader loader{file, *table, {}, {}, {}};
  loader.load_kinds();
  loader.load_texts();
  loader.load_added();
  loader.load_whole();
  loader.sort_added();
  loader.decode_texts();
  loader.index_texts();
  if (table->model == Model::BYTE_BPE || table->model == Model::RANK_BPE) {
    loader.load_merges();
  } else {
    loader.load_scores();
  }
  loader.load_prefix();
  table->unknown = loader.optional_id("tokenizer.ggml.unknown_token_id");
  table->words_end_at_spaces =
      !is_byte_level(table->model) && table->find(" ") >= 0 && !loader.joins_over_space();
}

}  // namespace rkllm
