/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* CLOCK_MONOTONIC under -std=c99 */
#endif
#include "_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "_waiting.h"

queue* queue_new(void) {
  queue* q = (queue*)calloc(1, sizeof *q);
  if (q == NULL) return NULL;
  pthread_mutex_init(&q->mutex, NULL);
  waiting_init(&q->filled);
  waiting_init(&q->emptied);
  q->flowing = q->keeping = q->references = 1;
  q->event = -1;
  return q;
}

void queue_retain(queue* q) {
  pthread_mutex_lock(&q->mutex);
  ++q->references;
  pthread_mutex_unlock(&q->mutex);
}

void queue_release(queue* q) {
  int left, side;
  pthread_mutex_lock(&q->mutex);
  left = --q->references;
  pthread_mutex_unlock(&q->mutex);
  if (left > 0) return;
  if (q->event >= 0) close(q->event);
  for (side = 0; side < 2; ++side) {
    free(q->sides[side].text);
    free(q->sides[side].logprobs);
    free(q->sides[side].alternatives);
  }
  free(q->rows);
  pthread_cond_destroy(&q->filled);
  pthread_cond_destroy(&q->emptied);
  pthread_mutex_destroy(&q->mutex);
  free(q);
}

int queue_want_logprobs(queue* q, queue_logprobs read_logprobs, LLMHandle handle, size_t top) {
  int side;
  for (side = 0; side < 2; ++side) {
    q->sides[side].logprobs = (float*)malloc(QUEUE_ENTRIES * (1 + top) * sizeof(float));
    q->sides[side].alternatives = (int32_t*)malloc(QUEUE_ENTRIES * (1 + top) * sizeof(int32_t));
    if (q->sides[side].logprobs == NULL || q->sides[side].alternatives == NULL) return 0;
  }
  q->read_logprobs = read_logprobs;
  q->handle = handle;
  q->top = top;
  return 1;
}

/* ---- the producer ------------------------------------------------------------------------------------------------ */

/* With the mutex held: wake whoever waits for the consumer's half. */
static void queue_notify(queue* q) {
  const uint64_t one = 1;
  pthread_cond_broadcast(&q->filled);
  /* A failed write means a full counter, which is readable already. */
  if (q->event >= 0 && write(q->event, &one, sizeof one) < 0) return;
}

/* With the mutex held: append an entry. Returns 0 when memory could not be had. */
static int queue_append(queue_side* side, int32_t id, const char* text, size_t length) {
  const size_t begin = side->count > 0 ? side->ends[side->count - 1] : 0;
  if (begin + length > side->room) {
    const size_t room = 2 * (begin + length) + 4096;
    char* grown = (char*)realloc(side->text, room);
    if (grown == NULL) return 0;
    side->text = grown;
    side->room = room;
  }
  if (length > 0) memcpy(side->text + begin, text, length);
  side->ids[side->count] = id;
  side->ends[side->count] = begin + length;
  ++side->count;
  return 1;
}

/* With the mutex held and inside a token's callback: the numbers of the entry that comes next. */
static void queue_put_logprobs(queue* q, queue_side* side, int32_t id) {
  float* logprobs = side->logprobs + side->count * (1 + q->top);
  int32_t* alternatives = side->alternatives + side->count * q->top;
  size_t count = 0, i;
  if (id < 0 || q->read_logprobs(q->handle, logprobs, alternatives, logprobs + 1, q->top, &count) != 0) count = 0;
  for (i = count; i < q->top; ++i) alternatives[i] = -1;
}

static void queue_put_bytes(queue* q, int32_t id, const char* text, size_t length) {
  queue_side* side;
  pthread_mutex_lock(&q->mutex);
  if (id >= 0) ++q->tokens;
  while (q->sides[q->writing].count == QUEUE_ENTRIES && q->flowing) pthread_cond_wait(&q->emptied, &q->mutex);
  side = &q->sides[q->writing];
  if (q->keeping && side->count < QUEUE_ENTRIES) {
    if (q->read_logprobs != NULL) queue_put_logprobs(q, side, id);
    if (!queue_append(side, id, text, length)) q->out_of_memory = 1;
    if (side->count == 1 || side->count == QUEUE_HALF || q->out_of_memory) queue_notify(q);
  }
  pthread_mutex_unlock(&q->mutex);
}

