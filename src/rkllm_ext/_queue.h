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

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

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

/* What a library says about a run at its end. */
typedef struct {
  double prefill_ms;
  double generate_ms;
  double memory_mb;
  int32_t prefill_tokens;
  int32_t generate_tokens;
} queue_figures;

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
  int by_thread;    /* 1: a thread of _generation.c ends the run, when the library's blocking call has returned */
  int said;         /* then: the LLMCallState of the library's last callback, or 0 */
  int code;         /* and what that call returned */
  int has_figures;
  queue_figures figures;
  size_t tokens;    /* that the library has called back with */
  int wants_rows;   /* the run is to give rows, not tokens */
  float* rows;      /* [n_rows, n_cols], allocated; NULL before they come */
  size_t n_rows, n_cols;
  int out_of_memory;
  int event;        /* an eventfd, readable while an entry or the end waits to be taken; -1: none */
  int references;
  queue_logprobs read_logprobs; /* NULL: not asked for */
  LLMHandle handle;             /* whom to ask */
  size_t top;                   /* alternatives of each token */
} queue;

/* Return a queue with one reference, or NULL. */
queue* queue_new(void);
void queue_retain(queue* q);
void queue_release(queue* q);

/* Before the run: keep the log-probability of each token and of `top` alternatives. Returns 0 when memory could not be
 * had. */
int queue_want_logprobs(queue* q, queue_logprobs read_logprobs, LLMHandle handle, size_t top);

/* ---- the producer ------------------------------------------------------------------------------------------------ */

/* Append a token; text NULL is "". Waits while the queue is full. */
void queue_put(queue* q, int32_t id, const char* text);

/* Keep a copy of the rows of floats that a run gives: the first ones; later ones are of tokens that nobody asked
 * for. */
void queue_put_rows(queue* q, const float* data, int rows, int cols);

void queue_put_figures(queue* q, const queue_figures* figures);

/* The library's FINISH or ERROR, with the text that came with it: the last thing that its callback calls. */
void queue_finish(queue* q, int state, const char* text);

/* End the run, with an LLMCallState. */
void queue_put_end(queue* q, int state);

/* ---- the consumer ------------------------------------------------------------------------------------------------ */

/* Wait for the end of the run or for some entries (1 or QUEUE_HALF; 0: the end alone), at most the given time. Returns
 * whether they came. */
int queue_wait(queue* q, int milliseconds, size_t entries);

/* The state that ended the run, or 0 while it lasts. Never waits. */
int queue_end(queue* q);

/* Swap the sides and return what the producer has put; it stays valid until the next call. Never waits. */
queue_side* queue_take(queue* q);

/* From now on the producer never waits. With keeping 0 the entries go as well. */
void queue_let_run_out(queue* q, int keeping);

/* Whether queue_let_run_out has been called: nobody wants the run any more. */
int queue_is_let_go(queue* q);

/* Return the eventfd, made at the first call; -1 and errno when it cannot be had. */
int queue_event(queue* q);

#endif /* RKLLM_EXT_QUEUE_H */
