// SPDX-License-Identifier: Apache-2.0
#include "rope.h"

#include <utility>

#include "numeric.h"

namespace rkllm {

Rope::Rope(const Spec& spec, std::vector<float> frequencies, std::vector<float> long_frequencies)
    : frequencies_(std::move(frequencies)), long_frequencies_(std::move(long_frequencies)),
      dynamic_factor_(spec.rope_dynamic_factor), doubling_(spec.rope_doubling != 0),
      original_context_(int(spec.rope_original_context)), magnitude_(spec.rope_magnitude) {}

// What dynamic NTK multiplies the base by, to the power of (d - 2) / d.
double Rope::growth(int length) const {
  if (length <= original_context_ || (dynamic_factor_ == 0.0 && !doubling_)) return 1.0;
  const double ratio = double(length) / double(original_context_);
  if (!doubling_) return dynamic_factor_ * ratio - (dynamic_factor_ - 1.0);
  double power = 2.0;  // 2^(ceil(log2(ratio)) + 1)
  while (power < 2.0 * ratio) power *= 2.0;
  return power - 1.0;
}

double Rope::variant(int length) const {
  const bool is_long = !long_frequencies_.empty() && length > original_context_;
  return is_long ? -growth(length) : growth(length);
}

void Rope::angles(int first, int n, int length, float* cosines, float* sines) const {
  // A base that grows by s^(d / (d - 2)) divides frequency i by s^(2i / (d - 2)), d = 2 * half.
  const double s = growth(length), log_s = s != 1.0 ? logarithm(s) : 0.0;
  const auto& table = long_frequencies_.empty() || length <= original_context_ ? frequencies_ : long_frequencies_;
  for (int i = 0; i < half(); i++) {
    float frequency = table[size_t(i)];
    if (log_s != 0.0) frequency = float(double(frequency) * exponential(-log_s * double(i) / double(half() - 1)));
    for (int t = 0; t < n; t++) {
      const float angle = float(first + t) * frequency;  // rounded to float, as the families' own code has it
      double sine, cosine;
      sine_cosine(double(angle), &sine, &cosine);
      cosines[t * half() + i] = float(cosine) * magnitude_;
      sines[t * half() + i] = float(sine) * magnitude_;
    }
  }
}

}  // namespace rkllm
