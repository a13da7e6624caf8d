// SPDX-License-Identifier: Apache-2.0
//
// What the agent knows of one function, and its folder: state_dir/functions/ID with
//   state.json    so that a restarted agent finds it again
//   lock          flock'ed by whoever changes the function
//   shared/       seen inside as /run/moult-function: log, generation
#ifndef MOULT_FUNCTION_RECORD_H_
#define MOULT_FUNCTION_RECORD_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "function/cgroup.h"
#include "image/sandbox.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/message.h"

namespace moult::agent {

inline constexpr char kSharedTarget[] = "/run/moult-function";

struct Function {
  rpc::FunctionInfoT info;
  pid_t init_pid = 0;       // of its sandbox; 0: ended
  uint64_t init_start = 0;  // clock ticks since boot: tells a pid from its next user
  std::string folder;
  std::string busy;    // the verb that is changing it now
  bool shell = false;  // nobody's yet
  bool kill_asked = false;
  // Lost: what it was when the agent ended under which a worker may still be changing it.
  rpc::FunctionState interrupted{};
  UniqueFd init_pidfd;
  std::unique_ptr<engine::Sandbox> sandbox;  // null: an earlier agent made it
  std::unique_ptr<Cgroup> cgroup;            // null: goes without

  std::string log_path() const { return absl::StrCat(folder, "/shared/log"); }
  // Without its sandbox's init.
  absl::StatusOr<std::vector<pid_t>> Processes() const;
};

// What is kept of a function.
std::string FormatState(const Function& function);
// The same back: kDataLoss when it is something else. Pure.
absl::Status ParseState(std::string_view text, Function* function);
// Writes it to state.json, whole or not at all.
absl::Status Save(const Function& function);
// The functions whose folders are in `functions_dir`, as they were saved; what cannot be read is in `errors`.
std::vector<std::unique_ptr<Function>> LoadAll(const std::string& functions_dir,
                                               std::vector<std::string>* errors);

// A file of the folder's, whole or not at all.
absl::Status WriteWhole(const std::string& path, const std::string& text);

// Makes the folder, with an empty log.
absl::Status MakeFolder(const Function& function);
void RemoveFolder(const Function& function);

// Gives back what of the log lies before its last `keep` bytes, when it is twice as long. Offsets stay.
void TrimLog(const Function& function, uint64_t keep);

// The start time of a process, 0 when there is none.
uint64_t StartTime(pid_t pid);
// A descriptor of the very process that was saved; invalid: it has gone.
UniqueFd OpenSame(pid_t pid, uint64_t start_time);

// Takes the function's lock for as long as the descriptor lives. kFailedPrecondition: somebody has it.
absl::StatusOr<UniqueFd> LockFolder(const std::string& folder);

// Who changes the function says so in the lock, and takes it back when all is as it should be. A note in a lock that
// nobody holds is of somebody who was killed.
struct LockNote {
  bool was_frozen = false;
};
void WriteNote(int lock, const LockNote& note);
void ClearNote(int lock);
std::optional<LockNote> ReadNote(int lock);

}  // namespace moult::agent

#endif  // MOULT_FUNCTION_RECORD_H_
