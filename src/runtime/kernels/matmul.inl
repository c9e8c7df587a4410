// SPDX-License-Identifier: Apache-2.0
// Matrix products, written once over the vector types that ops.inl describes: float weights, then integer ones.

constexpr int at_most(int a, int b) { return a < b ? a : b; }

inline F bias_of(const MatmulTask& task, int tile) { return task.bias ? load(task.bias + 16 * tile) : splat(0.0f); }

struct Fp32 {
  static constexpr int kBytes = 4;
  static F weights(const uint8_t* p) { return load(reinterpret_cast<const float*>(p)); }
};

struct Fp16 {
  static constexpr int kBytes = 2;
  static F weights(const uint8_t* p) { return load_half(reinterpret_cast<const uint16_t*>(p)); }
};

// Bytes of a KV cache, whose scales are the caller's to apply.
struct Signed8 {
  static constexpr int kBytes = 1;
  static F weights(const uint8_t* p) { return load_s8(reinterpret_cast<const int8_t*>(p)); }
};

// The sums of T tokens with one tile: a list, for compilers keep the elements of arrays in registers less often.
template <int T>
struct Sums {
  F first = splat(0.0f);
  Sums<T - 1> rest;

  void step(F weight, const float* x, int64_t stride) {
    first = fma(weight, splat(*x), first);
    rest.step(weight, x + stride, stride);
  }
  void put(F bias, float* y, int64_t stride) const {
    store(y, add(first, bias));
    rest.put(bias, y + stride, stride);
  }
};
template <>
struct Sums<0> {
  void step(F, const float*, int64_t) {}
  void put(F, float*, int64_t) const {}
};

template <class Weights, int T, int R, bool Ahead>
void float_block(const MatmulTask& task, int token, int tile) {
  Sums<T> sums[R];
  const uint8_t* w = task.codes + tile * task.code_stride;
  const float* x = task.x + token * task.x_stride;
  for (int k = 0; k < task.k; k++) {
    for (int r = 0; r < R; r++) {
      const uint8_t* at = w + r * task.code_stride + int64_t(k) * 16 * Weights::kBytes;
      if (Ahead) __builtin_prefetch(at + task.ahead);
      sums[r].step(Weights::weights(at), x + k, task.x_stride);
    }
  }
  for (int r = 0; r < R; r++)
    sums[r].put(bias_of(task, tile + r), task.y + token * task.y_stride + 16 * (tile + r), task.y_stride);
}

// Weights are asked for in advance once, by the first tokens.
template <class Weights, int T, int R>
void float_tokens(const MatmulTask& task, int token, int tile) {
  if (task.ahead && token == 0) float_block<Weights, T, R, true>(task, token, tile);
  else float_block<Weights, T, R, false>(task, token, tile);
}

// Integer weights. Bits is 4 or 8, Bytes 1 (8-bit activations) or 2 (16-bit ones).
// Columns in one go; the padded count and every group are multiples of 32.
template <int Bits>
constexpr int kStep = Bits == 4 ? kStepU4 : 32;

// The products of four columns of T tokens and R tiles; x: the eight columns among which they are word number Word.
template <int Bits, int Word, class Sum, int T, int R>
inline void dots(Sum (&sums)[T][R], const C (&w)[R], const int8_t* x, int64_t stride) {
#ifndef __clang__
#pragma GCC unroll 16  // what is unrolled later stays in memory, for GCC 10
#endif
  for (int t = 0; t < T; t++) {
    const auto four = four_of<Word>(x + t * stride);
    for (int r = 0; r < R; r++) {
      if constexpr (Bits == 4) sums[t][r] = dot_u4(sums[t][r], w[r], four);
      else sums[t][r] = dot_s8(sums[t][r], w[r], four);
    }
  }
}

template <int Bits, int Bytes, int T, int R>
struct GroupSum {
  I hi[T][R], lo[Bytes == 2 ? T : 1][R];

  // Start at minus the offset that the stored codes carry, times the sum of the activations.
  void start(const MatmulTask& task, int token, int group, int n_groups) {
    constexpr int offset = Bits == 4 ? 8 : kSignedOffset;
    for (int t = 0; t < T; t++) {
      const I begin = isplat(offset / 8 * task.offsets[int64_t(token + t) * n_groups + group]);
      for (int r = 0; r < R; r++) {
        hi[t][r] = Bytes == 2 ? isplat(0) : begin;
        if (Bytes == 2) lo[t][r] = begin;
      }
    }
  }

