// SPDX-License-Identifier: Apache-2.0
#include "cores.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <utility>

#include "error.h"

namespace rkllm {
namespace {

constexpr int kLeastShare = 60;  // percent of the strongest core's capacity that a core must have to be a big one

// The first line of a small file; "" when there is none.
std::string first_line(const std::string& path) {
  char line[512] = "";
  if (FILE* file = fopen(path.c_str(), "r")) {
    if (!fgets(line, sizeof line, file)) line[0] = '\0';
    fclose(file);
  }
  std::string text = line;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

int number_in(const std::string& path, int otherwise) {
  const std::string text = first_line(path);
  char* end = nullptr;
  const long number = strtol(text.c_str(), &end, 10);
  return text.empty() || *end || number < 0 || number > 1000000000 ? otherwise : int(number);
}

std::string folder_of(const std::string& root, int cpu) {
  return root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/";
}

// The processors that are not much weaker than the strongest. Without capacities, which x86 seldom has, all of them.
std::vector<int> strong_ones(const std::string& root, const std::vector<int>& allowed) {
  int most = 0;
  for (int cpu : allowed) most = std::max(most, number_in(folder_of(root, cpu) + "cpu_capacity", 0));
  std::vector<int> strong;
  for (int cpu : allowed)
    if (number_in(folder_of(root, cpu) + "cpu_capacity", most) >= int64_t(most) * kLeastShare / 100)
      strong.push_back(cpu);
  return strong;
}

int physical_cores(const std::string& root, const std::vector<int>& cpus) {
  std::set<std::pair<int, int>> cores;  // (package, core): hyperthreads of one core share an entry
  int without_topology = 0;
  for (int cpu : cpus) {
    const std::string folder = folder_of(root, cpu) + "topology/";
    const int core = number_in(folder + "core_id", -1);
    if (core < 0) without_topology++;
    else cores.insert({number_in(folder + "physical_package_id", -1), core});
  }
  return int(cores.size()) + without_topology;
}

// Processors that a quota in microseconds of a period pays for, a part of one as a whole; no quota: as many as can be.
int paid_for(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return kMostThreads;
  return int(std::min<long long>((quota + period - 1) / period, kMostThreads));
}

// The control group's path, of version 2: the line that begins with "0::".
std::string group_of(const std::string& root) {
  std::string path;
  if (FILE* file = fopen((root + "/proc/self/cgroup").c_str(), "r")) {
    char line[4096];
    while (fgets(line, sizeof line, file)) {
      std::string text = line;
      while (!text.empty() && text.back() == '\n') text.pop_back();
      if (text.compare(0, 3, "0::") == 0) path = text.substr(3);
    }
    fclose(file);
  }
  return path == "/" ? "" : path;
}

// What the group and every group around it allow.
int quota(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  int least = kMostThreads;
  for (std::string group = group_of(root);; group.erase(group.find_last_of('/'))) {
    long long limit = 0, period = 0;  // "max 100000" has no limit
    if (sscanf(first_line(mount + group + "/cpu.max").c_str(), "%lld %lld", &limit, &period) == 2)
      least = std::min(least, paid_for(limit, period));
    if (group.find('/') == group.npos) break;
  }
  const int limit = number_in(mount + "/cpu/cpu.cfs_quota_us", 0);  // version 1; -1: no limit
  return std::min(least, paid_for(limit, number_in(mount + "/cpu/cpu.cfs_period_us", 0)));
}

std::vector<int> allowed_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
  return cpus;
}

}  // namespace

Cores choose_cores(const std::string& root, const std::vector<int>& allowed) {
  const std::vector<int> strong = strong_ones(root, allowed);
  Cores cores;
  cores.count = std::max(1, std::min(physical_cores(root, strong), quota(root)));
  if (strong.size() < allowed.size()) cores.cpus = strong;
  return cores;
}

Cores default_cores() {
  const char* wanted = getenv("RKLLM_EXT_THREADS");
  if (!wanted || !*wanted) return choose_cores("", allowed_cpus());
  char* end = nullptr;
  const long number = strtol(wanted, &end, 10);
  if (*end || number < 1 || number > kMostThreads)
    throw Error(ErrorCode::INVALID_ARGUMENT,
                format("RKLLM_EXT_THREADS is '%s', but must be 1 to %d", wanted, kMostThreads));
  return {int(number), {}};
}

KeptOn::KeptOn(const std::vector<int>& cpus) {
  if (cpus.empty() || sched_getaffinity(0, sizeof before_, &before_) != 0) return;
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (int cpu : cpus)
    if (cpu < CPU_SETSIZE) CPU_SET(cpu, &wanted);
  changed_ = sched_setaffinity(0, sizeof wanted, &wanted) == 0;
}

KeptOn::~KeptOn() {
  if (changed_) sched_setaffinity(0, sizeof before_, &before_);
}

}  // namespace rkllm
