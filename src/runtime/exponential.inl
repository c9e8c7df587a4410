// SPDX-License-Identifier: Apache-2.0
// e^x in double precision, for one number (numeric.h) and for rows of them (kernels).

// x = n ln 2 + r with r of at most ln 2 / 2, and the first terms of the series of e^r: relative error below 1e-15.
// 0 below -700, infinite above 700. Without branches, divisions and conversions: compilers compute several at once.
inline double exponential_of(double x) {
  // ln 2 in two parts: the first has so few bits that its multiples are exact.
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr double kToInteger = 6755399441055744.0;  // 1.5 * 2^52: the last bits of a sum with it are an integer
  const double inside = x < -700.0 ? -700.0 : x > 700.0 ? 700.0 : x;
  const double shifted = inside * (1.0 / (kLn2High + kLn2Low)) + kToInteger, n = shifted - kToInteger;
  const double r = (inside - n * kLn2High) - n * kLn2Low;
  double sum = 1.0 / 6227020800;  // 1 / 13!
  sum = sum * r + 1.0 / 479001600;
  sum = sum * r + 1.0 / 39916800;
  sum = sum * r + 1.0 / 3628800;
  sum = sum * r + 1.0 / 362880;
  sum = sum * r + 1.0 / 40320;
  sum = sum * r + 1.0 / 5040;
  sum = sum * r + 1.0 / 720;
  sum = sum * r + 1.0 / 120;
  sum = sum * r + 1.0 / 24;
  sum = sum * r + 1.0 / 6;
  sum = sum * r + 1.0 / 2;
  sum = sum * r + 1.0;
  sum = sum * r + 1.0;
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023) << 52;
  double power;
  __builtin_memcpy(&power, &bits, sizeof power);
  const double result = sum * power;
  return x < -700.0 ? 0.0 : x > 700.0 ? __builtin_huge_val() : result;
}
