// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, measured: the limits that speeds are held against.
#pragma once

#include "kernels/dispatch.h"

namespace rkllm {

struct Limits {
  double read_gbs;      // memory read in order, 10^9 bytes per second, all threads together
  double integer_gops;  // 8-bit multiplications and additions as the kernels do them, 10^9 per second, by all
                        // threads
  double float_gflops;  // the same of 32-bit floats
};

// The best of several short tries; about a quarter of a second, and memory of 256 MB for that time.
// Throws Error(OUT_OF_MEMORY).
Limits measure_limits(int n_threads, const Kernels& kernels);

}  // namespace rkllm
