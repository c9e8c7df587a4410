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
  Rope(const Spec& spec, std::vector<float> frequencies);

  int half() const { return int(frequencies_.size()); }

  // Fill [n, half] cosines and sines for positions first ... first + n - 1 of a sequence of the given length.
  void angles(int first, int n, int length, float* cosines, float* sines) const;

 private:
  std::vector<float> frequencies_;
  double growth(int length) const;

  double dynamic_factor_ = 0.0;
  bool doubling_ = false;
  int original_context_ = 0;
};

}  // namespace rkllm
