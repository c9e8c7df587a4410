// SPDX-License-Identifier: Apache-2.0
// The library's own elementary functions against the C library's.
#include "numeric.h"

#include <cmath>

#include "check.h"

int main() {
  for (double x = 0.0; x < 2e5; x = x * 1.01 + 0.013) {
    double s = 0.0, c = 0.0;
    rkllm::sine_cosine(x, &s, &c);
    CHECK(std::fabs(s - std::sin(x)) < 2e-15 * (1.0 + x * 1e-4) &&
          std::fabs(c - std::cos(x)) < 2e-15 * (1.0 + x * 1e-4));
  }
  for (double x = -690.0; x < 690.0; x += 0.731)
    CHECK(std::fabs(rkllm::exponential(x) / std::exp(x) - 1.0) < 1e-14);
  CHECK(rkllm::exponential(0.0) == 1.0 && rkllm::exponential(-1e9) == 0.0 && std::isinf(rkllm::exponential(1e9)));
  for (double x = 1e-300; x < 1e300; x *= 1.7)
    CHECK(std::fabs(rkllm::logarithm(x) - std::log(x)) < 1e-14 * (1.0 + std::fabs(std::log(x))));
  CHECK(rkllm::logarithm(1.0) == 0.0);
  float number = 0.0f;
  CHECK(rkllm::read_float("-1.25e-3", &number) && number == -1.25e-3f);
  CHECK(rkllm::read_float("7", &number) && number == 7.0f);
  for (const char* text : {"", " 1", "1 ", "1,5", "1.5x", "inf", "nan", "1e999", "--1"})
    CHECK(!rkllm::read_float(text, &number));
  return check::result();
}
