/* SPDX-License-Identifier: Apache-2.0
 *
 * The queue of the binding by itself, with a producer thread, to be run under the sanitizers as well: every entry
 * arrives once and in order, the end is never lost, a full queue waits, and letting go in any order frees
 * everything. */
#include <stdio.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "_queue.h"

#define CHECK(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);        \
      exit(1);                                                               \
    }                                                                        \
  } while (0)

typedef struct {
  queue* q;
  int count;
} Run;

static void* produce(void* argument) {
  Run* run = (Run*)argument;
  char text[16];
  int i;
  for (i = 0; i < run->count; ++i) {
    snprintf(text, sizeof text, "%d,", i);
    queue_put(run->q, i, text);
  }
  queue_finish(run->q, RKLLM_RUN_FINISH, NULL);
  return NULL;
}

static pthread_t start(Run* run, int count) {
  pthread_t thread;
  run->q = queue_new();
  run->count = count;
  CHECK(run->q != NULL);
  queue_retain(run->q);
  CHECK(pthread_create(&thread, NULL, produce, run) == 0);
  return thread;
}

/* Take all that is there; returns the number of the entry after the last one. */
static int take(queue* q, int next) {
  queue_side* side = queue_take(q);
  size_t i, begin = 0;
  for (i = 0; i < side->count; ++i, ++next) {
    char text[16];
    const int length = snprintf(text, sizeof text, "%d,", next);
    CHECK(side->ids[i] == next);
    CHECK(side->ends[i] - begin == (size_t)length && memcmp(side->text + begin, text, (size_t)length) == 0);
    begin = side->ends[i];
  }
  return next;
}

static int read_all(queue* q, size_t entries) {
  int next = 0, end;
  do {
    queue_wait(q, 50, entries);
    end = queue_end(q); /* before take: what came before the end is then taken */
    next = take(q, next);
  } while (!end);
  CHECK(queue_end(q) == RKLLM_RUN_FINISH);
  return next;
}

static void every_entry_arrives_once_and_in_order(size_t entries) {
  Run run;
  pthread_t thread = start(&run, 100000);
  CHECK(read_all(run.q, entries) == 100000);
  pthread_join(thread, NULL);
  queue_release(run.q);
}

static void an_unread_run_waits_and_then_runs_out(int keeping) {
  Run run;
  pthread_t thread = start(&run, 100000);
  int next;
  while (!queue_wait(run.q, 50, QUEUE_HALF)) continue;
  CHECK(queue_end(run.q) == 0); /* 100000 entries do not fit */
  queue_let_run_out(run.q, keeping);
  while (!queue_wait(run.q, 50, 0)) continue;
  next = take(run.q, 0);
  CHECK(next >= QUEUE_HALF && next <= QUEUE_ENTRIES);
  pthread_join(thread, NULL);
  queue_release(run.q);
}

static void text_of_the_end_is_read_where_the_library_brings_it(int reads_end) {
  queue* q = queue_new();
  queue_side* side;
  CHECK(q != NULL);
  q->reads_end = reads_end;
  queue_retain(q);
  queue_finish(q, RKLLM_RUN_FINISH, "rest\xef\xbf\xbd");
  CHECK(queue_end(q) == RKLLM_RUN_FINISH);
  side = queue_take(q);
  CHECK(side->count == (size_t)reads_end);
  if (reads_end) CHECK(side->ids[0] == -1 && side->ends[0] == 4 && memcmp(side->text, "rest", 4) == 0);
  queue_release(q);
}

/* Stands for rkllm_ext_token_logprobs: the n-th call gives n, and n % 3 alternatives. */
static int count_logprobs(LLMHandle handle, float* chosen, int32_t* ids, float* logprobs, size_t capacity,
                          size_t* count) {
  int* calls = (int*)handle;
  size_t i;
  *chosen = (float)++*calls;
  *count = (size_t)(*calls % 3) < capacity ? (size_t)(*calls % 3) : capacity;
  for (i = 0; i < *count; ++i) {
    ids[i] = *calls + (int32_t)i;
    logprobs[i] = *chosen + (float)i;
  }
  return 0;
}

