// SPDX-License-Identifier: Apache-2.0
// The part of rkllm_ext.h that needs no handle: lists, logging, packing of weights.
#include <cstdint>
#include <cstring>

#include "api.h"
#include "checksum.h"
#include "cores.h"
#include "kernels/dispatch.h"
#include "linear.h"
#include "machine_limits.h"
#include "quant/rtn.h"
#include "rkllm_ext.h"
#include "spec.h"

using namespace rkllm;

namespace {

struct ErrorRow {
  ErrorCode code;
  const char* name;
  const char* exception;
  const char* sentence;
};

const ErrorRow kErrors[] = {
#define ERROR(name, value, exception, sentence) {ErrorCode::name, #name, #exception, sentence},
#include "errors.def"
#undef ERROR
};

const Format& format_named(const char* name) {
  const Format* found = name ? find_format(name) : nullptr;
  if (found) return *found;
  std::string names;
  for (int i = 0; const Format* format = format_at(i); i++) names += std::string(i ? ", " : "") + format->name;
  throw Error(ErrorCode::INVALID_ARGUMENT,
              std::string("the format '") + (name ? name : "(null)") + "' does not exist; there are " + names);
}

void need_bytes(const Layout& layout, uint64_t given) {
  if (given != uint64_t(layout.n_bytes))
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("the packed matrix has %lld bytes, but %llu were given",
                              static_cast<long long>(layout.n_bytes), static_cast<unsigned long long>(given)));
}

SourceMatrix source_matrix(int64_t rows, int64_t cols, const char* type, const void* data, uint64_t data_bytes) {
  SourceMatrix matrix = {NumberType::F32, rows, cols, data};
  need(type && find_number_type(type, matrix.type), "the type of the data must be f32, f16 or bf16");
  const uint64_t expected = uint64_t(rows) * uint64_t(cols) * uint64_t(bytes_of(matrix.type));
  if (data_bytes != expected)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                rkllm::format("the data has %llu bytes, but %lld x %lld numbers of type %s have %llu",
                              static_cast<unsigned long long>(data_bytes), static_cast<long long>(rows),
                              static_cast<long long>(cols), type, static_cast<unsigned long long>(expected)));
  need(reinterpret_cast<uintptr_t>(data) % unsigned(bytes_of(matrix.type)) == 0, "the data is not aligned");
  return matrix;
}

void refuse(const Format& format, const RowProblem& problem) {
  const auto row = static_cast<long long>(problem.row);
  if (problem.kind == RowProblem::NOT_FINITE)
    throw Error(ErrorCode::MODEL_FILE,
                rkllm::format("holds a NaN or an infinite weight in row %lld; the checkpoint is damaged", row));
  if (problem.kind == RowProblem::BEYOND_F16)
    throw Error(ErrorCode::MODEL_FILE, rkllm::format("holds %g in row %lld, but %s ends at 65504; use fp32",
                                                     double(problem.value), row, format.name));
}

}  // namespace

