// SPDX-License-Identifier: Apache-2.0
#include "absl/cleanup/cleanup.h"
#include "capi/capi.h"
#include "pager/pager.h"

using moult::capi::Guarded;
using moult::host::Resolution;

namespace {

absl::StatusOr<moult::host::Pager*> PagerOf(moult_vm* vm) {
  if (vm == nullptr) return absl::InvalidArgumentError("vm is NULL");
  if (vm->vm->pager() != nullptr) return vm->vm->pager();
  return absl::FailedPreconditionError("this vm has no pool for pages, or no RAM regions");
}

}  // namespace

extern "C" {

int moult_pager_run(struct moult_vm* vm) {
  return Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Pager* pager, PagerOf(vm));
    ++vm->vm->fault_servers();
    const absl::Cleanup gone = [vm] { --vm->vm->fault_servers(); };
    pager->Serve();
    return absl::OkStatus();
  });
}

int moult_pager_stop(struct moult_vm* vm) {
  return Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Pager* pager, PagerOf(vm));
    pager->Stop();
    return absl::OkStatus();
  });
}

int moult_pager_resolve(struct moult_vm* vm, uint64_t function, enum moult_resolution resolution) {
  return Guarded([&]() -> absl::Status {
    MOULT_ASSIGN_OR_RETURN(moult::host::Pager* pager, PagerOf(vm));
    switch (resolution) {
      case MOULT_RESOLVE_ZERO:
        return pager->Resolve(function, Resolution::kZero);
      case MOULT_RESOLVE_POISON:
        return pager->Resolve(function, Resolution::kPoison);
      case MOULT_RESOLVE_RETRY:
        return pager->Resolve(function, Resolution::kRetry);
    }
    return absl::InvalidArgumentError("resolution: unknown");
  });
}

}  // extern "C"
