// SPDX-License-Identifier: Apache-2.0
// The kernel table of this process, filled once.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace rkllm {

// Names of the instruction sets that are compiled in and supported here, weakest first.
const std::vector<const char*>& isas();

// The table as it is with one of isas() as the strongest.
Kernels kernels_of(const char* isa);

struct ActiveKernels {
  Kernels table;
  const char* isa;    // nullptr when RKLLM_EXT_ISA is wrong
  std::string error;  // why
};

// The strongest instruction set, or the one that RKLLM_EXT_ISA names. Decided at the first call.
const ActiveKernels& active_kernels();

// The table; throws Error(INVALID_ARGUMENT) when RKLLM_EXT_ISA is wrong.
const Kernels& kernels();

}  // namespace rkllm
