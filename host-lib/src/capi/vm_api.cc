// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "capi/capi.h"
#include "json/json.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/limits.h"
#include "pool/uri.h"

using moult::capi::GiveText;
using moult::capi::Guarded;
using moult::capi::TakeOptions;
using moult::capi::Text;

namespace {

constexpr size_t kMaxParts = 4096;

// Elements of an array whose element may be of another version's size.
template <typename T>
absl::StatusOr<std::vector<T>> TakeArray(const T* array, size_t count, size_t size, const char* what) {
  if (count == 0) return std::vector<T>();
  if (array == nullptr || count > kMaxParts || size != sizeof(T)) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": ", count, " of ", size, " bytes each; an element has ", sizeof(T), " bytes"));
  }
  return std::vector<T>(array, array + count);
}

absl::Status TakeTransport(const moult_transport& from, moult::host::TransportConfig* to) {
  if (from.kind > MOULT_TRANSPORT_CALLBACK) return absl::InvalidArgumentError("transport: unknown kind");
  to->kind = static_cast<moult::host::TransportConfig::Kind>(from.kind);
  to->cid = from.cid;
  to->port = from.port != 0 ? from.port : moult::rpc::kDefaultPort;
  to->fd = from.kind == MOULT_TRANSPORT_FD ? from.fd : -1;
  to->path = Text(from.path);
  if (from.connect != nullptr) {
    to->connect = [connect = from.connect, user = from.user](uint32_t port) { return connect(user, port); };
  }
  return absl::OkStatus();
}

absl::Status TakeMemory(const moult_vm_options& from, moult::host::VmConfig* to) {
  MOULT_ASSIGN_OR_RETURN(const auto regions,
                         TakeArray(from.regions, from.region_count, from.region_size, "regions"));
  for (const moult_region& region : regions) {
    if (region.flags != 0) return absl::InvalidArgumentError("regions: unknown flags");
    to->regions.push_back({{moult::host::GuestPhys(region.gpa), region.length},
                           static_cast<std::byte*>(region.hva),
                           region.fd,
                           region.fd_offset});
  }
  MOULT_ASSIGN_OR_RETURN(const auto windows,
                         TakeArray(from.windows, from.window_count, from.window_size, "windows"));
  for (const moult_window& window : windows) {
    if (window.flags != 0) return absl::InvalidArgumentError("windows: unknown flags");
    to->windows.push_back({window.gpa, static_cast<std::byte*>(window.hva), window.length, window.number});
  }
  return absl::OkStatus();
}

absl::Status TakePool(const moult_vm_options& from, moult::host::VmConfig* to) {
  if (from.pool == nullptr) return absl::OkStatus();
  MOULT_ASSIGN_OR_RETURN(to->pool, moult::host::OpenPagePool(from.pool, {to->tenant, Text(from.pool_key), to->threads}, from.pool_bytes));
  return absl::OkStatus();
}

void TakeRemote(const moult_vm_options& from, moult::host::VmConfig* to) {
  to->remote = {{to->tenant, Text(from.pool_key), to->threads}, Text(from.cache), from.cache_bytes};
  to->remote_pager.prefetch_bytes_per_s = from.prefetch_bytes_per_s;
  if (from.fault_timeout_ms == 0) return;
  to->read_deadline = to->remote_pager.retry.deadline = std::chrono::milliseconds(from.fault_timeout_ms);
}

void TakeHooks(const moult_vm_options& from, moult::host::VmConfig* to) {
  void* const user = from.user;
  if (from.page_lost != nullptr) {
    to->page_lost = [lost = from.page_lost, user](uint64_t function, moult::host::GuestPhys gpa, const absl::Status& why) {
      lost(user, function, static_cast<uint64_t>(gpa), std::string(why.message()).c_str());
    };
  }
  if (from.memory_changed != nullptr) {
    to->memory_changed = [changed = from.memory_changed, user](uint32_t number, uint64_t offset,
                                                               uint64_t length) {
      changed(user, number, offset, length);
    };
  }
  if (from.work != nullptr) {
    to->work = [work = from.work, user](moult::host::Op* op) {
      if (op->handle != nullptr) work(user, static_cast<moult_op*>(op->handle));
    };
  }
  if (from.log != nullptr) {
    to->log = [log = from.log, user](int level, const std::string& message) {
      log(user, level, message.c_str());
    };
  }
}

