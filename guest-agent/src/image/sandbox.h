// SPDX-License-Identifier: Apache-2.0
//
// A sandbox: fresh pid, mount, ipc and time namespaces, held by a tiny init (pid 1) that reaps, forwards
// signals to the function, and ends with it.
#ifndef MOULT_IMAGE_SANDBOX_H_
#define MOULT_IMAGE_SANDBOX_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "image/builder.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::engine {

// What a sandbox sees other than its maker does.
struct SandboxMounts {
  bool private_tmp = false;   // an empty tmpfs each on image::kPrivateFolders
  std::string shared_source;  // folder of the maker's that shows up as shared_target, which must exist
  std::string shared_target;
};

class Sandbox {
 public:
  // In it, CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from the given values, or up to some ticks later: CLOCK_MONOTONIC_COARSE, which
  // lags, is not to be before the first of them either.
  static absl::StatusOr<std::unique_ptr<Sandbox>> Create(int64_t monotonic_ns, int64_t boottime_ns,
                                                         const SandboxMounts& mounts = {});
  // One that another process has made, and owns, from what its maker has of it (`shared` is shared_fd there).
  static absl::StatusOr<std::unique_ptr<Sandbox>> Adopt(pid_t init_pid, UniqueFd pidfd, UniqueFd time_namespace,
                                                        UniqueFd shared);
  // Ends the sandbox and all in it, unless Keep was called, or another process owns it.
  ~Sandbox();
  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;

  // Sets the clocks of one that nobody has entered yet.
  absl::Status SetClocks(int64_t monotonic_ns, int64_t boottime_ns);

  pid_t init_pid() const { return pid_; }
  SandboxHandles handles() const { return {pidfd_.get(), time_namespace_.get()}; }
  int shared_fd() const { return shared_fd_.get(); }
  // The function's pid inside, for the init to wait for. Until Keep, a function that does not outlive the maker ends with
  // it, however suddenly that dies.
  void SetChild(pid_t inner_pid, bool outlives_maker);
  void Keep();
  bool HasEnded() const;
  // The child's wait status, once the init has ended after it; -1: it ended for another reason.
  int ChildStatus() const;

 private:
  Sandbox() = default;
  absl::Status MapShared();
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd time_namespace_;
  UniqueFd shared_fd_;
  void* shared_ = nullptr;  // the init's parasite and its MoultInit
  bool keep_ = false;
};

// While one lives, the calling process, which must be single-threaded, sees the sandbox's mounts: paths of a
// template mean what they will mean to the process. Of a null sandbox: nothing changes. /proc is the sandbox's,
// too, so there is no /proc/self meanwhile.
class MountScope {
 public:
  static absl::StatusOr<MountScope> Enter(const Sandbox* sandbox);
  ~MountScope();
  MountScope(MountScope&&) = default;
  MountScope& operator=(MountScope&&) = delete;

 private:
  MountScope() = default;
  UniqueFd namespace_;  // the one to go back to
  UniqueFd cwd_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_SANDBOX_H_
