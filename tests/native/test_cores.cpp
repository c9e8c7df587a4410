// SPDX-License-Identifier: Apache-2.0
// The threads that a machine gets by default, on machines made of files.
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "cores.h"
#include "error.h"
#include "scratch_folder.h"

namespace {

using namespace rkllm;

std::vector<int> numbers(int n) {
  std::vector<int> list;
  for (int i = 0; i < n; i++) list.push_back(i);
  return list;
}

// A root folder of files in folders, all of which go at the end.
class Machine {
 public:
  Machine() {
    char name[] = "/tmp/rkllm_cores_XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    root_ = name;
  }
  ~Machine() {
    for (auto path = made_.rbegin(); path != made_.rend(); ++path) CHECK(remove(path->c_str()) == 0);
    CHECK(rmdir(root_.c_str()) == 0);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  void put(const std::string& path, const std::string& text) {
    for (size_t at = path.find('/', 1); at != path.npos; at = path.find('/', at + 1))
      if (mkdir((root_ + path.substr(0, at)).c_str(), 0700) == 0) made_.push_back(root_ + path.substr(0, at));
    write_file(root_ + path, text + "\n");
    made_.push_back(root_ + path);
  }
  void cpu(int number, const std::string& file, int value) {
    put("/sys/devices/system/cpu/cpu" + std::to_string(number) + "/" + file, std::to_string(value));
  }
  Cores cores(const std::vector<int>& allowed) const { return choose_cores(root_, allowed); }

 private:
  std::string root_;
  std::vector<std::string> made_;
};

void hyperthreads_count_once() {
  Machine machine;
  for (int cpu = 0; cpu < 8; cpu++) {
    machine.cpu(cpu, "topology/core_id", cpu % 2);
    machine.cpu(cpu, "topology/physical_package_id", cpu / 4);
  }
  CHECK(machine.cores(numbers(8)).count == 4 && machine.cores(numbers(8)).cpus.empty());
  CHECK(machine.cores({0, 2}).count == 1);  // the same core
  CHECK(machine.cores({0, 1, 2}).count == 2);
  CHECK(machine.cores({0, 4}).count == 2);  // another package
}

// RK3588: four weak cores and two pairs of strong ones, which differ a little.
void weak_cores_are_left_alone() {
  Machine machine;
  for (int cpu = 0; cpu < 8; cpu++) machine.cpu(cpu, "cpu_capacity", cpu < 4 ? 398 : cpu < 6 ? 1024 : 1003);
  CHECK(machine.cores(numbers(8)).count == 4);
  CHECK(machine.cores(numbers(8)).cpus == std::vector<int>({4, 5, 6, 7}));
  CHECK(machine.cores({0, 1, 4}).cpus == std::vector<int>({4}));
  CHECK(machine.cores({0, 1}).count == 2 && machine.cores({0, 1}).cpus.empty());  // nothing else is allowed
}

void equal_capacities_keep_nothing_anywhere() {
  Machine machine;
  for (int cpu = 0; cpu < 4; cpu++) machine.cpu(cpu, "cpu_capacity", 1024);
  CHECK(machine.cores(numbers(4)).count == 4 && machine.cores(numbers(4)).cpus.empty());
}

void quotas_limit_the_count() {
  const auto limited = [](const char* path, const char* text) {
    Machine machine;
    machine.put("/proc/self/cgroup", "1:name=systemd:/other\n0::/outer/inner");
    machine.put(path, text);
    return machine.cores(numbers(8)).count;
  };
  CHECK(limited("/sys/fs/cgroup/cpu.max", "200000 100000") == 2);  // where a container sees its own group
  CHECK(limited("/sys/fs/cgroup/outer/cpu.max", "250000 100000") == 3);
  CHECK(limited("/sys/fs/cgroup/outer/inner/cpu.max", "1000 100000") == 1);
  CHECK(limited("/sys/fs/cgroup/outer/inner/cpu.max", "max 100000") == 8);
  CHECK(limited("/sys/fs/cgroup/cpu.max", "nonsense") == 8);
  Machine old;
  old.put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000");
  old.put("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  CHECK(old.cores(numbers(8)).count == 4);
  Machine unlimited;
  unlimited.put("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
  CHECK(unlimited.cores(numbers(8)).count == 8);
}

void a_machine_that_says_nothing_has_what_is_allowed() {
  const Machine machine;
  CHECK(machine.cores(numbers(3)).count == 3 && machine.cores({}).count == 1);
}

void the_environment_chooses_the_count() {
  CHECK(setenv("RKLLM_EXT_THREADS", "3", 1) == 0);
  CHECK(default_cores().count == 3 && default_cores().cpus.empty());
  for (const char* wrong : {"0", "257", "two", "2x", "-1"}) {
    CHECK(setenv("RKLLM_EXT_THREADS", wrong, 1) == 0);
    std::string sentence;
    try {
      default_cores();
    } catch (const Error& error) {
      sentence = error.sentence();
    }
    CHECK(sentence == format("RKLLM_EXT_THREADS is '%s', but must be 1 to 256", wrong));
  }
  CHECK(unsetenv("RKLLM_EXT_THREADS") == 0);
  CHECK(default_cores().count >= 1);
}

int count_of_allowed() {
  cpu_set_t set;
  CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
  return CPU_COUNT(&set);
}

void threads_started_meanwhile_stay_on_the_cores_and_the_caller_does_not() {
  const int before = count_of_allowed();
  cpu_set_t set;
  CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
  int first = 0;
  while (!CPU_ISSET(first, &set)) first++;
  int inside = 0;
  {
    const KeptOn kept({first});
    std::thread([&] { inside = count_of_allowed(); }).join();
  }
  CHECK(inside == 1 && count_of_allowed() == before);
  const KeptOn nothing({});
  CHECK(count_of_allowed() == before);
}

}  // namespace

int main() {
  hyperthreads_count_once();
  weak_cores_are_left_alone();
  equal_capacities_keep_nothing_anywhere();
  quotas_limit_the_count();
  a_machine_that_says_nothing_has_what_is_allowed();
  the_environment_chooses_the_count();
  threads_started_meanwhile_stay_on_the_cores_and_the_caller_does_not();
  return check::result();
}
