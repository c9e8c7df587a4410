// SPDX-License-Identifier: Apache-2.0
// The kernels, written once over the vector types of the including file, which defines in an anonymous namespace:
//   F 16 floats:  load store splat add sub mul div fma max min sum maximum to_int truncate load_half store_half
//                 load_s8,
//                 exponent(p, n) = p * 2^n
//   I 16 int32:   isplat iadd isub shift_left_8 shift_right_8 to_float, store_bytes of what fits a byte
//   C 64 bytes:   cload low high; prepare_s8, dot_s8(acc, w, four); kSignedOffset: what prepare_s8 adds;
//                 dot_u7(acc, w, x4) of codes below 128 and four bytes, which is measured as the peak
//   four          four_of<Word>(x): one word of the eight activations at x, as the dot functions want it
//   S             where kNarrow: sums of eight steps with 4-bit weights in narrower numbers: sbegin(acc),
//                 dot_u4(s, w, four), send(acc, s); elsewhere an I, which dot_u4 takes
//   register blocking: kTokens x kTiles and kManyTokens x kManyTiles of the float matmuls; kTokensA16,
//                 kTokensA8, kIntegerTiles, kStreams<bytes of an activation> of the others; kStepU4: 8, 16 or 32
//                 columns of 4-bit weights in one go; kPeakSums: sums that stay in registers
// The order of every float operation is part of the definition: one multiply-add per column in column order for float
// weights, one per group in group order for integer weights (integer sums inside a group are exact in any order),
// 16 lanes and a fixed tree for sums. Results therefore do not depend on the instruction set, on the blocking, or on
// what else is computed beside them.

#include "matmul.inl"
#include "probabilities.inl"

// ---- matrix products ------------------------------------------------------------------------------------------------

void matmul_fp32(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_float<BlockFp32>(task, tile_begin, tile_end);
}
void matmul_fp16(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_float<BlockFp16>(task, tile_begin, tile_end);
}
void matmul_s8(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_float<BlockS8>(task, tile_begin, tile_end);
}
void matmul_w8a8(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_integer<BlockW8A8, kTokensA8, kIntegerTiles, kStreams<1>>(task, tile_begin, tile_end);
}
void matmul_w8a16(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_integer<BlockW8A16, kTokensA16, kIntegerTiles, kStreams<2>>(task, tile_begin, tile_end);
}
void matmul_w4a8(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_integer<BlockW4A8, kTokensA8, kIntegerTiles, kStreams<1>>(task, tile_begin, tile_end);
}
void matmul_w4a16(const MatmulTask& task, int tile_begin, int tile_end) {
  cover_integer<BlockW4A16, kTokensA16, kIntegerTiles, kStreams<2>>(task, tile_begin, tile_end);
}

// ---- activations ----------------------------------------------------------------------------------------------------

// Largest magnitude of x[begin, end); end may cut a vector short, so the tail is read one by one.
inline float magnitude(const float* x, int begin, int end) {
  F most = splat(0.0f);
  int k = begin;
  for (; k + 16 <= end; k += 16) {
    const F v = load(x + k);
    most = max(most, max(v, sub(splat(0.0f), v)));
  }
  float result = maximum(most);
  for (; k < end; k++) {
    const float a = __builtin_fabsf(x[k]);
    if (a > result) result = a;
  }
  return result;
}

// x[k, k + 16) * factor rounded to nearest even; columns from k_end on are 0. What is not finite, in numbers of hostile
// models, ends within -top ... top like all others: sums of codes cannot overflow.
inline I rounded(const float* x, int k, int k_end, float factor, float top) {
  const F zero = splat(0.0f), least = splat(-top);
  const auto code = [&](F v) {
    return to_int(sub(zero, max(sub(zero, max(mul(v, splat(factor)), least)), least)));
  };
  if (k + 16 <= k_end) return code(load(x + k));
  float chunk[16];
  for (int i = 0; i < 16; i++) chunk[i] = k + i < k_end ? x[k + i] : 0.0f;
  return code(load(chunk));
}

