// SPDX-License-Identifier: Apache-2.0
// Elementary functions in double precision whose results do not depend on the C library: plain arithmetic in a fixed
// order. For rotary angles and sampling; the vector code has its own in kernels/ops.inl.
#pragma once

namespace rkllm {

// sin and cos of 0 <= angle < 10^6, absolute error below 1e-15.
void sine_cosine(double angle, double* sine, double* cosine);

// e^x for |x| < 700, relative error below 1e-15; 0 below and infinity above.
double exponential(double x);

// Natural logarithm of a positive, normal x.
double logarithm(double x);

}  // namespace rkllm
