/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* sigset_t under -std=c99 */
#endif
#include "_generation.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

const char* generation_look_up(generation_symbol symbol, const generation_function* functions, size_t count) {
  size_t i;
  for (i = 0; i < count; ++i) {
    void* found = symbol(functions[i].name);
    if (found == NULL) return functions[i].name;
    memcpy(functions[i].pointer, &found, sizeof found); /* ISO C has no cast from void* to a function pointer */
  }
  return NULL;
}

typedef struct {
  const generation* library;
  LLMHandle handle;
  const run_request* request;
  queue* q;
} started_run;

static void* run_to_the_end(void* argument) {
  started_run run = *(started_run*)argument;
  int state;
  free(argument);
  /* An abort that came before the library knows of the run would be lost on it. */
  if (!queue_is_let_go(run.q)) run.q->code = run.library->run(run.handle, run.request, run.q);
  state = run.q->said;
  if (state == 0) state = run.q->code != 0 ? RKLLM_RUN_ERROR : RKLLM_RUN_FINISH;
  queue_put_end(run.q, state);
  queue_release(run.q);
  return NULL;
}

int generation_start(const generation* library, LLMHandle handle, const run_request* request, queue* q) {
  started_run* run = (started_run*)malloc(sizeof *run);
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  int error;
  if (run == NULL) return ENOMEM;
  run->library = library;
  run->handle = handle;
  run->request = request;
  run->q = q;
  q->by_thread = 1;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigfillset(&all); /* signals are the program's: its handlers run on its own threads */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  error = pthread_create(&thread, &attributes, run_to_the_end, run);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (error != 0) free(run);
  return error;
}
