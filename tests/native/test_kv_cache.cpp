// SPDX-License-Identifier: Apache-2.0
// What is put into a KV cache is found where the matmul kernels look for it; copies and saved states are the same
// bytes.
#include "kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "tensor.h"

namespace {

using namespace rkllm;

constexpr int kLayers = 2, kHeads = 3, kKeyDim = 20, kValueDim = 36;  // neither is a multiple of sixteen
constexpr KvType kAll[] = {KvType::F16, KvType::F32, KvType::INT8};

struct Position {
  std::vector<float> key, value;
};

// The same for the same place, another spread at each position.
Position made(int layer, int head, int position) {
  std::mt19937 bits(unsigned(layer * 100000 + head * 10000 + position));
  Position made = {std::vector<float>(kKeyDim), std::vector<float>(kValueDim)};
  for (float& v : made.key) v = (1.0f + float(position % 7)) * std::normal_distribution<float>()(bits);
  for (float& v : made.value) v = 3.0f * std::normal_distribution<float>()(bits);
  return made;
}

void fill(KvCache& cache, int n) {
  for (int layer = 0; layer < kLayers; layer++)
    for (int head = 0; head < kHeads; head++)
      for (int p = 0; p < n; p++) {
        const Position one = made(layer, head, p);
        cache.put(layer, head, p, one.key.data(), one.value.data(), kernels());
      }
}

float stored(const KvCache& cache, const uint8_t* at, const float* scales, int position) {
  float value;
  uint16_t half[16] = {};
  float halves[16];
  switch (cache.type()) {
    case KvType::F32: memcpy(&value, at, 4); return value;
    case KvType::F16:
      memcpy(half, at, 2);
      kernels().from_half(half, halves, 16);
      return halves[0];
    default: return float(int8_t(*at)) * scales[position];
  }
}

float stored_key(const KvCache& cache, int layer, int head, int p, int d) {
  const uint8_t* tile = cache.keys(layer, head) + p / 16 * cache.key_stride();
  return stored(cache, tile + (d * 16 + p % 16) * cache.bytes_per_value(), cache.key_scales(layer, head), p);
}

float stored_value(const KvCache& cache, int layer, int head, int p, int d) {
  const uint8_t* tile = cache.values(layer, head) + d / 16 * cache.value_stride();
  return stored(cache, tile + (p * 16 + d % 16) * cache.bytes_per_value(), cache.value_scales(layer, head), p);
}

float largest(const std::vector<float>& x) {
  float most = 0.0f;
  for (float v : x) most = std::max(most, std::fabs(v));
  return most;
}

void values_are_found_within_the_precision_of_the_type(KvType type) {
  KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 100, type);
  fill(cache, 37);
  const auto close = [&](float got, float wanted, float most) {
    const float bound = type == KvType::F32 ? 0.0f : type == KvType::F16 ? std::fabs(wanted) / 2048 + 1e-7f
                                                                         : 0.5001f * most / 127;
    return std::fabs(got - wanted) <= bound;
  };
  for (int layer = 0; layer < kLayers; layer++)
    for (int head = 0; head < kHeads; head++)
      for (int p = 0; p < 37; p++) {
        const Position one = made(layer, head, p);
        for (int d = 0; d < kKeyDim; d++)
          CHECK(close(stored_key(cache, layer, head, p, d), one.key[size_t(d)], largest(one.key)));
        for (int d = 0; d < kValueDim; d++)
          CHECK(close(stored_value(cache, layer, head, p, d), one.value[size_t(d)], largest(one.value)));
      }
}

