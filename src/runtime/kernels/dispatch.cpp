// SPDX-License-Identifier: Apache-2.0
#include "dispatch.h"

#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "error.h"

namespace rkllm {
namespace {

struct Isa {
  const char* name;
  uint32_t features;
  void (*use)(Kernels&);
};

// Rows of other architectures vanish: for them there is no object file to link.
#define IF_any(row) row
#if defined(RKLLM_ARCH_x86_64)
#define IF_x86_64(row) row
#else
#define IF_x86_64(row)
#endif
#if defined(RKLLM_ARCH_aarch64)
#define IF_aarch64(row) row
#else
#define IF_aarch64(row)
#endif
#define ROW(...) __VA_ARGS__,
const Isa kIsas[] = {
#define ISA(name, arch, flags, features) IF_##arch(ROW({#name, features, use_##name}))
#include "isa.def"
#undef ISA
};

ActiveKernels choose() {
  ActiveKernels active = {};
  const char* wanted = getenv("RKLLM_EXT_ISA");
  if (wanted && !*wanted) wanted = nullptr;
  const uint32_t features = cpu_features();
  for (const Isa& isa : kIsas) {
    if ((isa.features & ~features) != 0) continue;
    isa.use(active.table);
    active.isa = isa.name;
    if (wanted && !strcmp(wanted, isa.name)) return active;
  }
  if (wanted) {
    std::string names;
    for (const char* name : isas()) names += std::string(names.empty() ? "" : ", ") + name;
    active.isa = nullptr;
    active.error = std::string("RKLLM_EXT_ISA is '") + wanted + "', but this processor runs " + names;
  }
  return active;
}

}  // namespace

const std::vector<const char*>& isas() {
  static const std::vector<const char*>& names = *new std::vector<const char*>([] {
    std::vector<const char*> list;
    const uint32_t features = cpu_features();
    for (const Isa& isa : kIsas)
      if ((isa.features & ~features) == 0) list.push_back(isa.name);
    return list;
  }());
  return names;
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
