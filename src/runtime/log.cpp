// SPDX-License-Identifier: Apache-2.0
#include "log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace rkllm {
namespace {

std::atomic<int> level_now{0};
std::mutex& hook_mutex = *new std::mutex;
LogHook active_hook = nullptr;
void* hook_userdata = nullptr;

}  // namespace

int log_level() { return level_now; }

void read_log_level() {
  const char* text = getenv("RKLLM_LOG_LEVEL");
  level_now = text ? atoi(text) : 0;
}

void set_log_hook(LogHook hook, void* userdata) {
  std::lock_guard<std::mutex> lock(hook_mutex);
  active_hook = hook;
  hook_userdata = userdata;
}

void log(int level, char severity, const std::string& text) {
  if (log_level() < level) return;
  const std::string line = std::string(1, severity) + " rkllm: " + text;
  std::lock_guard<std::mutex> lock(hook_mutex);
  if (active_hook) active_hook(line.c_str(), hook_userdata);
  else fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace rkllm