extern "C" {

const char* rkllm_ext_version(void) { return RKLLM_EXT_VERSION; }

int rkllm_ext_error(int index, RKLLMExtError* row) {
  const int count = int(sizeof kErrors / sizeof *kErrors);
  if (index < 0 || index >= count || !row) return 1;
  const ErrorRow& error = kErrors[index];
  *row = {int32_t(error.code), error.name, error.exception, error.sentence};
  return 0;
}

int rkllm_ext_format(int index, RKLLMExtFormat* row) {
  const Format* format = format_at(index);
  if (!format || !row) return 1;
  *row = {format->name, format->bits, format->group, format->scale_bits, format->activation_bits, format->offered};
  return 0;
}

int rkllm_ext_spec_field(int index, RKLLMExtSpecField* row) {
  const SpecField* field = spec_field_at(index);
  if (!field || !row) return 1;
  *row = {field->type, field->name, field->default_value, field->meaning};
  return 0;
}

const char* rkllm_ext_isa(int index) {
  return index >= 0 && size_t(index) < isas().size() ? isas()[size_t(index)] : nullptr;
}

const char* rkllm_ext_active_isa(void) { return active_kernels().isa; }

uint64_t rkllm_ext_checksum(const void* data, uint64_t n_bytes) { return checksum(data, n_bytes); }

uint64_t rkllm_ext_packed_size(const char* format, int64_t rows, int64_t cols) {
  uint64_t n_bytes = 0;
  guard([&] { n_bytes = uint64_t(layout_of(format_named(format), rows, cols).n_bytes); });
  return n_bytes;
}

int rkllm_ext_pack(const char* format, int64_t rows, int64_t cols, const void* codes, const float* scales, void* out,
                   uint64_t out_bytes) {
  return guard([&] {
    const Format& f = format_named(format);
    need(codes && out, "codes and out must be given");
    need(f.is_float() || scales, "a quantized format needs scales");
    need_bytes(layout_of(f, rows, cols), out_bytes);
    pack(f, rows, cols, codes, scales, static_cast<uint8_t*>(out));
  });
}

int rkllm_ext_unpack(const char* format, int64_t rows, int64_t cols, const void* packed, uint64_t packed_bytes,
                     float* out) {
  return guard([&] {
    const Format& f = format_named(format);
    need(packed && out, "packed and out must be given");
    need_bytes(layout_of(f, rows, cols), packed_bytes);
    for (int64_t row = 0; row < rows; row++)
      unpack_row(f, rows, cols, static_cast<const uint8_t*>(packed), row, out + row * cols);
  });
}

int rkllm_ext_quantize(const char* format, int64_t rows, int64_t cols, const char* type, const void* data,
                       uint64_t data_bytes, int n_threads, void* out, uint64_t out_bytes) {
  return guard([&] {
    const Format& f = format_named(format);
    need(data && out, "data and out must be given");
    need(n_threads >= 0 && n_threads <= 256, "n_threads must be 0 to 256");
    const Layout layout = layout_of(f, rows, cols);
    need_bytes(layout, out_bytes);
    const SourceMatrix matrix = source_matrix(rows, cols, type, data, data_bytes);
    ThreadPool pool(n_threads ? n_threads : default_cores().count);
    std::vector<RoundingScratch> scratch(size_t(pool.size()));
    std::vector<RowProblem> problems(size_t(layout.tiles));
    pool.run(int(layout.tiles), [&](int tile, int thread) {
      problems[size_t(tile)] =
          round_tile(f, layout, matrix, tile, scratch[size_t(thread)], static_cast<uint8_t*>(out));
    });
    for (const RowProblem& problem : problems) refuse(f, problem);
  });
}

int rkllm_ext_matmul(const char* format, int64_t rows, int64_t cols, const void* packed, uint64_t packed_bytes,
                     const float* x, int64_t n, int n_threads, float* y) {
  return guard([&] {
    const Format& f = format_named(format);
    need(packed && x && y, "packed, x and y must be given");
    need(n >= 1 && n <= 65536, "n must be 1 to 65536");
    need(n_threads >= 0 && n_threads <= 256, "n_threads must be 0 to 256");
    const Layout layout = layout_of(f, rows, cols);
    need_bytes(layout, packed_bytes);
    Linear linear;
    linear.weight = {&f, rows, cols, layout, static_cast<const uint8_t*>(packed)};
    const int64_t x_stride = padded(cols), y_stride = padded(rows);
    Buffer<float> x_rows(n * x_stride), y_rows(n * y_stride);
    for (int64_t i = 0; i < n; i++) memcpy(&x_rows[i * x_stride], x + i * cols, size_t(cols) * sizeof(float));
    ThreadPool pool(n_threads ? n_threads : default_cores().count);
    Activations activations(int(n), cols);
    activations.set(x_rows.data(), x_stride, int(n), cols);
    multiply(activations, {{&linear, y_rows.data(), y_stride}}, kernels(), pool);
    for (int64_t i = 0; i < n; i++) memcpy(y + i * rows, &y_rows[i * y_stride], size_t(rows) * sizeof(float));
  });
}

int rkllm_ext_limits(int n_threads, double* read_gbs, double* integer_gops, double* float_gflops) {
  return guard([&] {
    need(read_gbs && integer_gops && float_gflops, "all results must be asked for");
    need(n_threads >= 0 && n_threads <= 256, "n_threads must be 0 to 256");
    const Limits limits = measure_limits(n_threads ? n_threads : default_cores().count, kernels());
    *read_gbs = limits.read_gbs;
    *integer_gops = limits.integer_gops;
    *float_gflops = limits.float_gflops;
  });
}

}  // extern "C"