template <int Bytes>
void quantize(const float* x, int k, const QuantizedRow& out) {
  constexpr float top = Bytes == 2 ? 32639.0f : 127.0f;  // 127 * 256 + 127: both bytes stay in -128 ... 127
  int g = 0;
  for (int begin = 0; begin < out.k_padded; begin += out.group, g++) {
    const int end = at_most(begin + out.group, out.k_padded);
    const float most = magnitude(x, begin, at_most(end, k));
    const float factor = most > 0.0f ? top / most : 0.0f;
    I sums = isplat(0);
    for (int at = begin; at < end; at += 16) {
      const I q = rounded(x, at, at_most(end, k), factor, top);
      sums = iadd(sums, q);
      if (Bytes == 1) {
        store_bytes(out.hi + at, q);
        continue;
      }
      const I hi = shift_right_8(iadd(q, isplat(128))), lo = isub(q, shift_left_8(hi));
      store_bytes(out.hi + at, hi);
      store_bytes(out.lo + at, lo);
    }
    out.scales[g] = most / top;
    // Exact: floats hold all integers up to 2^24, more than 32639 * 512 and 127 times the columns a model may have.
    out.offsets[g] = -8 * int32_t(sum(to_float(sums)));
  }
}

void quantize_a8(const float* x, int k, const QuantizedRow& out) { quantize<1>(x, k, out); }
void quantize_a16(const float* x, int k, const QuantizedRow& out) { quantize<2>(x, k, out); }

// ---- element by element ---------------------------------------------------------------------------------------------

// e^x for x <= 88, relative error below 2e-7; below -87 the result is about 1e-38. Cephes-style: e^x = 2^n * e^r.
inline F exponential(F x) {
  x = max(x, splat(-87.0f));
  const I n = to_int(mul(x, splat(1.44269504f)));
  const F nf = to_float(n);
  F r = fma(nf, splat(-0.693359375f), x);
  r = fma(nf, splat(2.12194440e-4f), r);
  F p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, splat(1.0f)));
  return exponent(p, n);
}

// Root-mean-square norm (arXiv:1910.07467): out = x / sqrt(mean(x^2) + eps) * weight, n columns, padded rows.
void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  F squares = splat(0.0f);
  for (int i = 0; i < n; i += 16) {
    const F v = load(x + i);
    squares = fma(v, v, squares);
  }
  const float scale = 1.0f / __builtin_sqrtf(sum(squares) / float(n) + eps);
  for (int i = 0; i < n; i += 16) store(out + i, mul(mul(load(x + i), splat(scale)), load(weight + i)));
}

// x - mean(x) of one chunk of n columns; what is beyond them is 0.
inline F centered(const float* x, float mean, int i, int n) {
  const F v = sub(load(x + i), splat(mean));
  if (i + 16 <= n) return v;
  float lanes[16];
  store(lanes, v);
  for (int j = n - i; j < 16; j++) lanes[j] = 0.0f;
  return load(lanes);
}

// Layer norm (arXiv:1607.06450): out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, n columns, padded rows.
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int n, float* out) {
  F total = splat(0.0f), squares = splat(0.0f);
  for (int i = 0; i < n; i += 16) total = add(total, load(x + i));
  const float mean = sum(total) / float(n);
  for (int i = 0; i < n; i += 16) {
    const F v = centered(x, mean, i, n);
    squares = fma(v, v, squares);
  }
  const F scale = splat(1.0f / __builtin_sqrtf(sum(squares) / float(n) + eps));
  for (int i = 0; i < n; i += 16)
    store(out + i, fma(mul(centered(x, mean, i, n), scale), load(weight + i), load(bias + i)));
}

void add(float* x, const float* y, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, add(load(x + i), load(y + i)));
}

// v / (1 + e^-u). The clamp keeps e^-u finite.
inline F times_sigmoid(F v, F u) {
  const F e = exponential(sub(splat(0.0f), max(u, splat(-88.0f))));
  return div(v, add(splat(1.0f), e));
}

// gate = silu(gate) * up with silu(v) = v / (1 + e^-v).
void silu_mul(float* gate, const float* up, int n) {
  for (int i = 0; i < n; i += 16) {
    const F v = load(gate + i);
    store(gate + i, mul(times_sigmoid(v, v), load(up + i)));
  }
}

// gate = gelu(gate) * up, without the factor where up is nullptr. The tanh form of GELU (arXiv:1606.08415), in which
// (1 + tanh u) / 2 = 1 / (1 + e^-2u) with u = sqrt(2 / pi) * (v + 0.044715 v^3).
void gelu_mul(float* gate, const float* up, int n) {
  for (int i = 0; i < n; i += 16) {
    const F v = load(gate + i);
    const F cubic = fma(mul(v, v), splat(0.044715f), splat(1.0f));
    const F g = times_sigmoid(v, mul(mul(v, splat(1.5957691216f)), cubic));
    store(gate + i, up ? mul(g, load(up + i)) : g);
  }
}

