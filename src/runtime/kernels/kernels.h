// SPDX-License-Identifier: Apache-2.0
// The kernel table and the plain structs its functions take. Scalar code is the definition; other instruction sets
// compute the same bits (docs/architecture.md, "The same bits everywhere").
// This header and what it includes must not define inline functions with external linkage: it is compiled with wide
// instruction-set flags.
#pragma once

#include <stdint.h>

namespace rkllm {

// y[t, n] = sum_k x[t, k] * w[n, k] + bias[n] for all tokens t and a range of 16-row tiles of w, laid out as in
// docs/format.md (a KV cache has the same layout, hence the strides).
struct MatmulTask {
  const uint8_t* codes;
  const uint8_t* scales;   // behind the codes; unused by float kernels
  int64_t code_stride;     // bytes from one tile of codes to the next
  int64_t scale_stride;    // bytes from one tile of scales to the next
  int64_t ahead;           // float kernels: bytes from what is read to what will be read soon; 0: leave that to the CPU
  int32_t k;               // columns; padded ones for integer kernels
  int32_t group;           // columns that share an activation scale, at most 512 of 16 bits; the last may be shorter
  int32_t scale_per_group; // 0: one f32 weight scale per row, 1: one f16 weight scale per row and group
  int32_t n_tokens;
  const float* bias;       // padded, or nullptr
  const float* x;          // float kernels: [n_tokens, x_stride]
  int64_t x_stride;
  const int8_t* hi;        // integer kernels: [n_tokens, k] the 8-bit value or the high byte of the 16-bit value
  const int8_t* lo;        // [n_tokens, k] the low, signed byte: value = 256 * hi + lo
  const float* x_scales;   // [n_tokens, n_groups]
  const int32_t* offsets;  // [n_tokens, n_groups] -8 times the sum of a group's values, for codes that carry an offset
  float* y;                // [n_tokens, y_stride], 16 floats written per tile
  int64_t y_stride;
};

// Where a quantized row of activations goes; all as in MatmulTask. lo only for 16 bits.
struct QuantizedRow {
  int32_t k_padded;
  int32_t group;
  int8_t* hi;
  int8_t* lo;
  float* scales;
  int32_t* offsets;
};

// Of weights 2^(exponent * (score - greatest)).
struct SoftmaxSum {
  float greatest;
  float sum;
};
constexpr SoftmaxSum kNoScores = {-3e38f, 0.0f};

// The scores of one query with a block of keys become weights of the values. Counts are from the start of the block.
struct SoftmaxTask {
  float* scores;
  int32_t begin, end;   // multiples of 16 around first and last: what does not count becomes 0
  int32_t first, last;  // what counts
  float scale, cap;     // score = cap * tanh(scale * score / cap), unless cap is 0
  float exponent;
  const float* key_scales;    // of bytes, else nullptr: factors of the scores ...
  const float* value_scales;  // ... and of the weights, once they are summed
};

struct Kernels {
#define KERNEL(type, name, parameters) type(*name) parameters;
#include "kernels.def"
#undef KERNEL
};

// One function per instruction set that is compiled in: overwrite the entries of the table it does better.
#define ISA(name, arch, flags, features) void use_##name(Kernels& table);
#include "isa.def"
#undef ISA

}  // namespace rkllm
