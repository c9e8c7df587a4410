// SPDX-License-Identifier: Apache-2.0
#include "checksum.h"

#include <cstring>

namespace rkllm {
namespace {

constexpr uint64_t kPrime = 0x9E3779B97F4A7C15u;

uint64_t mix(uint64_t h, uint64_t word) {
  h = (h ^ word) * kPrime;
  return (h << 29) | (h >> 35);
}

}  // namespace

uint64_t checksum(const void* data, uint64_t n) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint64_t a[8] = {}, b[8] = {}, row[8];
  auto add = [&] {
    for (int i = 0; i < 8; i++) {
      a[i] += row[i];
      b[i] += a[i];
    }
  };
  uint64_t at = 0;
  for (; n - at >= sizeof row; at += sizeof row) {
    memcpy(row, bytes + at, sizeof row);
    add();
  }
  if (at < n) {
    memset(row, 0, sizeof row);
    memcpy(row, bytes + at, n - at);
    add();
  }
  uint64_t h = n;
  for (int i = 0; i < 8; i++) h = mix(mix(h, a[i]), b[i]);
  return h;
}

}  // namespace rkllm