void queue_put(queue* q, int32_t id, const char* text) {
  queue_put_bytes(q, id, text, text != NULL ? strlen(text) : 0);
}

/* The text that came with FINISH, as an entry with the id -1; less the U+FFFD of a character that never became
 * whole. */
static void queue_put_rest(queue* q, const char* text) {
  size_t length = text != NULL ? strlen(text) : 0;
  if (length >= 3 && memcmp(text + length - 3, "\xef\xbf\xbd", 3) == 0) length -= 3;
  if (length > 0) queue_put_bytes(q, -1, text, length);
}

void queue_put_end(queue* q, int state) {
  pthread_mutex_lock(&q->mutex);
  q->end = state;
  queue_notify(q);
  pthread_mutex_unlock(&q->mutex);
}

void queue_put_rows(queue* q, const float* data, int rows, int cols) {
  const size_t bytes = sizeof(float) * (size_t)(rows > 0 ? rows : 0) * (size_t)(cols > 0 ? cols : 0);
  if (data == NULL || bytes == 0) return;
  pthread_mutex_lock(&q->mutex);
  if (q->rows == NULL) {
    q->rows = (float*)malloc(bytes);
    if (q->rows != NULL) {
      memcpy(q->rows, data, bytes);
      q->n_rows = (size_t)rows;
      q->n_cols = (size_t)cols;
    } else {
      q->out_of_memory = 1;
    }
  }
  pthread_mutex_unlock(&q->mutex);
}

void queue_put_figures(queue* q, const queue_figures* figures) {
  pthread_mutex_lock(&q->mutex);
  q->figures = *figures;
  q->has_figures = 1;
  pthread_mutex_unlock(&q->mutex);
}

void queue_finish(queue* q, int state, const char* text) {
  if (q->by_thread) {
    pthread_mutex_lock(&q->mutex);
    q->said = state;
    pthread_mutex_unlock(&q->mutex);
    return;
  }
  if (q->reads_end && state == RKLLM_RUN_FINISH) queue_put_rest(q, text);
  queue_put_end(q, state);
  queue_release(q);
}

/* ---- the consumer ------------------------------------------------------------------------------------------------ */

int queue_wait(queue* q, int milliseconds, size_t entries) {
  const struct timespec until = waiting_until(milliseconds);
  int ready, expired = 0;
  pthread_mutex_lock(&q->mutex);
  for (;;) {
    ready = q->end != 0 || (entries > 0 && (q->sides[q->writing].count >= entries || q->out_of_memory));
    if (ready || expired) break;
    expired = pthread_cond_timedwait(&q->filled, &q->mutex, &until) == ETIMEDOUT;
  }
  pthread_mutex_unlock(&q->mutex);
  return ready;
}

int queue_end(queue* q) {
  int end;
  pthread_mutex_lock(&q->mutex);
  end = q->end;
  pthread_mutex_unlock(&q->mutex);
  return end;
}

queue_side* queue_take(queue* q) {
  queue_side* taken;
  uint64_t count;
  pthread_mutex_lock(&q->mutex);
  taken = &q->sides[q->writing];
  q->writing = 1 - q->writing;
  q->sides[q->writing].count = 0;
  /* The event is reset with the queue, unless the end is in it: that one is never taken away. */
  if (q->event >= 0 && q->end == 0 && read(q->event, &count, sizeof count) < 0) count = 0;
  pthread_cond_broadcast(&q->emptied);
  pthread_mutex_unlock(&q->mutex);
  return taken;
}

void queue_let_run_out(queue* q, int keeping) {
  pthread_mutex_lock(&q->mutex);
  q->flowing = 0;
  if (!keeping) q->keeping = 0;
  pthread_cond_broadcast(&q->emptied);
  pthread_mutex_unlock(&q->mutex);
}

int queue_is_let_go(queue* q) {
  int let_go;
  pthread_mutex_lock(&q->mutex);
  let_go = !q->flowing;
  pthread_mutex_unlock(&q->mutex);
  return let_go;
}

int queue_event(queue* q) {
  int event;
  pthread_mutex_lock(&q->mutex);
  if (q->event < 0) {
    q->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (q->event >= 0 && (q->sides[q->writing].count > 0 || q->end != 0)) queue_notify(q);
  }
  event = q->event;
  pthread_mutex_unlock(&q->mutex);
  return event;
}