// x = cap * tanh(x * factor / cap), with tanh(y) = 1 - 2 / (e^2y + 1); beyond 15 it is +-1 in float.
void softcap(float* x, float factor, float cap, int n) {
  const F steep = splat(factor / cap), one = splat(1.0f), most = splat(15.0f), zero = splat(0.0f);
  for (int i = 0; i < n; i += 16) {
    const F y = max(mul(load(x + i), steep), sub(zero, most));
    const F clamped = sub(zero, max(sub(zero, y), sub(zero, most)));
    const F e = exponential(add(clamped, clamped));
    store(x + i, mul(sub(one, div(splat(2.0f), add(e, one))), splat(cap)));
  }
}

// Rotary embedding of one head, half-split order (arXiv:2104.09864): x[i], x[i + half] turn by angle i.
void rotate(float* x, const float* cosines, const float* sines, int half) {
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    x[i] = a * cosines[i] - b * sines[i];
    x[i + half] = b * cosines[i] + a * sines[i];
  }
}

// ---- softmax over blocks of keys ------------------------------------------------------------------------------------

// 2^x for x <= 0, relative error below 2e-7, exactly 1 at 0; below -126.5, and for what is not a number, exactly 0.
// The polynomial is the best one for 2^r, |r| <= 1/2, with a first term of 1.
inline F power_of_2(F x) {
  x = max(x, splat(-127.0f));  // whose power is the float of exponent 0, which is 0
  const I n = to_int(x);
  const F r = sub(x, to_float(n));
  F p = splat(1.326472731e-3f);
  p = fma(p, r, splat(9.671512991e-3f));
  p = fma(p, r, splat(5.550733581e-2f));
  p = fma(p, r, splat(2.402224243e-1f));
  p = fma(p, r, splat(6.931470037e-1f));
  p = fma(p, r, splat(1.0f));
  return exponent(p, n);
}

inline void fill(float* x, int begin, int end, float value) {
  for (int i = begin; i < end; i++) x[i] = value;
}

SoftmaxSum softmax(const SoftmaxTask& task) {
  float* x = task.scores;
  if (task.key_scales)
    for (int i = task.begin; i < task.end; i += 16) store(x + i, mul(load(x + i), load(task.key_scales + i)));
  if (task.cap > 0.0f) softcap(x + task.begin, task.scale, task.cap, task.end - task.begin);
  fill(x, task.begin, task.first, kNoScores.greatest);
  fill(x, task.last, task.end, kNoScores.greatest);
  F most = splat(kNoScores.greatest);
  for (int i = task.begin; i < task.end; i += 16) most = max(load(x + i), most);
  const float greatest = maximum(most);
  const F factor = splat(task.exponent);
  F total = splat(0.0f);
  for (int i = task.begin; i < task.end; i += 16) {
    const F weight = power_of_2(mul(sub(load(x + i), splat(greatest)), factor));
    store(x + i, weight);
    total = add(total, weight);
  }
  if (task.value_scales)
    for (int i = task.begin; i < task.end; i += 16) store(x + i, mul(load(x + i), load(task.value_scales + i)));
  return {greatest, sum(total)};
}

void softmax_merge(SoftmaxSum& total, float* mixed, SoftmaxSum block, const float* block_mixed, float exponent, int n) {
  const float greatest = block.greatest > total.greatest ? block.greatest : total.greatest;
  const F old_factor = power_of_2(splat((total.greatest - greatest) * exponent));
  const F new_factor = power_of_2(splat((block.greatest - greatest) * exponent));
  float sums[16];
  store(sums, fma(splat(total.sum), old_factor, mul(splat(block.sum), new_factor)));
  total = {greatest, sums[0]};
  for (int i = 0; i < n; i += 16)
    store(mixed + i, fma(load(mixed + i), old_factor, mul(load(block_mixed + i), new_factor)));
}

void scale(float* x, float factor, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, mul(load(x + i), splat(factor)));
}

void to_half(const float* x, uint16_t* out, int n) {
  for (int i = 0; i < n; i += 16) store_half(out + i, load(x + i));
}

