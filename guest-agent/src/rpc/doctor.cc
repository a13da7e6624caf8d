// SPDX-License-Identifier: Apache-2.0
//
// Doctor: what this guest has, and what to do about what it lacks.
#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_join.h"
#include "function/cgroup.h"
#include "image/kernel_check.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

class Checks {
 public:
  void Add(std::string name, bool ok, std::string detail, std::string remedy) {
    auto& check = reply_.checks.emplace_back(std::make_unique<rpc::DoctorCheckT>());
    check->name = std::move(name);
    check->ok = ok;
    check->detail = std::move(detail);
    if (!ok) check->remedy = std::move(remedy);
  }
  rpc::DoctorReplyT Take() { return std::move(reply_); }

 private:
  rpc::DoctorReplyT reply_;
};

void AddCgroup(const Config& config, Checks& checks) {
  auto controllers = PrepareCgroupRoot(config.cgroup_root);
  checks.Add("cgroup", controllers.ok(),
             controllers.ok() ? config.cgroup_root : std::string(controllers.status().message()),
             "mount cgroup v2, set cgroup_root to a folder in it");
  const size_t count = controllers.ok() ? controllers->size() : 0;
  checks.Add("cgroup_controllers", count == 3, count == 0 ? "none" : absl::StrJoin(*controllers, ", "),
             "memory, cpu and pids limits need cgroup v2 alone: boot with systemd.unified_cgroup_hierarchy=1 "
             "cgroup_no_v1=all");
}

void AddFile(const char* name, const char* path, int flags, const char* detail, const char* remedy,
             Checks& checks) {
  const UniqueFd fd(open(path, flags | O_CLOEXEC));
  const std::string text = fd.valid() ? detail : absl::StrCat("open ", path, ": ", ErrnoName(errno));
  checks.Add(name, fd.valid(), text, remedy);
}

}  // namespace

absl::Status DoDoctor(Worker& worker) {
  Checks checks;
  for (const engine::KernelFeature& feature : engine::CheckKernel()) {
    // What this kernel can do without is no fault of it.
    const bool optional = !feature.required && !feature.present;
    const char* note = feature.required ? " (required)" : optional ? " (not here, not required)" : "";
    checks.Add(feature.name, feature.present || optional, absl::StrCat(feature.purpose, note),
               feature.remedy);
  }
  AddCgroup(worker.config, checks);
  AddFile("driver", "/dev/moult", O_RDWR, "template pages can be shown in place",
          "load the guest driver (kernel-patch/); without it pages are copied", checks);
  AddFile("vsock", "/dev/vsock", O_RDONLY, "the host can reach this agent",
          "give the VM a vsock device and load vmw_vsock_virtio_transport", checks);
  AddFile("kpageflags", "/proc/kpageflags", O_RDONLY, "pages can be told apart",
          "run as root, in a kernel built with CONFIG_PROC_PAGE_MONITOR=y", checks);
  return worker.Respond(rpc::MakeResponse(checks.Take()));
}

}  // namespace moult::agent