void nothing_stored_is_infinite_or_not_a_number(KvType type) {
  KvCache cache(1, 1, kKeyDim, kValueDim, 16, type);
  std::vector<float> wild(kValueDim, 1.0f);
  const float infinity = std::numeric_limits<float>::infinity();
  wild[0] = infinity, wild[1] = -infinity, wild[2] = std::numeric_limits<float>::quiet_NaN(), wild[3] = 1e38f;
  cache.put(0, 0, 5, wild.data(), wild.data(), kernels());
  for (int d = 0; d < kKeyDim; d++) CHECK(std::isfinite(stored_key(cache, 0, 0, 5, d)));
  for (int d = 0; d < kValueDim; d++) CHECK(std::isfinite(stored_value(cache, 0, 0, 5, d)));
  CHECK(stored_key(cache, 0, 0, 5, 0) > 65000.0f && stored_key(cache, 0, 0, 5, 1) < -65000.0f);
  for (float tiny : {0.0f, 1e-44f, 1e-37f}) {
    const std::vector<float> all(kValueDim, tiny);
    cache.put(0, 0, 6, all.data(), all.data(), kernels());
    for (int d = 0; d < kKeyDim; d++) CHECK(std::fabs(stored_key(cache, 0, 0, 6, d) - tiny) <= 1e-30f);
  }
}

std::vector<uint8_t> state(const KvCache& cache, int n) {
  const size_t layer = size_t(cache.state_bytes(n));
  std::vector<uint8_t> bytes(kLayers * layer + 1, 0xa5);
  for (int i = 0; i < kLayers; i++) cache.read_state(i, n, bytes.data() + size_t(i) * layer);
  CHECK(bytes.back() == 0xa5);  // not a byte more
  bytes.pop_back();
  return bytes;
}

void restore(KvCache& cache, int n_saved, int n, const std::vector<uint8_t>& saved) {
  for (int i = 0; i < kLayers; i++) {
    const uint8_t* layer = saved.data() + i * cache.state_bytes(n_saved);
    CHECK(cache.is_state(n_saved, layer));
    cache.write_state(i, n_saved, n, layer);
  }
}

void a_saved_state_comes_back_into_a_cache_of_another_length(KvType type) {
  KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 100, type);
  fill(cache, 53);
  for (int n : {0, 1, 15, 16, 17, 53}) {
    const std::vector<uint8_t> saved = state(cache, n);
    KvCache other(kLayers, kHeads, kKeyDim, kValueDim, 53, type);
    restore(other, n, n, saved);
    CHECK(state(other, n) == saved);
    // What is put behind it finds its place: the cache is as if it had been filled position by position.
    KvCache whole(kLayers, kHeads, kKeyDim, kValueDim, 53, type);
    fill(whole, n);
    CHECK(state(other, 53) == state(whole, 53));
  }
}

void the_beginning_of_a_saved_state_comes_back(KvType type) {
  KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 100, type);
  fill(cache, 53);
  const std::vector<uint8_t> saved = state(cache, 53);
  for (int n : {0, 1, 15, 16, 17, 52}) {
    KvCache other(kLayers, kHeads, kKeyDim, kValueDim, 64, type);
    restore(other, 53, n, saved);
    KvCache whole(kLayers, kHeads, kKeyDim, kValueDim, 64, type);
    fill(whole, n);
    CHECK(state(other, 64) == state(whole, 64));
  }
}

void what_cannot_be_a_state_is_noticed() {
  const auto changed = [](KvType type, size_t at, std::vector<uint8_t> bytes) {
    KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 40, type);
    fill(cache, 21);
    std::vector<uint8_t> saved = state(cache, 21);
    CHECK(cache.is_state(21, saved.data()));
    std::copy(bytes.begin(), bytes.end(), saved.begin() + std::ptrdiff_t(at));
    return cache.is_state(21, saved.data());
  };
  const size_t codes = 21 * (kKeyDim + kValueDim), head = codes + 2 * 21 * sizeof(float);
  CHECK(!changed(KvType::F16, 10, {0x00, 0x7c}) && !changed(KvType::F16, 2 * codes - 2, {0x01, 0xfc}));
  CHECK(changed(KvType::F16, 10, {0xff, 0x7b}));
  CHECK(!changed(KvType::F32, 12, {0, 0, 0x80, 0x7f}) && !changed(KvType::F32, 4 * codes - 4, {1, 0, 0x80, 0xff}));
  CHECK(!changed(KvType::INT8, 5, {0x80}) && !changed(KvType::INT8, 2 * head + codes - 1, {0x80}));
  CHECK(!changed(KvType::INT8, codes, {0, 0, 0x80, 0x7f}) && !changed(KvType::INT8, head - 4, {0, 0, 0xc0, 0x7f}));
  CHECK(!changed(KvType::INT8, codes, {0, 0, 0x80, 0xbf}) && changed(KvType::INT8, codes, {0, 0, 0x80, 0x3f}));
}

