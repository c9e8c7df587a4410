// SPDX-License-Identifier: Apache-2.0
// Persistent threads that take numbered items of one job at a time. Workers spin briefly between jobs, then sleep, so
// that a decode loop finds them awake and an idle process uses no CPU. Items are taken one by one: a thread that has
// lost its core to another process delays the job by at most the item it holds.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
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
  void stop();
  void dispatch(int n, Call call, const void* context);
  void work(int thread);
  void take_items(int thread);
  uint32_t wait_for_job(uint32_t last);

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> ticket_{0};  // odd: a job is open; changes with every opening and closing
  std::atomic<int> inside_{0};       // workers that may be reading the job
  std::atomic<int> next_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  int n_ = 0;  // the job; written only while it is closed and nobody is inside
  Call call_ = nullptr;
  const void* context_ = nullptr;
};

}  // namespace rkllm