static void log_probabilities_lie_beside_their_tokens(size_t top) {
  queue* q = queue_new();
  int calls = 0, i;
  queue_side* side;
  CHECK(q != NULL && queue_want_logprobs(q, count_logprobs, &calls, top));
  for (i = 1; i <= 5; ++i) queue_put(q, i, "x");
  q->reads_end = 1;
  queue_retain(q);
  queue_finish(q, RKLLM_RUN_FINISH, "rest"); /* no token: nothing is asked */
  side = queue_take(q);
  CHECK(side->count == 6 && calls == 5);
  for (i = 0; i < 5; ++i) {
    const float* logprobs = side->logprobs + (size_t)i * (1 + top);
    size_t k;
    CHECK(logprobs[0] == (float)(i + 1));
    for (k = 0; k < top; ++k) {
      const int32_t id = side->alternatives[(size_t)i * top + k];
      CHECK(id == (k < (size_t)((i + 1) % 3) ? i + 1 + (int32_t)k : -1));
      if (id >= 0) CHECK(logprobs[1 + k] == (float)id);
    }
  }
  queue_release(q);
}

static void the_consumer_may_let_go_first(void) {
  Run run;
  pthread_t thread = start(&run, 100000);
  queue_let_run_out(run.q, 0);
  queue_release(run.q);
  pthread_join(thread, NULL);
}

static int readable(int event) {
  uint64_t count;
  const int got = read(event, &count, sizeof count) == (ssize_t)sizeof count;
  const uint64_t one = 1;
  if (got) CHECK(write(event, &one, sizeof one) == (ssize_t)sizeof one);
  return got;
}

static void the_event_tells_of_entries_and_of_the_end(void) {
  queue* q = queue_new();
  int event;
  CHECK(q != NULL);
  queue_put(q, 0, "0,");
  event = queue_event(q);
  CHECK(event >= 0 && queue_event(q) == event);
  CHECK(readable(event));
  CHECK(take(q, 0) == 1);
  CHECK(!readable(event));
  CHECK(take(q, 1) == 1);
  queue_put(q, 1, "1,");
  CHECK(readable(event));
  CHECK(take(q, 1) == 2);
  queue_put_end(q, RKLLM_RUN_ERROR);
  CHECK(readable(event));
  CHECK(take(q, 2) == 2);
  CHECK(readable(event)); /* the end stays */
  CHECK(queue_end(q) == RKLLM_RUN_ERROR);
  queue_release(q);
}

static void a_run_by_a_thread_ends_when_the_thread_says_so(void) {
  queue* q = queue_new();
  CHECK(q != NULL);
  q->by_thread = 1;
  queue_finish(q, RKLLM_RUN_ERROR, NULL); /* lets nothing go */
  CHECK(queue_end(q) == 0 && q->said == RKLLM_RUN_ERROR);
  queue_put_end(q, q->said);
  CHECK(queue_end(q) == RKLLM_RUN_ERROR);
  queue_release(q);
}

static void the_first_rows_are_kept(void) {
  const float first[] = {1, 2, 3, 4, 5, 6}, later[] = {7};
  queue* q = queue_new();
  CHECK(q != NULL);
  queue_put_rows(q, NULL, 2, 3);
  queue_put_rows(q, first, 0, 3);
  queue_put_rows(q, first, 2, -1);
  CHECK(q->rows == NULL);
  queue_put_rows(q, first, 2, 3);
  queue_put_rows(q, later, 1, 1);
  CHECK(q->n_rows == 2 && q->n_cols == 3 && memcmp(q->rows, first, sizeof first) == 0);
  queue_release(q);
}

static void a_wait_without_news_ends(void) {
  queue* q = queue_new();
  CHECK(q != NULL);
  CHECK(!queue_wait(q, 1, 1));
  CHECK(!queue_wait(q, 1, 0));
  queue_put(q, 0, NULL); /* no text */
  CHECK(queue_wait(q, 1, 1));
  CHECK(!queue_wait(q, 1, 0));
  CHECK(queue_take(q)->ends[0] == 0);
  queue_release(q);
}

int main(void) {
  every_entry_arrives_once_and_in_order(1);
  every_entry_arrives_once_and_in_order(QUEUE_HALF);
  an_unread_run_waits_and_then_runs_out(0);
  an_unread_run_waits_and_then_runs_out(1);
  the_consumer_may_let_go_first();
  text_of_the_end_is_read_where_the_library_brings_it(0);
  text_of_the_end_is_read_where_the_library_brings_it(1);
  log_probabilities_lie_beside_their_tokens(0);
  log_probabilities_lie_beside_their_tokens(2);
  the_event_tells_of_entries_and_of_the_end();
  a_run_by_a_thread_ends_when_the_thread_says_so();
  the_first_rows_are_kept();
  a_wait_without_news_ends();
  puts("the queue keeps its promises");
  return 0;
}
