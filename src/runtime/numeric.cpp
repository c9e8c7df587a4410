// SPDX-License-Identifier: Apache-2.0
#include "numeric.h"

#include <locale>
#include <sstream>

#include <cstdint>
#include <cstring>
#include <limits>

namespace rkllm {
namespace {

// ln 2 and pi / 2 in two parts: the first has so few bits that its multiples are exact.
constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
constexpr double kHalfPiHigh = 1.57079632673412561417e+00, kHalfPiLow = 6.07710050650619224932e-11;

#include "exponential.inl"

int64_t nearest(double x) { return int64_t(x < 0 ? x - 0.5 : x + 0.5); }

// x^first/first! -+ x^(first+2)/(first+2)! ..., nine terms by Horner's rule, for |x| <= pi / 4.
double alternating_series(double x, int first) {
  const double square = x * x;
  double sum = 1.0;
  for (int n = first + 16; n > first; n -= 2) sum = 1.0 - sum * square / double(n * (n - 1));
  return first ? sum * x : sum;
}

}  // namespace

void sine_cosine(double angle, double* sine, double* cosine) {
  const int64_t quadrant = nearest(angle / (kHalfPiHigh + kHalfPiLow));
  const double rest = (angle - double(quadrant) * kHalfPiHigh) - double(quadrant) * kHalfPiLow;
  const double s = alternating_series(rest, 1), c = alternating_series(rest, 0);
  *sine = quadrant & 1 ? c : s;
  *cosine = quadrant & 1 ? s : c;
  if (quadrant & 2) *sine = -*sine;
  if ((quadrant + 1) & 2) *cosine = -*cosine;
}

double exponential(double x) { return exponential_of(x); }

double logarithm(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  int64_t exponent = int64_t(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffu) | uint64_t(1023) << 52;
  double mantissa;
  memcpy(&mantissa, &bits, sizeof mantissa);
  if (mantissa > 1.4142135623730951) {
    mantissa *= 0.5;
    exponent++;
  }
  const double s = (mantissa - 1.0) / (mantissa + 1.0), square = s * s;  // ln m = 2 artanh s
  double sum = 0.0;
  for (int n = 25; n > 0; n -= 2) sum = sum * square + 1.0 / double(n);
  return double(exponent) * kLn2High + (2.0 * s * sum + double(exponent) * kLn2Low);
}

bool read_float(const std::string& text, float* value) {
  std::istringstream in(text);
  in.imbue(std::locale::classic());
  in >> std::noskipws >> *value;
  return !in.fail() && in.peek() == std::char_traits<char>::eof();
}

}  // namespace rkllm