  // Add the products of kStep<Bits> columns; w: their codes, tiles code_stride apart, ahead: what to ask memory for.
  void add(const uint8_t* w, const uint8_t* ahead, int64_t code_stride, const int8_t* x_hi, const int8_t* x_lo,
           int64_t stride) {
    if constexpr (Bits == 8) {
      for (int at = 0; at < kStep<Bits>; at += 8, w += 128, ahead += 128) {
        products_s8<0>(w, ahead, code_stride, x_hi + at, x_lo + at, stride);
        products_s8<1>(w + 64, ahead + 64, code_stride, x_hi + at, x_lo + at, stride);
      }
    } else if constexpr (!kNarrow) {
      products_u4(hi, lo, w, ahead, code_stride, x_hi, x_lo, stride);
    } else {
      S hi_steps[T][R], lo_steps[Bytes == 2 ? T : 1][R];
      for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++) {
          hi_steps[t][r] = sbegin(hi[t][r]);
          if (Bytes == 2) lo_steps[t][r] = sbegin(lo[t][r]);
        }
      products_u4(hi_steps, lo_steps, w, ahead, code_stride, x_hi, x_lo, stride);
      for (int t = 0; t < T; t++)
        for (int r = 0; r < R; r++) {
          hi[t][r] = send(hi[t][r], hi_steps[t][r]);
          if (Bytes == 2) lo[t][r] = send(lo[t][r], lo_steps[t][r]);
        }
    }
  }

  // Four columns, which are word number Word of the eight of x.
  template <int Word>
  void products_s8(const uint8_t* w, const uint8_t* ahead, int64_t code_stride, const int8_t* x_hi, const int8_t* x_lo,
                   int64_t stride) {
    C codes[R];
    for (int r = 0; r < R; r++) {
      __builtin_prefetch(ahead + r * code_stride);
      codes[r] = prepare_s8(cload(w + r * code_stride));
    }
    dots<8, Word>(hi, codes, x_hi, stride);
    if constexpr (Bytes == 2) dots<8, Word>(lo, codes, x_lo, stride);
  }

  template <class Sum, int LowT>
  static void products_u4(Sum (&hi)[T][R], Sum (&lo)[LowT][R], const uint8_t* w, const uint8_t* ahead,
                          int64_t code_stride, const int8_t* x_hi, const int8_t* x_lo, int64_t stride) {
    for (int at = 0; at < kStep<Bits>; at += 8, w += 64, ahead += 64) {
      C lows[R], highs[R];
      for (int r = 0; r < R; r++) {
        __builtin_prefetch(ahead + r * code_stride);
        const C pair = cload(w + r * code_stride);
        lows[r] = low(pair);
        highs[r] = high(pair);
      }
      dots<4, 0>(hi, lows, x_hi + at, stride);
      if (Bytes == 2) dots<4, 0>(lo, lows, x_lo + at, stride);
      dots<4, 1>(hi, highs, x_hi + at, stride);
      if (Bytes == 2) dots<4, 1>(lo, highs, x_lo + at, stride);
    }
  }

  // The sums of 16-bit values fit 32 bits: 128 * 127 * 512 * 257 does.
  F value(int t, int r) const {
    return to_float(Bytes == 2 ? iadd(shift_left_8(hi[t][r]), lo[t][r]) : hi[t][r]);
  }
};

// Bytes of codes between what is read and what memory is asked for: what arrives in the time that memory takes to
// answer. Where arithmetic counts more than memory, each of several tiles has less of it.
constexpr int kAhead = 12288;
template <int Bits, int Bytes, int R>
constexpr int kFar = R == 1 ? kAhead : Bits == 8 && Bytes == 2 ? 8192 : 4096;

template <int Bits, int Bytes, int T, int R>
void integer_block(const MatmulTask& task, int token, int tile) {
  const int n_groups = (task.k + task.group - 1) / task.group;
  F acc[T][R];
  for (int t = 0; t < T; t++)
    for (int r = 0; r < R; r++) acc[t][r] = splat(0.0f);
  const int8_t* x_hi = task.hi + int64_t(token) * task.k;
  const int8_t* x_lo = Bytes == 2 ? task.lo + int64_t(token) * task.k : x_hi;  // of one byte: moved along, never read
  const uint8_t* tile_end = task.codes + (tile + 1) * task.code_stride;
  const int far = token == 0 ? kFar<Bits, Bytes, R> : 0;  // later tokens find the codes in the cache
  const int groups_far = far / (task.group * 2 * Bits) + 1;
  for (int g = 0; g < n_groups; g++) {
    const int begin = g * task.group, end = at_most(begin + task.group, task.k);
    const uint8_t* w = task.codes + tile * task.code_stride + int64_t(begin) * 16 * Bits / 8;
    if (task.scale_per_group) {
      const uint8_t* ahead = task.scales + tile * task.scale_stride + 32 * (g + groups_far);
      if (g + groups_far >= n_groups) ahead += R * task.scale_stride - 32 * n_groups;
      for (int r = 0; r < R; r++) __builtin_prefetch(ahead + r * task.scale_stride);
    }
    GroupSum<Bits, Bytes, T, R> sums;
    sums.start(task, token, g, n_groups);
    for (int k = begin; k < end; k += kStep<Bits>, w += kStep<Bits> * Bits * 2) {
      const uint8_t* ahead = w + far;
      if (ahead >= tile_end) ahead += (R - 1) * task.code_stride;  // the block of tiles that comes next
      sums.add(w, ahead, task.code_stride, x_hi + k, x_lo + k, task.k);
    }
    for (int r = 0; r < R; r++) {
      const uint8_t* scales = task.scales + (tile + r) * task.scale_stride;
      for (int t = 0; t < T; t++) {
        F factor = splat(task.x_scales[int64_t(token + t) * n_groups + g]);
        if (task.scale_per_group) factor = mul(load_half(reinterpret_cast<const uint16_t*>(scales) + 16 * g), factor);
        acc[t][r] = fma(sums.value(t, r), factor, acc[t][r]);
      }
    }
  }
  float* y = task.y + token * task.y_stride + 16 * tile;
  for (int r = 0; r < R; r++) {
    const F bias = bias_of(task, tile + r);
    const float* scales = reinterpret_cast<const float*>(task.scales + (tile + r) * task.scale_stride);
    const F scale = task.scale_per_group ? splat(1.0f) : load(scales);
    for (int t = 0; t < T; t++) store(y + t * task.y_stride + 16 * r, add(mul(acc[t][r], scale), bias));
  }
}

