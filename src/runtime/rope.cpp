// SPDX-License-Identifier: Apache-2.0
#include "rope.h"

#include <utility>

#include "numeric.h"

namespace rkllm {

Rope::Rope(const Spec& spec, std::vector<float> frequencies)
    : frequencies_(std::move(frequencies)), dynamic_factor_(spec.rope_dynamic_factor),
      original_context_(int(spec.rope_original_context)) {}

void Rope::angles(int first, int n, int length, float* cosines, float* sines) const {
  // Dynamic NTK multiplies the base by s^(d / (d - 2)), s = factor * length / original - (factor - 1), which divides
  // frequency i by s^(2i / (d - 2)), d = 2 * half.
  double log_s = 0.0;
  if (dynamic_factor_ > 0.0 && length > original_context_)
    log_s = logarithm(dynamic_factor_ * double(length) / double(original_context_) - (dynamic_factor_ - 1.0));
  for (int i = 0; i < half(); i++) {
    float frequency = frequencies_[size_t(i)];
    if (log_s != 0.0) frequency = float(double(frequency) * exponential(-log_s * double(i) / double(half() - 1)));
    for (int t = 0; t < n; t++) {
      const float angle = float(first + t) * frequency;  // rounded to float, as the families' own code has it
      double sine, cosine;
      sine_cosine(double(angle), &sine, &cosine);
      cosines[t * half() + i] = float(cosine);
      sines[t * half() + i] = float(sine);
    }
  }
}

}  // namespace rkllm
