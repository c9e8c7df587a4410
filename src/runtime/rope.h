// SPDX-License-Identifier: Apache-2.0
// Cosines and sines of the rotary position embedding. Constant scalings (linear, Llama 3) are in the frequencies of the
// file already; dynamic NTK depends on the length of the sequence and is applied here.
#pragma once

#include <vector>

#include "spec.h"

namespace rkllm {

class Rope {
 public:
  Rope() = default;
  // long_frequencies: empty, or as many.
  Rope(const Spec& spec, std::vector<float> frequencies, std::vector<float> long_frequencies);

  int half() const { return int(frequencies_.size()); }

  // Whether a sequence that grows to this length needs its cached keys computed anew: the first long one.
  bool restarts_at(int length) const { return !long_frequencies_.empty() && length == original_context_ + 1; }

  // The same number for lengths whose angles are the same: keys of one sequence serve the other.
  double variant(int length) const;

  // Fill [n, half] cosines and sines for positions first ... first + n - 1 of a sequence of the given length.
  void angles(int first, int n, int length, float* cosines, float* sines) const;

 private:
  std::vector<float> frequencies_, long_frequencies_;
  double growth(int length) const;

  double dynamic_factor_ = 0.0;
  bool doubling_ = false;
  int original_context_ = 0;
  float magnitude_ = 1.0f;
};

}  // namespace rkllm