void to_finite_half(const float* x, uint16_t* out, int n) {
  const F most = splat(65504.0f), least = splat(-65504.0f);
  for (int i = 0; i < n; i += 16) store_half(out + i, min(max(load(x + i), least), most));
}

void from_half(const uint16_t* x, float* out, int n) {
  for (int i = 0; i < n; i += 16) store(out + i, load_half(x + i));
}

// ---- weights to codes -----------------------------------------------------------------------------------------------

bool peaks(const float* w, int group, int n_groups, float* out) {
  const F zero = splat(0.0f);
  F wrong = zero;  // what is not finite makes it NaN
  for (int g = 0; g < n_groups; g++, w += group) {
    F most = load(w), least = most;
    for (int i = 0; i < group; i += 16) {
      const F v = load(w + i);
      most = max(v, most);
      least = min(v, least);
      wrong = add(wrong, mul(v, zero));  // no fma: the scalar one is slow
    }
    const float up = maximum(most), down = maximum(sub(zero, least));
    out[g] = up > down ? up : -down;
    if (up != down) continue;
    int first = 0;  // both signs: the first one counts
    while (first < group && w[first] != up && w[first] != -up) first++;
    if (first < group) out[g] = w[first];
  }
  return sum(wrong) == 0.0f;
}

// To nearest, ties to even. A scale of 0 makes every code 0.
void codes_8(const float* w, int n, float scale, int8_t* out) {
  const F divisor = splat(scale == 0.0f ? __builtin_inff() : scale), end = splat(127.0f), begin = splat(-127.0f);
  const F shift = splat(12582912.0f);  // 1.5 * 2^23: a sum with it has no room for a fraction (scalar to_int is slower)
  for (int i = 0; i < n; i += 16) {
    const F exact = max(min(div(load(w + i), divisor), end), begin);
    store_bytes(out + i, truncate(sub(add(exact, shift), shift)));
  }
}

// floor(w * (1 / scale) + 8.5) with each step rounded to float, so that ties go up. A scale of 0, or of which there is
// no reciprocal, makes every code 8.
void codes_4(const float* w, int n, float scale, int8_t* out) {
  const float reciprocal = 1.0f / scale;
  const F factor = splat(reciprocal - reciprocal == 0.0f ? reciprocal : 0.0f);
  const F half = splat(8.5f), end = splat(15.0f), begin = splat(0.0f);
  for (int i = 0; i < n; i += 16)
    store_bytes(out + i, truncate(max(min(add(mul(load(w + i), factor), half), end), begin)));
}

// ---- limits of the machine ------------------------------------------------------------------------------------------

float read_memory(const uint8_t* data, int64_t n_bytes) {
  F total[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  for (int64_t at = 0; at + 256 <= n_bytes; at += 256) {
    __builtin_prefetch(data + at + kAhead);
    for (int i = 0; i < 4; i++) total[i] = max(total[i], load(reinterpret_cast<const float*>(data + at + 64 * i)));
  }
  return maximum(max(max(total[0], total[1]), max(total[2], total[3])));
}

float integer_peak(int64_t steps) {
  uint8_t codes[64];
  for (int i = 0; i < 64; i++) codes[i] = uint8_t(i & 15);
  const C weights = cload(codes);
  I sums[kPeakSums];
  for (int i = 0; i < kPeakSums; i++) sums[i] = isplat(i);
  for (int64_t done = 0; done < 8 * steps; done += kPeakSums)
    for (int i = 0; i < kPeakSums; i++) sums[i] = dot_u7(sums[i], weights, 0x01020304);
  I total = isplat(0);
  for (int i = 0; i < kPeakSums; i++) total = iadd(total, sums[i]);
  return sum(to_float(total));
}

float float_peak(int64_t steps) {
  F sums[kPeakSums];
  for (int i = 0; i < kPeakSums; i++) sums[i] = splat(float(i));
  const F half = splat(0.5f);
  for (int64_t done = 0; done < 8 * steps; done += kPeakSums)
    for (int i = 0; i < kPeakSums; i++) sums[i] = fma(sums[i], half, half);
  F total = splat(0.0f);
  for (int i = 0; i < kPeakSums; i++) total = add(total, sums[i]);
  return sum(total);
}

void fill_table(Kernels& table) {
#define KERNEL(type, name, parameters) table.name = name;
#include "kernels.def"
#undef KERNEL
}
