// SPDX-License-Identifier: Apache-2.0
#include "log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>

namespace rkllm {
namespace {

std::atomic<int> level_now{0};
std::recursive_mutex& hook_mutex = *new std::recursive_mutex;  // a hook may call what logs
LogHook active_hook = nullptr;
void* hook_userdata = nullptr;

}  // namespace

int log_level() { return level_now; }

void read_log_level() {
  const char* text = getenv("RKLLM_LOG_LEVEL");
  level_now = text ? atoi(text) : 0;
}

void set_log_hook(LogHook hook, void* userdata) {
  std::lock_guard<std::recursive_mutex> lock(hook_mutex);
  active_hook = hook;
  hook_userdata = userdata;
}

void log(int level, char severity, const char* text) noexcept {
  if (log_level() < level) return;
  try {
    const std::string line = std::string(1, severity) + " rkllm: " + text;
    std::lock_guard<std::recursive_mutex> lock(hook_mutex);
    if (active_hook) active_hook(line.c_str(), hook_userdata);
    else fprintf(stderr, "%s\n", line.c_str());
  } catch (const std::exception&) {
    // What the program does matters more than what is said about it.
  }
}

}  // namespace rkllm