// The documented order of the bytes, by hand, for floats.
void a_state_has_positions_one_after_the_other() {
  KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 40, KvType::F32);
  fill(cache, 21);
  std::vector<float> expected;
  for (int layer = 0; layer < kLayers; layer++)
    for (int head = 0; head < kHeads; head++) {
      for (int p = 0; p < 21; p++)
        for (float v : made(layer, head, p).key) expected.push_back(v);
      for (int p = 0; p < 21; p++)
        for (float v : made(layer, head, p).value) expected.push_back(v);
    }
  const std::vector<uint8_t> bytes = state(cache, 21);
  CHECK(bytes.size() == expected.size() * 4 && !memcmp(bytes.data(), expected.data(), bytes.size()));
}

void copied_positions_are_the_same_and_later_ones_are_not_shared(KvType type) {
  KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 100, type), copy(kLayers, kHeads, kKeyDim, kValueDim, 64, type);
  fill(cache, 60);
  for (int n : {0, 1, 16, 30, 60}) {
    copy.copy_positions(cache, n);
    CHECK(state(copy, n) == state(cache, n));
  }
  const std::vector<uint8_t> before = state(cache, 60);
  const Position one = made(0, 0, 1000);
  copy.put(0, 0, 59, one.key.data(), one.value.data(), kernels());
  CHECK(state(cache, 60) == before && state(copy, 60) != before);
}

void what_does_not_fit_is_refused() {
  KvCache cache(kLayers, kHeads, kKeyDim, kValueDim, 20, KvType::F16);
  KvCache longer(kLayers, kHeads, kKeyDim, kValueDim, 40, KvType::F16);
  KvCache floats(kLayers, kHeads, kKeyDim, kValueDim, 20, KvType::F32);
  KvCache wider(kLayers, kHeads, kKeyDim + 1, kValueDim, 20, KvType::F16);
  uint8_t byte = 0;
  CHECK(check::sentence_of([&] { cache.copy_positions(longer, 21); }) == "21 positions of a KV cache that holds 20");
  CHECK(check::sentence_of([&] { cache.read_state(0, 21, &byte); }) == "21 positions of a KV cache that holds 20");
  CHECK(check::sentence_of([&] { cache.write_state(0, 21, -1, &byte); }) == "-1 positions of a KV cache that holds 20");
  CHECK(!check::sentence_of([&] { cache.copy_positions(floats, 3); }).empty());
  CHECK(!check::sentence_of([&] { cache.copy_positions(wider, 3); }).empty());
}

void types_have_names() {
  for (KvType type : kAll) {
    KvType parsed = type == KvType::F16 ? KvType::F32 : KvType::F16;
    CHECK(parse_kv_type(kv_type_name(type), &parsed) && parsed == type);
  }
  KvType untouched = KvType::INT8;
  CHECK(!parse_kv_type("int4", &untouched) && !parse_kv_type("", &untouched) && untouched == KvType::INT8);
}

}  // namespace

int main() {
  for (KvType type : kAll) {
    values_are_found_within_the_precision_of_the_type(type);
    nothing_stored_is_infinite_or_not_a_number(type);
    a_saved_state_comes_back_into_a_cache_of_another_length(type);
    the_beginning_of_a_saved_state_comes_back(type);
    copied_positions_are_the_same_and_later_ones_are_not_shared(type);
  }
  a_state_has_positions_one_after_the_other();
  what_cannot_be_a_state_is_noticed();
  what_does_not_fit_is_refused();
  types_have_names();
  return check::result();
}
