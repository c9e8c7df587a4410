/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* CLOCK_MONOTONIC under -std=c99 */
#endif
#include "_decoding.h"

#include <stdlib.h>
#include <string.h>

#include "_waiting.h"

decoding* decoding_new(size_t n, size_t most, size_t n_ends) {
  decoding* d = (decoding*)calloc(1, sizeof *d);
  if (d == NULL) return NULL;
  pthread_mutex_init(&d->mutex, NULL);
  waiting_init(&d->filled);
  d->n = n;
  d->most = most;
  d->tokens = (int32_t*)calloc(n * most, sizeof(int32_t));
  d->ends = (int32_t*)calloc(n_ends + 1, sizeof(int32_t));
  d->begins = (size_t*)calloc(n + 1, sizeof(size_t));
  if (d->tokens != NULL && d->ends != NULL && d->begins != NULL) return d;
  decoding_free(d);
  return NULL;
}

void decoding_free(decoding* d) {
  pthread_cond_destroy(&d->filled);
  pthread_mutex_destroy(&d->mutex);
  free(d->tokens);
  free(d->ends);
  free(d->begins);
  free(d);
}

static int has_end(const decoding* d, const int32_t* tokens) {
  size_t i, at;
  for (i = 0; i < d->n; ++i)
    for (at = d->begins[i]; at < d->begins[i + 1]; ++at)
      if (d->ends[at] == tokens[i]) return 1;
  return 0;
}

int decoding_put(const int32_t* tokens, size_t n, void* userdata) {
  decoding* d = (decoding*)userdata;
  const int ended = has_end(d, tokens);
  int last, wakes;
  pthread_mutex_lock(&d->mutex);
  memcpy(d->tokens + d->put++ * d->n, tokens, n * sizeof(int32_t));
  last = d->last = ended || d->stopped || d->put == d->most;
  wakes = last || !d->resting;
  pthread_mutex_unlock(&d->mutex);
  if (wakes) pthread_cond_signal(&d->filled); /* behind the lock, which whoever wakes up wants */
  return last;
}

void decoding_end(decoding* d) {
  pthread_mutex_lock(&d->mutex);
  d->over = 1;
  pthread_cond_signal(&d->filled);
  pthread_mutex_unlock(&d->mutex);
}

void decoding_stop(decoding* d) {
  pthread_mutex_lock(&d->mutex);
  d->stopped = 1;
  pthread_mutex_unlock(&d->mutex);
}

size_t decoding_wait(decoding* d, int milliseconds, int* over) {
  const struct timespec until = waiting_until(milliseconds);
  size_t waiting;
  pthread_mutex_lock(&d->mutex);
  while (d->put == d->taken && !d->over)
    if (pthread_cond_timedwait(&d->filled, &d->mutex, &until) != 0) break;
  waiting = d->put - d->taken;
  *over = d->over;
  pthread_mutex_unlock(&d->mutex);
  return waiting;
}

void decoding_rest(decoding* d, int milliseconds) {
  const struct timespec until = waiting_until(milliseconds);
  pthread_mutex_lock(&d->mutex);
  d->resting = 1;
  while (!d->last && !d->over)
    if (pthread_cond_timedwait(&d->filled, &d->mutex, &until) != 0) break;
  d->resting = 0;
  pthread_mutex_unlock(&d->mutex);
}
