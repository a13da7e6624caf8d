// SPDX-License-Identifier: Apache-2.0
#include "ptrace/tracee.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <thread>
#include <vector>

#include "proc/read.h"
#include "proc/stat.h"
#include "ptrace/wait.h"

namespace moult::ptrace {
namespace {

// Between the test and the processes that it makes.
struct Shared {
  std::atomic<pid_t> thread{0};  // of the victim's second thread
  std::atomic<bool> traced{false};
  std::atomic<bool> end_thread{false};
};

void Until(const std::function<bool()>& true_at_last) {
  while (!true_at_last()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

bool IsZombieThread(pid_t pid, pid_t tid) {
  const auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/task/", tid, "/stat"));
  if (!text.ok()) return false;
  const auto stat = proc::ParseStat(*text);
  return stat.ok() && stat->state == 'Z';
}

class TraceeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    shared_ = new (memory) Shared;
  }
  void TearDown() override {
    // The tracer first: until it has ended, its victim cannot be waited for.
    for (auto it = made_.rbegin(); it != made_.rend(); ++it) {
      kill(*it, SIGKILL);
      waitpid(*it, nullptr, 0);
    }
    munmap(shared_, sizeof(Shared));
  }

  pid_t Start(const std::function<void()>& body) {
    const pid_t pid = fork();
    if (pid == 0) {
      body();
      for (;;) pause();
    }
    made_.push_back(pid);
    return pid;
  }

  // A process of two threads, of which the second has ended, and stays in the list of its threads: another process traces it, and does not wait for it.
  pid_t StartWithEndedThread() {
    const pid_t victim = Start([this] {
      std::thread([this] {
        shared_->thread = static_cast<pid_t>(syscall(SYS_gettid));
        Until([this] { return shared_->end_thread.load(); });
      }).detach();
    });
    Until([this] { return shared_->thread != 0; });
    Start([this] { shared_->traced = ::ptrace(PTRACE_SEIZE, shared_->thread.load(), nullptr, nullptr) == 0; });
    Until([this] { return shared_->traced.load(); });
    shared_->end_thread = true;
    Until([&] { return IsZombieThread(victim, shared_->thread); });
    return victim;
  }

  Shared* shared_ = nullptr;
  std::vector<pid_t> made_;
};

TEST_F(TraceeTest, SeizeAll_HasAnEnd_WhenAThreadThatEndedStaysInTheList) {
  const pid_t victim = StartWithEndedThread();
  const auto tracee = Tracee::SeizeAll(victim);
  ASSERT_TRUE(tracee.ok()) << tracee.status();
  ASSERT_EQ((*tracee)->threads().size(), 1u);
  EXPECT_EQ((*tracee)->threads().front().tid, victim);
  EXPECT_EQ((*tracee)->Detach(), absl::OkStatus());
}

TEST_F(TraceeTest, IsEnding_FromTheSignalOn_ThatKillsIt) {
  const pid_t victim = StartWithEndedThread();
  EXPECT_FALSE(IsEnding(victim));
  EXPECT_TRUE(IsEnding(shared_->thread));
  ASSERT_EQ(kill(victim, SIGKILL), 0);
  EXPECT_TRUE(IsEnding(victim));
  ASSERT_EQ(waitpid(victim, nullptr, WNOHANG), 0) << "its thread is not waited for, so it cannot be";
  EXPECT_TRUE(IsEnding(victim));
}

}  // namespace
}  // namespace moult::ptrace
