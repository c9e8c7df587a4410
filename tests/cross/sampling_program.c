/* SPDX-License-Identifier: Apache-2.0
 *
 * Print tokens drawn with many settings, and the bits of log-probabilities: the same on every machine. */
#include <stdio.h>
#include <string.h>

#include "rkllm_ext.h"

#define VOCABULARY 5000
#define DRAWS 40

static uint32_t state = 1;

static uint32_t next(void) { return (state = state * 1664525u + 1013904223u) >> 8; }

/* Logits as a model gives them: a few large ones, many small ones, equal ones among them. */
static void fill(float* logits) {
  int i;
  for (i = 0; i < VOCABULARY; ++i) logits[i] = (float)(next() % 4096) / 512.0f - (next() % 16 ? 6.0f : 0.0f);
}

static void draw(const RKLLMExtSampling* settings, float* logits) {
  RKLLMExtSampler* sampler = NULL;
  int32_t history[DRAWS], i;
  if (rkllm_ext_sampler_open(settings, next(), &sampler) != 0) return;
  for (i = 0; i < DRAWS; ++i) {
    fill(logits);
    if (rkllm_ext_sample(sampler, logits, VOCABULARY, history, (size_t)i, NULL, &history[i]) != 0) break;
    printf(" %d", (int)history[i]);
  }
  rkllm_ext_sampler_close(sampler);
}

static void print_logprobs(float* logits) {
  float own, values[20];
  int32_t ids[20];
  uint32_t bits;
  size_t count = 0, i;
  fill(logits);
  if (rkllm_ext_top_logprobs(logits, VOCABULARY, 7, 20, &own, ids, values, &count) != 0) return;
  for (i = 0; i < count; ++i) {
    memcpy(&bits, &values[i], sizeof bits);
    printf(" %d:%08x", (int)ids[i], (unsigned)bits);
  }
  memcpy(&bits, &own, sizeof bits);
  printf(" %08x\n", (unsigned)bits);
}

int main(void) {
  static const float temperatures[] = {0.3f, 0.8f, 1.0f, 5.0f}, top_p[] = {1.0f, 0.95f, 0.5f}, min_p[] = {0.0f, 0.02f};
  static float logits[VOCABULARY];
  int mirostat, t, p, m;
  for (mirostat = 0; mirostat <= 2; ++mirostat)
    for (t = 0; t < 4; ++t)
      for (p = 0; p < 3; ++p)
        for (m = 0; m < 2; ++m) {
          RKLLMExtSampling settings = rkllm_ext_default_sampling();
          settings.mirostat = mirostat;
          settings.temperature = temperatures[t];
          settings.top_k = p == 1 ? 40 : 0;
          settings.top_p = top_p[p];
          settings.min_p = min_p[m];
          settings.mirostat_tau = 2.0f + (float)(p + m);
          draw(&settings, logits);
          print_logprobs(logits);
        }
  return 0;
}
