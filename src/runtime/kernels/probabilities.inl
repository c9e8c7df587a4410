// SPDX-License-Identifier: Apache-2.0
// Probabilities of tokens, in double precision: plain loops that the compiler makes vectors of, the same operations in
// the same order for every instruction set.

#include "../exponential.inl"

// The sum of numbers that come in pieces, all of which but the last are multiples of eight, in a fixed order that
// several additions at once can follow.
struct EightSums {
  double lanes[8] = {}, rest = 0.0;

  void add(const double* terms, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
      for (int lane = 0; lane < 8; lane++) lanes[lane] += terms[i + lane];
    for (; i < n; i++) rest += terms[i];
  }
  double total() const {
    double sum = rest;
    for (double lane : lanes) sum += lane;
    return sum;
  }
};

constexpr int kPiece = 512;  // numbers that stay in the nearest cache from one loop to the next

double exponentials(double* x, int n) {
  EightSums sums;
  for (int begin = 0; begin < n; begin += kPiece) {
    const int count = at_most(kPiece, n - begin);
    double* piece = x + begin;
    for (int i = 0; i < count; i++) piece[i] = exponential_of(piece[i]);
    sums.add(piece, count);
  }
  return sums.total();
}

inline bool is_finite(float x) { return __builtin_fabsf(x) <= 3.4028234664e38f; }

inline float greater_finite(float x, float than) { return ((x > than) & is_finite(x)) ? x : than; }

float greatest_finite(const float* x, int n) {
  float lanes[16], greatest = -__builtin_inff();
  for (float& lane : lanes) lane = greatest;
  int i = 0;
  for (; i + 16 <= n; i += 16)
    for (int lane = 0; lane < 16; lane++) lanes[lane] = greater_finite(x[i + lane], lanes[lane]);
  for (; i < n; i++) lanes[0] = greater_finite(x[i], lanes[0]);
  for (float lane : lanes) greatest = greater_finite(lane, greatest);
  return greatest;
}

double token_weights(const float* logits, int n, float greatest, double temperature, double* out) {
  EightSums sums;
  for (int begin = 0; begin < n; begin += kPiece) {
    const int count = at_most(kPiece, n - begin);
    const float* x = logits + begin;
    double* piece = out + begin;
    for (int i = 0; i < count; i++)
      piece[i] = is_finite(x[i]) ? (double(x[i]) - double(greatest)) / temperature : -1e300;
    for (int i = 0; i < count; i++) piece[i] = exponential_of(piece[i]);
    sums.add(piece, count);
  }
  return sums.total();
}
