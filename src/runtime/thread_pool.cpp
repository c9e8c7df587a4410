// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.h"

#include <exception>

#include "error.h"
#include "signals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rkllm {
namespace {

constexpr int kSpins = 4000;  // tens of microseconds: the serial part between two jobs of a decode step

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  const SignalsBlocked blocked;
  try {
    workers_.reserve(size_t(n_threads - 1));
    for (int thread = 1; thread < n_threads; thread++) workers_.emplace_back([this, thread] { work(thread); });
  } catch (const std::exception&) {
    const size_t started = workers_.size() + 1;
    stop();  // those that have started
    throw Error(ErrorCode::OUT_OF_MEMORY,
                format("only %zu of %d threads can be started; set n_threads, or raise the limit of threads or memory",
                       started, n_threads));
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::dispatch(int n, Call call, const void* context) {
  n_ = n;
  call_ = call;
  context_ = context;
  next_ = 0;
  ticket_++;  // open
  if (sleepers_ > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  take_items(0);
  ticket_++;  // closed: whoever comes now turns back; wait for those who hold an item
  for (int spins = 0; inside_ > 0; spins++) {
    if (spins < kSpins) relax();
    else std::this_thread::yield();
  }
}

void ThreadPool::take_items(int thread) {
  for (int item = next_++; item < n_; item = next_++) call_(context_, item, thread);
}

void ThreadPool::work(int thread) {
  uint32_t last = 0;
  while (!stop_) {
    last = wait_for_job(last);
    inside_++;
    const uint32_t now = ticket_;
    if (now % 2 == 1) take_items(thread);
    inside_--;
    if (now % 2 == 1) last = now;
  }
}

// Return the ticket of an open job other than the last one, or any ticket when the pool stops.
uint32_t ThreadPool::wait_for_job(uint32_t last) {
  const auto ready = [&](uint32_t ticket) { return (ticket % 2 == 1 && ticket != last) || stop_; };
  for (int spins = 0; spins < kSpins; spins++) {
    if (ready(ticket_)) return last;
    relax();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_++;
  wake_.wait(lock, [&] { return ready(ticket_); });
  sleepers_--;
  return last;
}

}  // namespace rkllm
