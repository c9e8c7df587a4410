// SPDX-License-Identifier: Apache-2.0
// Signals belong to the program's own threads.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace rkllm {

// While one lives, the calling thread starts threads that no signal of the program is delivered to: a handler that
// destroys a model must not run on a thread that this model waits for. What a thread does to itself (a bad access)
// stays its own.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace rkllm
