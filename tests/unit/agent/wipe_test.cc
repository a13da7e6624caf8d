// SPDX-License-Identifier: Apache-2.0
//
// What is wiped: pages and pipes of a function that ends, and what passed through the agent.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "daemon.h"
#include "image/sanitizers.h"
#include "ledger/exclusive.h"
#include "ledger/pipes.h"
#include "moult/base/page.h"

namespace moult::agent {
namespace {

using ::testing::Each;

constexpr size_t kBytes = 64 * kPage;

TEST(WipeTest, Pipe_HoldsZeros_WhereContentWaited) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd out(ends[0]), in(ends[1]);
  // Whole pages, and one in part.
  const std::string content(3 * kPage + 100, 'x');
  ASSERT_EQ(write(in.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
  const UniqueFd both(
      open(absl::StrCat("/proc/self/fd/", out.get()).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  ASSERT_TRUE(WipePipe(both.get()).ok());
  std::string left(1 << 16, 'y');
  const ssize_t n = read(out.get(), left.data(), left.size());
  ASSERT_GE(n, static_cast<ssize_t>(3 * kPage));
  left.resize(static_cast<size_t>(n));
  EXPECT_THAT(left, Each('\0'));
}

// A sandbox by hand: pid 1 of a namespace with a /proc and tmpfs of its own, and a process in it.
class WipeSandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    shared_ =
        static_cast<char*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(shared_, MAP_FAILED);
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd ready(ends[0]);
    UniqueFd told(ends[1]);
    maker_ = fork();
    if (maker_ == 0) MakeSandbox(told.get());
    told.Reset();
    pid_t pids[2];
    const ssize_t n = read(ready.get(), pids, sizeof(pids));
    if (n == 0) GTEST_SKIP() << "this machine lets nobody make namespaces";
    ASSERT_EQ(n, static_cast<ssize_t>(sizeof(pids)));
    init_ = pids[0];
    inner_ = pids[1];
  }
  void TearDown() override {
    if (init_ > 0) kill(init_, SIGKILL);
    if (maker_ > 0) waitpid(maker_, nullptr, 0);
    munmap(shared_, kPage);
  }

  // The maker stays as init's parent; the child fills memory, a file and a memfd, and stands still.
  [[noreturn]] void MakeSandbox(int told) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) _exit(1);
    const pid_t init = fork();
    if (init != 0) {
      waitpid(init, nullptr, 0);
      _exit(0);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    for (const char* folder : {"/tmp", "/dev/shm"}) {
      if (mount("tmpfs", folder, "tmpfs", 0, nullptr) != 0) _exit(1);
    }
    char outside[32] = {};
    if (readlink("/proc/self", outside, sizeof(outside) - 1) < 0)
      _exit(1);  // The outer /proc tells our outer pid.
    if (mount("proc", "/proc", "proc", 0, nullptr) != 0) _exit(1);
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    const pid_t child = fork();
    if (child == 0) {
      Fill();
      char byte = 1;
      if (write(ends[1], &byte, 1) != 1) _exit(1);
      for (;;) pause();
    }
    char byte;
    const pid_t pids[] = {atoi(outside), child};
    if (read(ends[0], &byte, 1) != 1 || write(told, pids, sizeof(pids)) != sizeof(pids)) _exit(1);
    close(told);
    for (;;) pause();
  }
  void Fill() {
    auto* memory =
        static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::memset(memory, 'a', kBytes);
    std::memcpy(shared_, &memory, sizeof(memory));
    const std::string content(kBytes, 'f');
    const int file = open("/tmp/named", O_RDWR | O_CREAT, 0600);
    const int memfd = memfd_create("unnamed", 0);
    for (const int fd : {file, memfd}) {
      if (write(fd, content.data(), content.size()) != static_cast<ssize_t>(content.size())) _exit(1);
    }
    std::memcpy(shared_ + 8, &memfd, sizeof(memfd));
  }
  std::string root() const { return absl::StrCat("/proc/", init_, "/root"); }
  std::string process() const { return absl::StrCat(root(), "/proc/", inner_); }
  static std::string ReadAt(const std::string& path, uint64_t at) {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string bytes(kBytes, '?');
    EXPECT_EQ(pread(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)),
              static_cast<ssize_t>(kBytes))
        << path;
    return bytes;
  }