// A block of n tokens, at most T.
template <template <int, int> class Block, int T, int R>
void block_of(int n, const MatmulTask& task, int token, int tile) {
  if constexpr (T > 1)
    if (n < T) return block_of<Block, T - 1, R>(n, task, token, tile);
  Block<T, R>::run(task, token, tile);
}

// Cover tokens x tiles with blocks of at most T x R, each computed by Block<T, R>::run. The first block waits for
// memory, so it is a large one; a single token at the end would cost as much as two.
template <template <int, int> class Block, int T, int R>
void tile_strip(const MatmulTask& task, int tile) {
  for (int token = 0, rest = task.n_tokens; rest > 0;) {
    const int n = rest == T + 1 && T > 2 ? T - 1 : at_most(rest, T);
    block_of<Block, T, R>(n, task, token, tile);
    token += n;
    rest -= n;
  }
}

template <template <int, int> class Block, int T, int R>
void cover(const MatmulTask& task, int tile_begin, int tile_end) {
  int tile = tile_begin;
  for (; tile + R <= tile_end; tile += R) tile_strip<Block, T, R>(task, tile);
  if (R > 2 && tile + 2 <= tile_end) tile_strip<Block, T, at_most(R, 2)>(task, tile), tile += 2;
  for (; tile < tile_end; tile++) tile_strip<Block, T, 1>(task, tile);
}

// Float weights: many tokens want their sums in registers, a few want several streams.
template <template <int, int> class Block>
void cover_float(const MatmulTask& task, int tile_begin, int tile_end) {
  if (task.n_tokens < kManyTokens) cover<Block, kTokens, kTiles>(task, tile_begin, tile_end);
  else cover<Block, kManyTokens, kManyTiles>(task, tile_begin, tile_end);
}

// Integer weights: one or two tokens wait for memory; one reads as many tiles side by side as memory likes best.
template <template <int, int> class Block, int T, int R, int Streams>
void cover_integer(const MatmulTask& task, int tile_begin, int tile_end) {
  if (task.n_tokens == 1) cover<Block, 1, Streams>(task, tile_begin, tile_end);
  else if (task.n_tokens == 2) cover<Block, at_most(T, 2), 1>(task, tile_begin, tile_end);
  else cover<Block, T, R>(task, tile_begin, tile_end);
}

template <int T, int R> struct BlockFp32 {
  static void run(const MatmulTask& task, int token, int tile) { float_tokens<Fp32, T, R>(task, token, tile); }
};
template <int T, int R> struct BlockFp16 {
  static void run(const MatmulTask& task, int token, int tile) { float_tokens<Fp16, T, R>(task, token, tile); }
};
template <int T, int R> struct BlockS8 {
  static void run(const MatmulTask& task, int token, int tile) { float_tokens<Signed8, T, R>(task, token, tile); }
};
template <int T, int R> struct BlockW8A8 {
  static void run(const MatmulTask& task, int token, int tile) { integer_block<8, 1, T, R>(task, token, tile); }
};
template <int T, int R> struct BlockW8A16 {
  static void run(const MatmulTask& task, int token, int tile) { integer_block<8, 2, T, R>(task, token, tile); }
};
template <int T, int R> struct BlockW4A8 {
  static void run(const MatmulTask& task, int token, int tile) { integer_block<4, 1, T, R>(task, token, tile); }
};
template <int T, int R> struct BlockW4A16 {
  static void run(const MatmulTask& task, int token, int tile) { integer_block<4, 2, T, R>(task, token, tile); }
};
