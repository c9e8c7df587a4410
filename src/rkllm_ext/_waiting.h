/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting on a condition for at most some milliseconds. Include it behind _GNU_SOURCE, which CLOCK_MONOTONIC needs. */
#ifndef RKLLM_EXT_WAITING_H
#define RKLLM_EXT_WAITING_H

#include <pthread.h>
#include <time.h>

/* Make a condition whose waits a changed wall clock does not stretch. */
static inline void waiting_init(pthread_cond_t* condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

/* Return the moment, for pthread_cond_timedwait, that comes so many milliseconds from now. */
static inline struct timespec waiting_until(int milliseconds) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += (long)(milliseconds % 1000) * 1000000L;
  until.tv_sec += milliseconds / 1000 + until.tv_nsec / 1000000000L;
  until.tv_nsec %= 1000000000L;
  return until;
}

#endif
