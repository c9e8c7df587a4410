// SPDX-License-Identifier: Apache-2.0
// arm64 with the dot-product extension: RK3588's Cortex-A76 and A55.
#include <arm_neon.h>
#include <stdint.h>

#include "kernels.h"

namespace rkllm {
namespace {

#include "neon.inl"
#include "dotprod.inl"
#include "ops.inl"

}  // namespace

void use_dotprod(Kernels& table) { fill_table(table); }

}  // namespace rkllm
