/* SPDX-License-Identifier: Apache-2.0
 *
 * What several sessions that decode together have chosen, pass by pass, on its way from the thread that computes to the
 * one that reads. The first half touches no Python: it runs without the GIL, so that the next pass begins whatever
 * Python does. */
#ifndef RKLLM_EXT_DECODING_H
#define RKLLM_EXT_DECODING_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  pthread_mutex_t mutex;
  pthread_cond_t filled; /* a pass has been put that somebody waits for, or the end */
  size_t n;              /* sessions */
  size_t most;           /* passes at most */
  int32_t* tokens;       /* [most, n] */
  size_t put, taken;     /* passes */
  int32_t* ends;         /* tokens that end an answer: those of session i are begins[i] ... begins[i + 1] - 1 */
  size_t* begins;        /* [n + 1] */
  int stopped;           /* no further pass is wanted */
  int resting;           /* the reader waits for the last pass only */
  int last;              /* that one has been put */
  int over;              /* nothing more will come */
} decoding;

/* Return one with room for so many ends of all sessions, or NULL. */
decoding* decoding_new(size_t n, size_t most, size_t n_ends);
void decoding_free(decoding* d);

/* ---- the thread that computes ------------------------------------------------------------------------------------ */

/* An RKLLMExtChosen: keep what a pass has chosen. Returns 0 when another one is wanted: none of the tokens is an end,
 * there is room, and nobody has called decoding_stop. */
int decoding_put(const int32_t* tokens, size_t n, void* userdata);

/* Nothing more will come. */
void decoding_end(decoding* d);

/* ---- any other thread -------------------------------------------------------------------------------------------- */

/* The pass that is being computed is the last one. */
void decoding_stop(decoding* d);

/* Wait for a pass or the end, at most the given time. Return the passes that wait to be taken. */
size_t decoding_wait(decoding* d, int milliseconds, int* over);

/* Wait for the last pass or the end, at most the given time: passes before it wake nobody. */
void decoding_rest(decoding* d, int milliseconds);

#endif /* RKLLM_EXT_DECODING_H */
