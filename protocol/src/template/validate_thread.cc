// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "validate_internal.h"

namespace moult::image::validate {
namespace {

absl::Status CheckCredentials(const Path& at, const CredentialsT* credentials) {
  if (credentials == nullptr) return at.Bad("missing");
  const CredentialsT& c = *credentials;
  if (c.uids.size() != 4) return at.BadField("uids", c.uids.size(), " elements, not 4");
  if (c.gids.size() != 4) return at.BadField("gids", c.gids.size(), " elements, not 4");
  MOULT_RETURN_IF_ERROR(CheckCount(at, "groups", c.groups, kMaxGroups));
  // The kernel keeps these true and would refuse to set anything else.
  if ((c.cap_effective & ~c.cap_permitted) != 0) {
    return at.BadField("cap_effective", "has capabilities that are not permitted");
  }
  if ((c.cap_ambient & ~(c.cap_permitted & c.cap_inheritable)) != 0) {
    return at.BadField("cap_ambient", "has capabilities that are not both permitted and inheritable");
  }
  if (c.securebits > 0xff) return at.BadField("securebits", c.securebits, " has unknown bits");
  return absl::OkStatus();
}

absl::Status CheckScheduling(const Path& at, const SchedulingT* scheduling) {
  if (scheduling == nullptr) return at.Bad("missing");
  const SchedulingT& s = *scheduling;
  const bool realtime = s.policy == 1 || s.policy == 2;  // SCHED_FIFO, SCHED_RR
  if (s.policy > 7 || s.policy == 4) return at.BadField("policy", s.policy, " is unknown");
  if (s.nice < -20 || s.nice > 19) return at.BadField("nice", s.nice, " is not from -20 to 19");
  if (s.priority > 99 || (realtime != (s.priority > 0))) {
    return at.BadField("priority", s.priority, " does not fit policy ", s.policy);
  }
  if (s.affinity.size() > kMaxAffinity) {
    return at.BadField("affinity", s.affinity.size(), " bytes, over the limit of ", kMaxAffinity);
  }
  const bool any = std::any_of(s.affinity.begin(), s.affinity.end(), [](uint8_t byte) { return byte != 0; });
  if (!s.affinity_is_default && !any) return at.BadField("affinity", "names no CPU");
  if (s.io_priority < 0 || s.io_priority > 0xffff) {
    return at.BadField("io_priority", s.io_priority, " is out of range");
  }
  return absl::OkStatus();
}

absl::Status CheckRegisters(const Path& at, const ThreadT& thread) {
  if (thread.regs == nullptr) return at.BadField("regs", "missing");
  const GpRegs& regs = *thread.regs;
  const Path here(at, "regs");
  // ptrace(2) would answer EIO; a segment that is not of user mode would be an escalation if it did not.
  if ((regs.cs() & 3) != 3) return here.BadField("cs", regs.cs(), " is not a user segment");
  if ((regs.ss() & 3) != 3) return here.BadField("ss", regs.ss(), " is not a user segment");
  if (regs.fs_base() > kUserEnd) return here.BadField("fs_base", "is above the user address space");
  if (regs.gs_base() > kUserEnd) return here.BadField("gs_base", "is above the user address space");
  if (thread.xsave.size() < kMinXsave || thread.xsave.size() > kMaxXsave) {
    return at.BadField("xsave", thread.xsave.size(), " bytes, not from ", kMinXsave, " to ", kMaxXsave);
  }
  return absl::OkStatus();
}

absl::Status CheckSeccomp(const Path& at, const ProcessT& process, const ThreadT& thread) {
  if (thread.seccomp_mode > 2) return at.BadField("seccomp_mode", thread.seccomp_mode, " is unknown");
  if ((thread.seccomp_mode == 2) != !thread.seccomp.empty()) {
    return at.BadField("seccomp", thread.seccomp.size(), " filters do not fit mode ", thread.seccomp_mode);
  }
  MOULT_RETURN_IF_ERROR(CheckCount(at, "seccomp", thread.seccomp, kMaxFilters));
  for (const uint32_t filter : thread.seccomp) {
    MOULT_RETURN_IF_ERROR(CheckIndex(at, "seccomp", filter, process.seccomp_filters, "seccomp_filters"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckThread(const Path& at, const ProcessT& process, const ThreadT& thread) {
  if (thread.tid < 1 || thread.tid > kMaxPid) return at.BadField("tid", thread.tid, " is out of range");
  if (thread.comm.size() > 15) return at.BadField("comm", thread.comm.size(), " bytes, over the limit of 15");
  if (std::find(thread.comm.begin(), thread.comm.end(), 0) != thread.comm.end()) {
    return at.BadField("comm", "has a NUL byte");
  }
  MOULT_RETURN_IF_ERROR(CheckRegisters(at, thread));
  MOULT_RETURN_IF_ERROR(CheckPending(at, thread.pending));
  MOULT_RETURN_IF_ERROR(CheckCredentials(Path(at, "credentials"), thread.credentials.get()));
  MOULT_RETURN_IF_ERROR(CheckScheduling(Path(at, "scheduling"), thread.scheduling.get()));
  MOULT_RETURN_IF_ERROR(CheckSeccomp(at, process, thread));
  if (thread.parent_death_signal < 0 || thread.parent_death_signal > static_cast<int>(kSignals)) {
    return at.BadField("parent_death_signal", thread.parent_death_signal, " is no signal");
  }
  if (thread.sleep_remaining_ns < -1) {
    return at.BadField("sleep_remaining_ns", thread.sleep_remaining_ns, " is below -1");
  }
  if (thread.tsc_mode > 2) return at.BadField("tsc_mode", thread.tsc_mode, " is unknown");
  return absl::OkStatus();
}

}  // namespace moult::image::validate
