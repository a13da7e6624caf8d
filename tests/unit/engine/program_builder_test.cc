// SPDX-License-Identifier: Apache-2.0
#include "ptrace/program_builder.h"

#include <cstring>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "parasite/blob.h"

namespace moult::ptrace {
namespace {

// Runs a program in a child of this test, with the parasite in memory that both share. The program ends in
// int3, which kills the child: SIGTRAP is the good end.
class Runner {
 public:
  Runner() {
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kSize, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    std::memcpy(memory_, parasite::BlobData(), parasite::BlobSize());
  }
  ~Runner() { munmap(memory_, kSize); }

  RemotePtr address() const { return RemotePtr(reinterpret_cast<uint64_t>(memory_ + kProgram)); }

  ProgramResult Run(const ProgramBuilder& program, int* end_signal) {
    const auto bytes = program.Build(address());
    std::memcpy(memory_ + kProgram, bytes.data(), bytes.size());
    const pid_t child = fork();
    if (child == 0) {
      auto run = reinterpret_cast<void (*)(void*)>(memory_ + parasite::RunOffset());
      run(memory_ + kProgram);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    *end_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return ProgramResult(program, std::vector<std::byte>(memory_ + kProgram, memory_ + kProgram + program.Size()));
  }

 private:
  static constexpr size_t kSize = 1u << 20;
  static constexpr size_t kProgram = 8192;
  std::byte* memory_;
};

TEST(SyscallProgram_PassesEarlierResults, WhenAnArgumentNamesThem) {
  ProgramBuilder program;
  const size_t ends = program.AddBuffer(2 * sizeof(int));
  program.Call("pipe", SYS_pipe2, {Arg::Data(ends), 0});
  const size_t copy = program.Call("dup", SYS_dup, {2});
  const size_t again = program.Call("dup", SYS_dup, {Arg::Result(copy)});
  Runner runner;
  int end = 0;
  const ProgramResult result = runner.Run(program, &end);
  EXPECT_EQ(end, SIGTRAP);
  EXPECT_EQ(result.failed(), 0u);
  EXPECT_GT(result.Data<int>(ends), 2);
  EXPECT_EQ(result.result(again), result.result(copy) + 1);
}

TEST(SyscallProgram_StopsAndNamesTheCall, WhenOneFails) {
  ProgramBuilder program;
  program.Call("getpid", SYS_getpid, {});
  const size_t bad = program.Call("close of a descriptor that is not there", SYS_close, {1000000});
  const size_t never = program.Call("getpid", SYS_getpid, {});
  Runner runner;
  int end = 0;
  const ProgramResult result = runner.Run(program, &end);
  ASSERT_EQ(result.failed(), bad + 1);
  EXPECT_EQ(result.result(bad), -EBADF);
  EXPECT_EQ(result.result(never), -1);
  EXPECT_EQ(program.what(bad), "close of a descriptor that is not there");
}

TEST(SyscallProgram_GoesOn, WhenACallMayFail) {
  ProgramBuilder program;
  program.CallMayFail("close", SYS_close, {1000000});
  const size_t after = program.Call("getppid", SYS_getppid, {});
  Runner runner;
  int end = 0;
  const ProgramResult result = runner.Run(program, &end);
  EXPECT_EQ(result.failed(), 0u);
  EXPECT_EQ(result.result(after), getpid());
}

TEST(SyscallProgram_Fails, WhenTheExpectedResultDiffers) {
  ProgramBuilder program;
  program.CallExpect("getppid", SYS_getppid, {}, -12345);
  Runner runner;
  int end = 0;
  EXPECT_EQ(runner.Run(program, &end).failed(), 1u);
}

TEST(SyscallProgram_PatchesPointersInData, WhenStructsPointAtOtherData) {
  ProgramBuilder program;
  const size_t text = program.AddString("moult");
  struct {
    uint64_t base;
    uint64_t length;
  } part{0, 5};
  const size_t vector = program.AddObject(part);
  program.AddPointer(vector, text);
  const size_t ends = program.AddBuffer(2 * sizeof(int));
  program.Call("memfd_create", SYS_memfd_create, {Arg::Data(text), 0});
  const size_t written = program.Call("writev", SYS_writev, {Arg::Result(0), Arg::Data(vector), 1});
  Runner runner;
  int end = 0;
  const ProgramResult result = runner.Run(program, &end);
  EXPECT_EQ(result.failed(), 0u);
  EXPECT_EQ(result.result(written), 5);
  EXPECT_EQ(result.Data<int>(ends), 0);
}

TEST(ProgramResult_ClampsTheFailedIndex, WhenMemoryWasOverwritten) {
  ProgramBuilder program;
  program.Call("getpid", SYS_getpid, {});
  auto bytes = program.Build(RemotePtr(0));
  MoultProgram header{};
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.failed = ~uint64_t{0};
  std::memcpy(bytes.data(), &header, sizeof(header));
  EXPECT_EQ(ProgramResult(program, bytes).failed(), 1u);
}

}  // namespace
}  // namespace moult::ptrace
