/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two demo programs have in common: functions that not every library has, Ctrl-C, and the end of a run.
 */
#ifndef DEMO_H
#define DEMO_H

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rkllm.h"

/* ---- functions of rkllm_ext.h, looked up: the vendor's library lacks them --------------------------------------- */

static void* demo_look_up(const char* name) {
  static void* program;
  if (!program) program = dlopen(NULL, RTLD_LAZY); /* the program with all its libraries */
  return program ? dlsym(program, name) : NULL;
}

/* Return why the last call failed, or the best there is without rkllm_ext_last_error. */
static const char* demo_reason(LLMHandle handle) {
  const char* (*last_error)(LLMHandle) = NULL;
  void* found = demo_look_up("rkllm_ext_last_error");
  memcpy(&last_error, &found, sizeof found); /* C knows no cast from void* to a function */
  return last_error ? last_error(handle) : "the library does not say why";
}

/* Set an option written NAME=VALUE. Return 0, or say what is wrong. */
static int demo_set_option(LLMHandle handle, const char* assignment) {
  int (*set_option)(LLMHandle, const char*, const char*) = NULL;
  void* found = demo_look_up("rkllm_ext_set_option");
  char name[64];
  const char* equals = strchr(assignment, '=');
  memcpy(&set_option, &found, sizeof found);
  if (!set_option || !equals || (size_t)(equals - assignment) >= sizeof name) {
    fprintf(stderr, "--option %s: %s\n", assignment, set_option ? "write NAME=VALUE" : "this library has no options");
    return -1;
  }
  memcpy(name, assignment, (size_t)(equals - assignment));
  name[equals - assignment] = 0;
  if (set_option(handle, name, equals + 1) == 0) return 0;
  fprintf(stderr, "--option %s: %s\n", assignment, demo_reason(handle));
  return -1;
}

/* ---- Ctrl-C ------------------------------------------------------------------------------------------------------ */

static LLMHandle demo_handle;
static volatile sig_atomic_t demo_running;   /* a run is active */
static volatile sig_atomic_t demo_stops;     /* Ctrl-C during this run */
static volatile sig_atomic_t demo_leave;     /* Ctrl-C while nothing ran, or twice during a run */
static volatile sig_atomic_t demo_destroyed; /* the handler has ended the model */

/* The first Ctrl-C of a run ends the answer, the second one the model. Both calls may come from a signal handler while
 * a run is active; on an idle model destroy frees memory, which a handler must not do: there the main loop leaves. */
static void demo_on_interrupt(int number) {
  (void)number;
  if (!demo_running) {
    demo_leave = 1;
  } else if (demo_stops++ == 0) {
    rkllm_abort(demo_handle);
  } else if (!demo_destroyed) {
    demo_leave = demo_destroyed = 1;
    rkllm_destroy(demo_handle);
  }
}

/* Have Ctrl-C handled. Reading a line is to end with it: system calls are not begun again. */
static void demo_handle_interrupts(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = demo_on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
}

static void demo_destroy(void) {
  if (!demo_destroyed && demo_handle) rkllm_destroy(demo_handle);
  demo_handle = NULL;
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

static int demo_pipe[2] = {-1, -1}; /* the last callback of an asynchronous run writes a byte here */
static volatile sig_atomic_t demo_failed;

/* Call this from the callback, last, when the state is FINISH or ERROR. */
static void demo_run_ended(int failed) {
  demo_failed = failed;
  if (demo_pipe[1] >= 0 && write(demo_pipe[1], "", 1) != 1) perror("the end of a run is not told");
}

/* Run an input, with rkllm_run_async when the flag is set, and return 0 when it ended well. */
static int demo_run(RKLLMInput* input, RKLLMInferParam* params, void* userdata, int async) {
  int code;
  char end;
  demo_stops = demo_failed = 0;
  demo_running = 1;
  code = (async ? rkllm_run_async : rkllm_run)(demo_handle, input, params, userdata);
  /* What the run reads must stay until its last callback. A signal may interrupt the waiting. */
  if (async && code == 0)
    while (read(demo_pipe[0], &end, 1) < 0 && errno == EINTR) continue;
  demo_running = 0;
  if (code != 0 || demo_failed) {
    fprintf(stderr, "the run failed: %s\n", demo_reason(demo_destroyed ? NULL : demo_handle));
    return -1;
  }
  return 0;
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

/* Return the number of an argument, or leave: a wrong number would only be found when the model is loaded. */
static int demo_number(const char* name, const char* text) {
  char* end;
  const long number = strtol(text, &end, 10);
  if (*text && !*end && number >= -1 && number <= 1 << 24) return (int)number;
  fprintf(stderr, "%s is '%s', but must be a number\n", name, text);
  exit(2);
}

/* Read a line of stdin without its end into *line, which grows. Return 0 at the end of the input, or after Ctrl-C. */
static int demo_read_line(const char* ask, char** line, size_t* capacity) {
  ssize_t length;
  if (isatty(STDIN_FILENO)) {
    fputs(ask, stdout);
    fflush(stdout);
  }
  length = getline(line, capacity, stdin);
  if (length < 0 || demo_leave) return 0;
  if (length > 0 && (*line)[length - 1] == '\n') (*line)[length - 1] = 0;
  return 1;
}

/* Return prefix, line and suffix as one string, with \n of the former turned into line ends. The caller frees it. */
static char* demo_prompt(const char* prefix, const char* line, const char* suffix) {
  const char* parts[3];
  char* prompt = (char*)malloc(strlen(prefix) + strlen(line) + strlen(suffix) + 1);
  char* out = prompt;
  int part;
  if (!prompt) return NULL;
  parts[0] = prefix, parts[1] = line, parts[2] = suffix;
  for (part = 0; part < 3; part++) {
    const char* in = parts[part];
    for (; *in; in++) {
      if (part != 1 && in[0] == '\\' && in[1] == 'n') *out++ = '\n', in++;
      else *out++ = *in;
    }
  }
  *out = 0;
  return prompt;
}

#endif /* DEMO_H */
