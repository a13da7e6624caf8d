// SPDX-License-Identifier: Apache-2.0
#include "resource/credentials/restore.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

namespace moult::engine {

using ptrace::Arg;

void RestoreCredentials(const image::CredentialsT& wanted, const image::CredentialsT& current, bool keep_caps,
                        ptrace::ProgramBuilder& program) {
  if (wanted.groups != current.groups) {
    const size_t groups = program.AddVector(wanted.groups);
    program.Call("setgroups", SYS_setgroups, {wanted.groups.size(), Arg::Data(groups)});
  }
  // Dropping from the bounding set needs CAP_SETPCAP, so it precedes everything that gives capabilities up.
  for (unsigned cap = 0; cap < 64; ++cap) {
    if ((current.cap_bounding & ~wanted.cap_bounding) >> cap & 1) {
      program.Call("prctl(PR_CAPBSET_DROP)", SYS_prctl, {PR_CAPBSET_DROP, cap, 0, 0, 0});
    }
  }
  if (wanted.gids != current.gids) {
    program.Call("setresgid", SYS_setresgid, {wanted.gids[0], wanted.gids[1], wanted.gids[2]});
    program.CallMayFail("setfsgid", SYS_setfsgid, {wanted.gids[3]});
  }
  const bool uids_change = wanted.uids != current.uids;
  const bool caps_change = uids_change || wanted.cap_inheritable != current.cap_inheritable ||
                           wanted.cap_permitted != current.cap_permitted || wanted.cap_effective != current.cap_effective ||
                           wanted.cap_ambient != current.cap_ambient;
  if (uids_change) {
    // Without the fix-up, capabilities stay as they are until capset below says otherwise.
    program.Call("prctl(PR_SET_SECUREBITS)", SYS_prctl, {PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS, 0, 0, 0});
    program.Call("setresuid", SYS_setresuid, {wanted.uids[0], wanted.uids[1], wanted.uids[2]});
    program.CallMayFail("setfsuid", SYS_setfsuid, {wanted.uids[3]});
  }
  if (uids_change || wanted.securebits != current.securebits) {
    program.Call("prctl(PR_SET_SECUREBITS)", SYS_prctl, {PR_SET_SECUREBITS, wanted.securebits, 0, 0, 0});
  }
  if (keep_caps != ((wanted.securebits & SECBIT_KEEP_CAPS) != 0)) {
    program.CallMayFail("prctl(PR_SET_KEEPCAPS)", SYS_prctl, {PR_SET_KEEPCAPS, keep_caps ? 1 : 0, 0, 0, 0});
  }
  if (wanted.no_new_privs) program.Call("prctl(PR_SET_NO_NEW_PRIVS)", SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0});
  if (!caps_change) return;
  const __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  auto caps = [&](uint64_t effective) {
    __user_cap_data_struct data[2];
    for (unsigned half = 0; half < 2; ++half) {
      data[half].effective = static_cast<uint32_t>(effective >> (32 * half));
      data[half].permitted = static_cast<uint32_t>(wanted.cap_permitted >> (32 * half));
      data[half].inheritable = static_cast<uint32_t>(wanted.cap_inheritable >> (32 * half));
    }
    program.Call("capset", SYS_capset, {Arg::Data(program.AddObject(header)), Arg::Data(program.AddObject(data))});
  };
  caps(wanted.cap_effective);
  program.CallMayFail("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0});
  for (unsigned cap = 0; cap < 64; ++cap) {
    if (wanted.cap_ambient >> cap & 1) {
      program.Call("prctl(PR_CAP_AMBIENT_RAISE)", SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0});
    }
  }
}

}  // namespace moult::engine
