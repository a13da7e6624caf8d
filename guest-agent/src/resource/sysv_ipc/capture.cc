// SPDX-License-Identifier: Apache-2.0
#include "resource/sysv_ipc/capture.h"

#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <optional>

namespace moult::engine {
namespace {

constexpr absl::string_view kRemedy =
    "remove it (ipcrm) or wait until the process no longer needs it; use memfd, futexes or sockets instead";

// Calls on the namespace of the caller. -1: no such index.
int SemaphoreAt(int index, semid_ds* set) {
  return static_cast<int>(syscall(SYS_semctl, index, 0, SEM_STAT_ANY, set));
}
int QueueAt(int index, msqid_ds* queue) {
  return static_cast<int>(syscall(SYS_msgctl, index, MSG_STAT_ANY, queue));
}
int SegmentAt(int index, shmid_ds* segment) {
  return static_cast<int>(syscall(SYS_shmctl, index, SHM_STAT_ANY, segment));
}

std::optional<int> SemaphoresUsedBy(pid_t pid) {
  seminfo info{};
  const long highest = syscall(SYS_semctl, 0, 0, SEM_INFO, &info);
  for (int index = 0; index <= highest; ++index) {
    semid_ds set{};
    const int id = SemaphoreAt(index, &set);
    for (int i = 0; id >= 0 && i < static_cast<int>(set.sem_nsems); ++i) {
      if (syscall(SYS_semctl, id, i, GETPID, 0) == pid) return id;
    }
  }
  return std::nullopt;
}

std::optional<int> QueueUsedBy(pid_t pid) {
  msginfo info{};
  const long highest = syscall(SYS_msgctl, 0, MSG_INFO, &info);
  for (int index = 0; index <= highest; ++index) {
    msqid_ds queue{};
    const int id = QueueAt(index, &queue);
    if (id >= 0 && (queue.msg_lspid == pid || queue.msg_lrpid == pid)) return id;
  }
  return std::nullopt;
}

std::optional<int> SegmentUsedBy(pid_t pid) {
  shm_info info{};
  const long highest = syscall(SYS_shmctl, 0, SHM_INFO, &info);
  for (int index = 0; index <= highest; ++index) {
    shmid_ds segment{};
    const int id = SegmentAt(index, &segment);
    if (id >= 0 && (segment.shm_cpid == pid || segment.shm_lpid == pid)) return id;
  }
  return std::nullopt;
}

}  // namespace

SysvIpcQuestions AskSysvIpc(ptrace::ProgramBuilder& program) {
  using ptrace::Arg;
  SysvIpcQuestions ask{};
  // A kernel without System V IPC fails them all, and has none.
  ask.semaphores = program.AddBuffer(sizeof(seminfo));
  program.CallMayFail("semctl(SEM_INFO)", SYS_semctl, {0, 0, SEM_INFO, Arg::Data(ask.semaphores)});
  ask.queues = program.AddBuffer(sizeof(msginfo));
  program.CallMayFail("msgctl(MSG_INFO)", SYS_msgctl, {0, MSG_INFO, Arg::Data(ask.queues)});
  ask.segments = program.AddBuffer(sizeof(shm_info));
  program.CallMayFail("shmctl(SHM_INFO)", SYS_shmctl, {0, SHM_INFO, Arg::Data(ask.segments)});
  return ask;
}

absl::Status CheckSysvIpc(const SysvIpcQuestions& questions, const ptrace::ProgramResult& result,
                          const CaptureContext& context) {
  struct Kind {
    const char* name;
    int count;
    std::optional<int> (*used_by)(pid_t pid);
  };
  // In a SEM_INFO semusz is the number of sets, in a MSG_INFO msgpool that of queues.
  const Kind kinds[] = {
      {"System V semaphore set", result.Data<seminfo>(questions.semaphores).semusz, SemaphoresUsedBy},
      {"System V message queue", result.Data<msginfo>(questions.queues).msgpool, QueueUsedBy},
      {"System V shared memory segment", result.Data<shm_info>(questions.segments).used_ids, SegmentUsedBy}};
  for (const Kind& kind : kinds) {
    if (kind.count <= 0) continue;
    if (context.image.sandboxed)
      return Refuse(absl::StrCat("its ipc namespace holds a ", kind.name), kRemedy);
    const std::optional<int> id = kind.used_by(context.pid());
    if (id) return Refuse(absl::StrCat("it uses ", kind.name, " ", *id), kRemedy);
  }
  return absl::OkStatus();
}

absl::Status CheckSysvWaiters(const CaptureContext& context) {
  constexpr long kWaits[] = {SYS_semop, SYS_semtimedop, SYS_msgsnd, SYS_msgrcv};
  for (const auto& thread : context.process.threads) {
    const auto call = static_cast<int64_t>(thread->regs->orig_rax());
    const auto value = static_cast<int64_t>(thread->regs->rax());
    const bool interrupted =
        value == -EINTR || (value <= -512 && value >= -516);  // ERESTARTSYS .. ERESTART_RESTARTBLOCK
    if (interrupted && std::find(std::begin(kWaits), std::end(kWaits), call) != std::end(kWaits)) {
      return Refuse(absl::StrCat("thread ", thread->tid, " waits for a System V semaphore or message queue"),
                    kRemedy);
    }
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
