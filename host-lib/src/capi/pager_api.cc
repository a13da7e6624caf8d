// SPDX-License-Identifier: Apache-2.0
#include "capi/capi.h"
#include "moult/pager.h"

using moult::capi::Guarded;
using moult::host::Resolution;

namespace {

absl::StatusOr<moult::host::Vm*> PagedVm(moult_vm* vm) {
  if (vm == nullptr) return absl::InvalidArgumentError("vm is NULL");
  if (vm->vm->pager() != nullptr || vm->vm->remote_pager() != nullptr) return vm->vm.get();
  return absl::FailedPreconditionError("this vm has neither a pool for pages and RAM regions, nor a window");
}

}  // namespace

extern "C" {

int moult_pager_run(struct moult_vm* vm) {
  return Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Vm* paged, PagedVm(vm));
    paged->ServeFaults();
    return absl::OkStatus();
  });
}

int moult_pager_threads(struct moult_vm* vm) {
  int threads = 0;
  const int failed = Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Vm* paged, PagedVm(vm));
    threads = paged->fault_servers();
    return absl::OkStatus();
  });
  return failed < 0 ? failed : threads;
}

int moult_pager_stop(struct moult_vm* vm) {
  return Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Vm* paged, PagedVm(vm));
    paged->StopFaults();
    return absl::OkStatus();
  });
}

int moult_pager_resolve(struct moult_vm* vm, uint64_t function, enum moult_resolution resolution) {
  return Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Vm* paged, PagedVm(vm));
    switch (resolution) {
      case MOULT_RESOLVE_ZERO:
        return paged->ResolveLost(function, Resolution::kZero);
      case MOULT_RESOLVE_POISON:
        return paged->ResolveLost(function, Resolution::kPoison);
      case MOULT_RESOLVE_RETRY:
        return paged->ResolveLost(function, Resolution::kRetry);
    }
    return absl::InvalidArgumentError("resolution: unknown");
  });
}

}  // extern "C"
