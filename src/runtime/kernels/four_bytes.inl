// SPDX-License-Identifier: Apache-2.0
// Activations for instruction sets that spread four of them over a register where they are multiplied.

// Columns 4 * Word ... 4 * Word + 3 of the eight at p.
template <int Word>
inline int32_t four_of(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p + 4 * Word, 4);
  return four;
}
