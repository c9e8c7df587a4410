// SPDX-License-Identifier: Apache-2.0
// Linear layers: y = x * w^T + b for rows of activations and a packed weight matrix of any format.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "tensor.h"
#include "thread_pool.h"

namespace rkllm {

struct Linear {
  std::string name;  // "blk.3.attn_q"
  Matrix weight;
  Buffer<float> bias;  // padded; empty: none
  int n_heads = 1;     // matrices, one below the other, that are multiplied each for its own head
  // What conversion multiplied the columns by and divided the rows by, elsewhere in the model the reverse; empty:
  // nothing. The weight contains it; who adds something made for the matrix as it was needs it.
  Buffer<float> in_factors, out_factors;  // padded
};

// Rows of activations that several layers read, quantized at most once for each kind of activation. The float rows
// belong to the caller. Used by one thread at a time.
class Activations {
 public:
  Activations(int max_rows, int64_t max_cols);

  // Point at n rows of cols floats, stride apart; forgets earlier quantizations. Rows are padded with zeros.
  void set(const float* x, int64_t stride, int n, int64_t cols);

  // Let body(row) compute every row, and in the same job quantize it as this layer, if it is one, wants it.
  template <class Body>
  void fill(const Linear* reader, const Kernels& kernels, ThreadPool& pool, const Body& body) {
    Quantized* quantized = reader && !reader->weight.format->is_float() ? &add(reader->weight) : nullptr;
    pool.run(n_, [&](int row, int) {
      body(row);
      if (quantized) quantize_row(*quantized, row, kernels);
    });
  }

  // What products of all later rows are computed with.
  void use_type(ActivationType type) { type_ = type; }
  ActivationType type() const { return type_; }

  const float* data() const { return x_; }
  int64_t stride() const { return stride_; }
  int rows() const { return n_; }
  int64_t cols() const { return cols_; }

  // Fill the activation side of a task for a matrix.
  void prepare(const Matrix& weight, const Kernels& kernels, ThreadPool& pool, MatmulTask& task);

 private:
  struct Quantized {
    int bits = 0;
    int group = 0;
    int64_t k = 0;  // padded columns
    Buffer<int8_t> hi, lo;
    Buffer<float> scales;
    Buffer<int32_t> offsets;
  };
  Quantized* find(const Matrix& weight);
  Quantized& add(const Matrix& weight);
  void quantize_row(Quantized& q, int row, const Kernels& kernels) const;

  int max_rows_;
  int64_t max_cols_;
  ActivationType type_ = ActivationType::AUTO;
  const float* x_ = nullptr;
  int64_t stride_ = 0;
  int n_ = 0;
  int64_t cols_ = 0;
  std::vector<Quantized> quantized_;
  size_t used_ = 0;  // entries of quantized_ that are valid for the current rows
};

struct Product {
  const Linear* linear;
  float* y;  // [n, y_stride]; y_stride a multiple of 16 that holds the padded rows of the weight
  int64_t y_stride;
};

// Compute all products of the same activations as one job.
void multiply(Activations& x, std::initializer_list<Product> products, const Kernels& kernels, ThreadPool& pool);

// Rows of activations or results that are split into heads.
struct Heads {
  int64_t head_stride, stride;  // from one head, and one row, to the next
};

// A float matrix whose rows are linear.n_heads matrices, one below the other, each for its own head of the n rows of x.
// Bits do not depend on n. scratch: floats for each thread, n * head_slot(rows / n_heads) of them.
void multiply_heads(const Linear& linear, int n, const float* x, Heads x_at, float* y, Heads y_at, float* scratch,
                    int64_t scratch_stride, const Kernels& kernels, ThreadPool& pool);
inline int64_t head_slot(int64_t rows_of_head) { return padded(rows_of_head) + 16; }

}  // namespace rkllm
