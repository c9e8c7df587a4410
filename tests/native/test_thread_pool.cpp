// SPDX-License-Identifier: Apache-2.0
// Every item of every job is done exactly once, whether the workers are awake or asleep, and no signal comes to them.
#include "thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>

#include "check.h"

namespace {

// A handler on a worker that destroys what the worker belongs to would wait for itself.
void workers_take_no_signals() {
  rkllm::ThreadPool pool(4);
  std::atomic<int> seen{0}, blocked{0};
  for (int round = 0; round < 2000 && seen < 50; round++) {
    pool.run(64, [&](int, int thread) {
      sigset_t mask;
      pthread_sigmask(SIG_SETMASK, nullptr, &mask);
      if (thread == 0) CHECK(!sigismember(&mask, SIGINT));
      else seen++, blocked += sigismember(&mask, SIGINT) && sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGSEGV);
    });
  }
  CHECK(seen > 0 && seen == blocked);
}

// More items than a share has numbers for.
void large_jobs_are_done_exactly_once() {
  rkllm::ThreadPool pool(3);
  for (int n : {65534, 65535, 65536, 200003}) {
    std::vector<std::atomic<uint8_t>> done(static_cast<size_t>(n));
    pool.run(n, [&](int item, int) { done[size_t(item)]++; });
    for (const auto& count : done) CHECK(count == 1);
  }
}

// Whoever has finished takes from the others: the first items wait until all others are done.
void finished_threads_take_from_the_others() {
  rkllm::ThreadPool pool(2);
  for (int round = 0; round < 200; round++) {
    std::atomic<int> done{0};
    pool.run(64, [&](int item, int) {
      if (item == 0)
        while (done < 63) std::this_thread::yield();
      done++;
    });
    CHECK(done == 64);
  }
}

}  // namespace

int main() {
  workers_take_no_signals();
  large_jobs_are_done_exactly_once();
  finished_threads_take_from_the_others();
  for (int n_threads : {1, 2, 3, 8}) {
    rkllm::ThreadPool pool(n_threads);
    CHECK(pool.size() == n_threads);
    for (int round = 0; round < 3000; round++) {
      const int n = round % 37;
      std::vector<std::atomic<int>> done(static_cast<size_t>(n));
      std::atomic<bool> threads_in_range{true};
      pool.run(n, [&](int item, int thread) {
        done[size_t(item)]++;
        if (thread < 0 || thread >= n_threads) threads_in_range = false;
      });
      for (const auto& count : done) CHECK(count == 1);
      CHECK(threads_in_range);
      if (round % 1000 == 999) std::this_thread::sleep_for(std::chrono::milliseconds(20));  // let them fall asleep
    }
  }
  return check::result();
}
