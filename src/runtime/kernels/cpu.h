// SPDX-License-Identifier: Apache-2.0
// Which instruction sets this processor (and its operating system) runs.
#pragma once

#include <cstdint>

namespace rkllm {

enum : uint32_t {
  CPU_AVX2 = 1,         // AVX2, FMA and F16C
  CPU_AVX512_VNNI = 2,  // AVX-512 F, BW, VL, DQ and VNNI, besides CPU_AVX2
  CPU_DOTPROD = 4,      // arm64 dot product
  CPU_AVX_VNNI = 8,     // the VEX-encoded VNNI, besides CPU_AVX2
  CPU_I8MM = 16,        // arm64 products of 8-bit matrices, besides CPU_DOTPROD
};

uint32_t cpu_features();

}  // namespace rkllm
