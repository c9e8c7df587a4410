// SPDX-License-Identifier: Apache-2.0
#include "machine_limits.h"

#include <algorithm>
#include <chrono>

#include "tensor.h"
#include "thread_pool.h"

namespace rkllm {
namespace {

constexpr int64_t kBytes = int64_t(256) << 20;  // beyond the caches of the machines this runs on
constexpr int64_t kPart = int64_t(8) << 20;     // read by a thread in one go
constexpr int64_t kSteps = 200000;
constexpr double kOperations = 8 * 64 * 2.0;    // of a step of integer_peak; a quarter of that are a step of float_peak
constexpr int kTries = 5;

template <class Work>
double best_seconds(int tries, const Work& work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < tries; i++) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace

Limits measure_limits(int n_threads, const Kernels& kernels) {
  Buffer<uint8_t> memory(kBytes);  // written, so that its pages are there
  Buffer<float> sink(n_threads * 16);
  ThreadPool pool(n_threads);
  const auto all = [&](int items, const auto& work) {
    pool.run(items, [&](int item, int thread) { sink[thread * 16] += work(item); });
  };
  const double read = best_seconds(kTries, [&] {
    all(int(kBytes / kPart), [&](int item) { return kernels.read_memory(memory.data() + item * kPart, kPart); });
  });
  const double integer =
      best_seconds(kTries, [&] { all(n_threads, [&](int) { return kernels.integer_peak(kSteps); }); });
  const double floating =
      best_seconds(kTries, [&] { all(n_threads, [&](int) { return kernels.float_peak(kSteps); }); });
  const double operations = kSteps * kOperations * n_threads * 1e-9;
  return {double(kBytes) * 1e-9 / read, operations / integer, operations / 4 / floating};
}

}  // namespace rkllm
