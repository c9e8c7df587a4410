// SPDX-License-Identifier: Apache-2.0
// Which of the machine's cores compute when nobody says how many threads there shall be.
#pragma once

#include <sched.h>

#include <string>
#include <vector>

namespace rkllm {

constexpr int kMostThreads = 256;

struct Cores {
  int count = 1;          // threads, at least 1
  std::vector<int> cpus;  // the processors to keep them on, where there are weaker ones as well; empty: all are alike
};

// Of the allowed processors: their physical cores, hyperthreads counted once, without those that are much weaker than
// the strongest (big.LITTLE), and no more than the quota of the control group pays for. Reads sys and proc below root
// ("").
Cores choose_cores(const std::string& root, const std::vector<int>& allowed);

// Of those that the calling thread may run on. RKLLM_EXT_THREADS gives another count, and keeps nothing anywhere.
// Throws Error(INVALID_ARGUMENT) when that is no number of threads.
Cores default_cores();

// While it lives, the calling thread runs on these processors only (where the system lets it), and so will, for good,
// the threads that it starts. Nothing happens when the list is empty.
class KeptOn {
 public:
  explicit KeptOn(const std::vector<int>& cpus);
  ~KeptOn();
  KeptOn(const KeptOn&) = delete;
  KeptOn& operator=(const KeptOn&) = delete;

 private:
  cpu_set_t before_;
  bool changed_ = false;
};

}  // namespace rkllm