absl::StatusOr<moult::host::VmConfig> TakeConfig(const moult_vm_options* options) {
  MOULT_ASSIGN_OR_RETURN(const moult_vm_options ours, TakeOptions(options, "moult_vm_options"));
  if ((ours.flags & ~MOULT_VM_CROSS_TENANT) != 0)
    return absl::InvalidArgumentError("vm options: unknown flags");
  moult::host::VmConfig config;
  MOULT_ASSIGN_OR_RETURN(config.threads, moult::host::ServingThreads::Create());
  config.name = Text(ours.name);
  config.tenant = Text(ours.tenant);
  if (config.tenant.size() > moult::image::kMaxTenant) {
    return absl::InvalidArgumentError(absl::StrCat("tenant: more than ", moult::image::kMaxTenant, " bytes"));
  }
  config.cross_tenant = (ours.flags & MOULT_VM_CROSS_TENANT) != 0;
  if (ours.store != nullptr) config.store = ours.store->store;
  MOULT_RETURN_IF_ERROR(TakeTransport(ours.transport, &config.transport));
  MOULT_RETURN_IF_ERROR(TakeMemory(ours, &config));
  MOULT_RETURN_IF_ERROR(TakePool(ours, &config));
  TakeRemote(ours, &config);
  TakeHooks(ours, &config);
  return config;
}

absl::Status NeedVm(const moult_vm* vm) {
  return vm != nullptr ? absl::OkStatus() : absl::InvalidArgumentError("vm is NULL");
}

}  // namespace

extern "C" {

int moult_vm_create(const struct moult_vm_options* options, struct moult_vm** vm) {
  return Guarded([&]() -> absl::Status {
    if (vm == nullptr) return absl::InvalidArgumentError("vm is NULL");
    *vm = nullptr;
    MOULT_ASSIGN_OR_RETURN(moult::host::VmConfig config, TakeConfig(options));
    auto holder = std::make_unique<moult_vm>();
    MOULT_ASSIGN_OR_RETURN(holder->vm, moult::host::Vm::Create(std::move(config)));
    holder->link = std::make_shared<moult::host::Vm*>(holder->vm.get());
    *vm = holder.release();
    return absl::OkStatus();
  });
}

void moult_vm_close(struct moult_vm* vm) {
  if (vm == nullptr) return;
  *vm->link = nullptr;  // What its operations see from now on.
  delete vm;
}

int moult_vm_fd(const struct moult_vm* vm) {
  if (vm == nullptr) return moult::capi::Report(absl::InvalidArgumentError("vm is NULL"));
  return vm->vm->fd();
}

int moult_vm_process(struct moult_vm* vm) {
  size_t running = 0;
  const int result = Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedVm(vm));
    if (vm->vm->processing()) {
      return absl::FailedPreconditionError("moult_vm_process: called from inside a callback");
    }
    running = vm->vm->Process();
    return absl::OkStatus();
  });
  return result != 0 ? result : static_cast<int>(running);
}

int moult_vm_info_json(struct moult_vm* vm, char** json) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedVm(vm));
    return GiveText(moult::host::Dump(vm->vm->Info()), json);
  });
}

int moult_vm_guest_reset(struct moult_vm* vm) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedVm(vm));
    vm->vm->GuestReset();
    return absl::OkStatus();
  });
}

uint64_t moult_vm_boots(const struct moult_vm* vm) { return vm != nullptr ? vm->vm->boots() : 0; }

size_t moult_vm_unswept(const struct moult_vm* vm) { return vm != nullptr ? vm->vm->unswept_count() : 0; }

int moult_vm_read(struct moult_vm* vm, uint64_t gpa, void* to, size_t length) {
  return Guarded([&]() -> absl::Status {
    MOULT_RETURN_IF_ERROR(NeedVm(vm));
    MOULT_RETURN_IF_ERROR(vm->vm->memory().Translate({moult::host::GuestPhys(gpa), length}).status());
    MOULT_RETURN_IF_ERROR(vm->vm->Populate({moult::host::GuestPhys(gpa), length}));
    MOULT_ASSIGN_OR_RETURN(const auto memory,
                           vm->vm->memory().Translate({moult::host::GuestPhys(gpa), length}));
    std::memcpy(to, memory.data(), memory.size());
    return absl::OkStatus();
  });
}

}  // extern "C"
