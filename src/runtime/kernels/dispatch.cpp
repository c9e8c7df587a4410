// SPDX-License-Identifier: Apache-2.0
#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "error.h"

namespace rkllm {

// Rows of other architectures, and those whose flags the compiler does not know, have no object file.
#define ISA(name, arch, flags, features) void use_##name(Kernels& table) __attribute__((weak, visibility("hidden")));
#include "isa.def"
#undef ISA

namespace {

struct Isa {
  const char* name;
  uint32_t features;
  void (*use)(Kernels&);  // nullptr: not compiled in
};

const Isa kIsas[] = {
#define ISA(name, arch, flags, features) {#name, features, use_##name},
#include "isa.def"
#undef ISA
};

bool supported(const Isa& isa) { return isa.use && (isa.features & ~cpu_features()) == 0; }

ActiveKernels choose() {
  const char* wanted = getenv("RKLLM_EXT_ISA");
  if (!wanted || !*wanted) return {kernels_of(isas().back()), isas().back(), ""};
  std::string names;
  for (const char* name : isas()) {
    if (!strcmp(wanted, name)) return {kernels_of(name), name, ""};
    names += std::string(names.empty() ? "" : ", ") + name;
  }
  return {{}, nullptr, std::string("RKLLM_EXT_ISA is '") + wanted + "', but this processor runs " + names};
}

}  // namespace

const std::vector<const char*>& isas() {
  static const std::vector<const char*>& names = *new std::vector<const char*>([] {
    std::vector<const char*> list;
    for (const Isa& isa : kIsas)
      if (supported(isa)) list.push_back(isa.name);
    return list;
  }());
  return names;
}

Kernels kernels_of(const char* name) {
  Kernels table = {};
  for (const Isa& isa : kIsas) {
    if (supported(isa)) isa.use(table);
    if (!strcmp(isa.name, name)) break;
  }
  return table;
}

const ActiveKernels& active_kernels() {
  static const ActiveKernels& active = *new ActiveKernels(choose());
  return active;
}

const Kernels& kernels() {
  const ActiveKernels& active = active_kernels();
  if (!active.isa) throw Error(ErrorCode::INVALID_ARGUMENT, active.error);
  return active.table;
}

}  // namespace rkllm
