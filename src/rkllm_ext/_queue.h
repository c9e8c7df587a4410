/* SPDX-License-Identifier: Apache-2.0
 *
 * The queue between the library's thread, which calls back for each token, and the Python thread that consumes.
 *
 * It has two sides: the producer writes one while the consumer reads the other, and the consumer swaps them when its
 * own is used up, so that many tokens cost one lock and none a malloc. A full side makes the producer wait. The end of
 * the run is kept apart from the entries and therefore never lost or delayed. The producer's half touches no Python:
 * it runs without the GIL.
 *
 * Both halves hold a reference; the last one to let go frees the queue. The producer lets go at the end of the run. */
#ifndef RKLLM_EXT_QUEUE_H
#define RKLLM_EXT_QUEUE_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "rkllm.h"

#define QUEUE_ENTRIES 1024
#define QUEUE_HALF (QUEUE_ENTRIES / 2)

typedef struct {
  size_t count;
  int32_t ids[QUEUE_ENTRIES];
  size_t ends[QUEUE_ENTRIES]; /* where the text of an entry ends; it begins where the one before it ends */
  char* text;
  size_t room;
  float* logprobs;            /* [QUEUE_ENTRIES, 1 + top]: of each entry's token and its alternatives; NULL: none */
  int32_t* alternatives;      /* [QUEUE_ENTRIES, top] ids, -1 behind the last one */
} queue_side;

/* rkllm_ext_token_logprobs. */
typedef int (*queue_logprobs)(LLMHandle handle, float* chosen, int32_t* ids, float* logprobs, size_t capacity,
                              size_t* count);

typedef struct {
  pthread_mutex_t mutex;
  pthread_cond_t filled;  /* the producer has put an entry or the end */
  pthread_cond_t emptied; /* the consumer has swapped, or nothing waits any more */
  queue_side sides[2];
  int writing;      /* which side is the producer's */
  int end;          /* 0, or the LLMCallState that ended the run */
  int flowing;      /* 0: the producer never waits, what does not fit is dropped */
  int keeping;      /* 0: entries are dropped */
  int reads_end;    /* 1: text held back until FINISH is read; another library may leave anything there */
  int out_of_memory;
  int event;        /* an eventfd, readable while an entry or the end waits to be taken; -1: none */
  int references;
  queue_logprobs read_logprobs; /* NULL: not asked for */
  LLMHandle handle;             /* whom to ask */
  size_t top;                   /* alternatives of each token */
} queue;

static queue* queue_new(void) {
  queue* q = (queue*)calloc(1, sizeof *q);
  pthread_condattr_t attributes;
  if (q == NULL) return NULL;
  pthread_mutex_init(&q->mutex, NULL);
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC); /* a changed wall clock must not stretch a wait */
  pthread_cond_init(&q->filled, &attributes);
  pthread_cond_init(&q->emptied, &attributes);
  pthread_condattr_destroy(&attributes);
  q->flowing = q->keeping = q->references = 1;
  q->event = -1;
  return q;
}

static void queue_retain(queue* q) {
  pthread_mutex_lock(&q->mutex);
  ++q->references;
  pthread_mutex_unlock(&q->mutex);
}

static void queue_release(queue* q) {
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
  pthread_cond_destroy(&q->filled);
  pthread_cond_destroy(&q->emptied);
  pthread_mutex_destroy(&q->mutex);
  free(q);
}

/* Before the run: keep the log-probability of each token and of `top` alternatives. Returns 0 when memory could not be
 * had. */
static int queue_want_logprobs(queue* q, queue_logprobs read_logprobs, LLMHandle handle, size_t top) {
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
  while (q->sides[q->writing].count == QUEUE_ENTRIES && q->flowing) pthread_cond_wait(&q->emptied, &q->mutex);
  side = &q->sides[q->writing];
  if (q->keeping && side->count < QUEUE_ENTRIES) {
    if (q->read_logprobs != NULL) queue_put_logprobs(q, side, id);
    if (!queue_append(side, id, text, length)) q->out_of_memory = 1;
    if (side->count == 1 || side->count == QUEUE_HALF || q->out_of_memory) queue_notify(q);
  }
  pthread_mutex_unlock(&q->mutex);
}

static void queue_put(queue* q, int32_t id, const char* text) {
  queue_put_bytes(q, id, text, text != NULL ? strlen(text) : 0);
}

/* The text that came with FINISH, as an entry with the id -1; less the U+FFFD of a character that never became
 * whole. */
static void queue_put_rest(queue* q, const char* text) {
  size_t length = text != NULL ? strlen(text) : 0;
  if (length >= 3 && memcmp(text + length - 3, "\xef\xbf\xbd", 3) == 0) length -= 3;
  if (length > 0) queue_put_bytes(q, -1, text, length);
}

static void queue_put_end(queue* q, int state) {
  pthread_mutex_lock(&q->mutex);
  q->end = state;
  queue_notify(q);
  pthread_mutex_unlock(&q->mutex);
}

/* The callback that rkllm_init is given. userdata is the queue of the run. */
static void queue_callback(RKLLMResult* result, void* userdata, LLMCallState state) {
  queue* q = (queue*)userdata;
  if (q == NULL) return;
  if (state == RKLLM_RUN_NORMAL || state == RKLLM_RUN_WAITING) {
    if (result != NULL) queue_put(q, result->token_id, result->text);
  } else if (state == RKLLM_RUN_FINISH || state == RKLLM_RUN_ERROR) {
    if (q->reads_end && state == RKLLM_RUN_FINISH && result != NULL) queue_put_rest(q, result->text);
    queue_put_end(q, (int)state);
    queue_release(q);
  }
}

/* ---- the consumer ------------------------------------------------------------------------------------------------ */

/* Wait for the end of the run or for some entries (1 or QUEUE_HALF; 0: the end alone), at most the given time. Returns
 * whether they came. */
static int queue_wait(queue* q, int milliseconds, size_t entries) {
  struct timespec until;
  int ready, expired = 0;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += (long)(milliseconds % 1000) * 1000000L;
  until.tv_sec += milliseconds / 1000 + until.tv_nsec / 1000000000L;
  until.tv_nsec %= 1000000000L;
  pthread_mutex_lock(&q->mutex);
  for (;;) {
    ready = q->end != 0 || (entries > 0 && (q->sides[q->writing].count >= entries || q->out_of_memory));
    if (ready || expired) break;
    expired = pthread_cond_timedwait(&q->filled, &q->mutex, &until) == ETIMEDOUT;
  }
  pthread_mutex_unlock(&q->mutex);
  return ready;
}

/* The state that ended the run, or 0 while it lasts. Never waits. */
static int queue_end(queue* q) {
  int end;
  pthread_mutex_lock(&q->mutex);
  end = q->end;
  pthread_mutex_unlock(&q->mutex);
  return end;
}

/* Swap the sides and return what the producer has put; it stays valid until the next call. Never waits. */
static queue_side* queue_take(queue* q) {
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

/* From now on the producer never waits. With keeping 0 the entries go as well. */
static void queue_let_run_out(queue* q, int keeping) {
  pthread_mutex_lock(&q->mutex);
  q->flowing = 0;
  if (!keeping) q->keeping = 0;
  pthread_cond_broadcast(&q->emptied);
  pthread_mutex_unlock(&q->mutex);
}

/* Return the eventfd, made at the first call; -1 and errno when it cannot be had. */
static int queue_event(queue* q) {
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

#endif /* RKLLM_EXT_QUEUE_H */
