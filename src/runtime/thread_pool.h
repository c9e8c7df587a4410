// SPDX-License-Identifier: Apache-2.0
// Persistent threads that take the numbered items of one job at a time. Each thread has a share of the items, and a
// memory line that nobody else touches while all have work; who has finished takes from the ends of the others' shares.
// A thread that has lost its core to another process delays the job by at most the item it holds. Workers spin briefly
// between jobs, then sleep, so that a decode loop finds them awake and an idle process uses no CPU.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace rkllm {

// run() may be called by one thread at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);  // the caller of run() counts as one. Throws Error(OUT_OF_MEMORY)
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(workers_.size()) + 1; }

  // Call body(item, thread) for every item in [0, n), thread in [0, size()). body must not throw.
  template <class Body>
  void run(int n, const Body& body) {
    if (workers_.empty() || n <= 1) {
      for (int item = 0; item < n; item++) body(item, 0);
      return;
    }
    dispatch(n, [](const void* context, int item, int thread) { (*static_cast<const Body*>(context))(item, thread); },
             &body);
  }

 private:
  using Call = void (*)(const void* context, int item, int thread);
  static constexpr int kLine = 128;  // bytes that processors move together; some fetch two lines of 64

  // One thread's part of a job. share: the job's ticket and what is left of [begin, end). Whoever exchanges it for a
  // smaller share of the same ticket has an item; the job cannot end before that is done, and so call and context are
  // the job's as well. That is why a job needs no closing: who comes late finds nothing left, or another ticket.
  struct alignas(kLine) Slot {
    std::atomic<uint64_t> share{0};  // ticket << 32 | begin << 16 | end
    Call call = nullptr;
    const void* context = nullptr;
    int group = 1;  // a number of the share stands for so many items
    int n = 0;
    alignas(kLine) std::atomic<uint64_t> done{0};  // ticket << 32 | how many numbers this thread has done
  };
  enum class End { FIRST, LAST };

  void stop();
  void dispatch(int n, Call call, const void* context);
  void work(int thread);
  int take(Slot& slot, uint32_t ticket, End end);
  uint32_t take_part(int thread, uint32_t ticket);
  uint32_t wait_for_job(int thread, uint32_t last);

  std::vector<std::thread> workers_;
  std::unique_ptr<char[]> memory_;  // of the slots, which begin at a whole line of it
  Slot* slots_ = nullptr;           // [size()]
  uint32_t ticket_ = 0;             // of the current job; the caller's
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace rkllm
