// SPDX-License-Identifier: Apache-2.0
// Elementary functions in double precision whose results do not depend on the C library: plain arithmetic in a fixed
// order. For rotary angles and sampling; the vector code has its own in kernels/ops.inl.
#pragma once

#include <string>

namespace rkllm {

// sin and cos of 0 <= angle < 10^6, absolute error below 1e-15.
void sine_cosine(double angle, double* sine, double* cosine);

// e^x for |x| < 700, relative error below 1e-15; 0 below and infinity above.
double exponential(double x);

// Natural logarithm of a positive, normal x.
double logarithm(double x);

// Read a decimal number with a point, whatever the locale of the program: the C library would want a comma under some.
// False when the text is anything else, or out of range.
bool read_float(const std::string& text, float* value);

}  // namespace rkllm