  char* shared_ = nullptr;  // where the child tells what it has
  pid_t maker_ = -1;
  pid_t init_ = -1;
  pid_t inner_ = -1;
};

TEST_F(WipeSandboxTest, Exclusive_MemoryAndFiles_AreZeros) {
  uint64_t memory = 0;
  int memfd = -1;
  std::memcpy(&memory, shared_, sizeof(memory));
  std::memcpy(&memfd, shared_ + 8, sizeof(memfd));
  ASSERT_THAT(ReadAt(process() + "/mem", memory), Each('a'));
  ASSERT_THAT(ReadAt(root() + "/tmp/named", 0), Each('f'));
  const absl::Status wiped = WipeExclusive(init_);
  ASSERT_TRUE(wiped.ok()) << wiped;
  EXPECT_THAT(ReadAt(process() + "/mem", memory), Each('\0'));
  EXPECT_THAT(ReadAt(root() + "/tmp/named", 0), Each('\0'));
  EXPECT_THAT(ReadAt(absl::StrCat(process(), "/fd/", memfd), 0), Each('\0'));
}

#ifndef MOULT_ADDRESS_SANITIZER

// How often `marker` is in the writable memory of a process.
size_t CountIn(pid_t pid, const std::string& marker) {
  const UniqueFd memory(open(absl::StrCat("/proc/", pid, "/mem").c_str(), O_RDONLY | O_CLOEXEC));
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  size_t found = 0;
  for (std::string line; std::getline(maps, line);) {
    unsigned long start, end;
    char mode[8];
    if (sscanf(line.c_str(), "%lx-%lx %7s", &start, &end, mode) != 3 || mode[1] != 'w') continue;
    std::string bytes(end - start, '\0');
    const ssize_t n = pread(memory.get(), bytes.data(), bytes.size(), static_cast<off_t>(start));
    if (n <= 0) continue;
    for (size_t at = bytes.find(marker); at != std::string::npos; at = bytes.find(marker, at + 1)) ++found;
  }
  return found;
}

TEST_F(AgentTest, Agent_KeepsNothing_OfWhatPassedThrough) {
  StartAgent();
  const auto client = Connect();
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
  // The marker is nowhere but in the function's memory and in its pipe.
  run.spec->argv.back() = absl::StrCat(
      "import os\nm = bytes([77, 111, 117, 108, 116]) * 4 + b'canary'\nheap = m * 20000\n"
      "r, w = os.pipe()\nos.write(w, m * 2000)\n",
      run.spec->argv.back());
  const std::string marker = "MoultMoultMoultMoultcanary";
  const auto reply = client->Call(std::move(run));
  ASSERT_TRUE(reply.ok()) << reply.status();
  const uint64_t function = (*reply)->body.AsFunctionReply()->function->id;
  const auto taken = CaptureCopy(*client, function, rpc::CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const std::string image(taken->image.begin(), taken->image.end());
  ASSERT_NE(image.find(marker), std::string::npos) << "the pipe's content is not in the image";
  const auto attached = AttachStream(*client, *taken);
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_EQ(Ask(*attached), "1");
  EXPECT_GT(CountIn(Info(*client, *attached)->pid, marker), 0u) << "the function has none to be found";
  EXPECT_EQ(CountIn(agent_, marker), 0u);
  // Nor in a file of its.
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ + "/state")) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    EXPECT_EQ(text.find(marker), std::string::npos) << entry.path();
  }
}

#endif

}  // namespace
}  // namespace moult::agent
