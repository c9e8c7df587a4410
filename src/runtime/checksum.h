// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace rkllm {

// The 64-bit checksum of docs/format.md over n bytes.
uint64_t checksum(const void* data, uint64_t n);

}  // namespace rkllm
