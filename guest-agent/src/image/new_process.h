// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_NEW_PROCESS_H_
#define MOULT_IMAGE_NEW_PROCESS_H_

#include <sys/types.h>

namespace moult::engine {

// A process in the making: killed and reaped unless it was let go.
class NewProcess {
 public:
  explicit NewProcess(pid_t pid) : pid_(pid) {}
  ~NewProcess();
  NewProcess(const NewProcess&) = delete;
  NewProcess& operator=(const NewProcess&) = delete;
  void Keep() { pid_ = 0; }

 private:
  // True when nothing of it is left that waits for us. A thread that we trace stays until we wait for it: its leader is not
  // reported before, and the sandbox around it cannot end, not even when the leader is no concern of ours any more (let go,
  // and a child of the sandbox's init). So the threads come first, whatever is known of the leader.
  bool Reap() const;

  pid_t pid_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_NEW_PROCESS_H_
