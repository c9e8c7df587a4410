// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.h"

#include <chrono>
#include <exception>
#include <new>

#include "error.h"
#include "signals.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rkllm {
namespace {

constexpr std::chrono::microseconds kSpin{200};  // more than the serial part between two jobs of a decode step
constexpr int kMostNumbers = 0xffff;             // of a job: what fits a half of a share

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Whether ready() became true within a short time.
template <class Ready>
bool spin(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; i++) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

uint64_t share_of(uint32_t ticket, uint32_t begin, uint32_t end) { return uint64_t(ticket) << 32 | begin << 16 | end; }
uint32_t ticket_of(uint64_t word) { return uint32_t(word >> 32); }

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  const SignalsBlocked blocked;
  try {
    const size_t n = size_t(n_threads);
    memory_.reset(new char[n * sizeof(Slot) + kLine]);
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory_.get());
    slots_ = reinterpret_cast<Slot*>((at + kLine - 1) / kLine * kLine);
    for (size_t i = 0; i < n; i++) new (slots_ + i) Slot;
    workers_.reserve(n - 1);
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
  const int group = n / kMostNumbers + 1, numbers = (n + group - 1) / group, threads = size();
  ticket_++;
  for (int i = threads - 1; i >= 0; i--) {
    Slot& slot = slots_[i];
    slot.call = call;
    slot.context = context;
    slot.group = group;
    slot.n = n;
    const auto begin = uint32_t(int64_t(numbers) * i / threads), end = uint32_t(int64_t(numbers) * (i + 1) / threads);
    slot.share.store(share_of(ticket_, begin, end), std::memory_order_release);
  }
  // One that falls asleep at this moment may not be seen: it sleeps through this job, whose items the others do.
  if (sleepers_.load(std::memory_order_relaxed) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  uint32_t waiting = uint32_t(numbers) - take_part(0, ticket_);
  const auto all_done = [&] {
    uint32_t others = 0;
    for (int i = 1; i < threads; i++) {
      const uint64_t done = slots_[i].done.load(std::memory_order_acquire);
      if (ticket_of(done) == ticket_) others += uint32_t(done);
    }
    return others == waiting;
  };
  if (waiting && !spin(all_done))
    while (!all_done()) std::this_thread::yield();
}

// The number that the slot's share loses at one end, or -1: nothing left of this ticket's.
int ThreadPool::take(Slot& slot, uint32_t ticket, End end) {
  uint64_t share = slot.share.load(std::memory_order_acquire);
  while (ticket_of(share) == ticket) {
    const uint32_t first = share >> 16 & 0xffff, last = share & 0xffff;
    if (first >= last) return -1;
    const uint64_t rest = end == End::FIRST ? share_of(ticket, first + 1, last) : share_of(ticket, first, last - 1);
    if (slot.share.compare_exchange_weak(share, rest, std::memory_order_acq_rel, std::memory_order_acquire))
      return int(end == End::FIRST ? first : last - 1);
  }
  return -1;
}

// Do one's own share of a job, then what is left of the others'. Returns how many numbers that were.
uint32_t ThreadPool::take_part(int thread, uint32_t ticket) {
  Slot& own = slots_[thread];
  uint32_t done = 0;
  for (int i = 0; i < size(); i++) {
    Slot& slot = slots_[(thread + i) % size()];
    for (int number; (number = take(slot, ticket, i ? End::LAST : End::FIRST)) >= 0;) {
      const int begin = number * own.group, end = own.n - begin < own.group ? own.n : begin + own.group;
      for (int item = begin; item < end; item++) own.call(own.context, item, thread);
      own.done.store(uint64_t(ticket) << 32 | ++done, std::memory_order_release);
    }
  }
  return done;
}

void ThreadPool::work(int thread) {
  uint32_t ticket = 0;
  while (!stop_) {
    const uint32_t now = wait_for_job(thread, ticket);
    if (now != ticket) take_part(thread, now);
    ticket = now;
  }
}

// Return the ticket of a job other than the last one, or the last one when the pool stops.
uint32_t ThreadPool::wait_for_job(int thread, uint32_t last) {
  const auto newest = [&] { return ticket_of(slots_[thread].share.load(std::memory_order_acquire)); };
  const auto ready = [&] { return newest() != last || stop_.load(std::memory_order_relaxed); };
  if (!spin(ready)) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_++;
    wake_.wait(lock, ready);
    sleepers_--;
  }
  return newest();
}

}  // namespace rkllm
