// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/interrupted.h"

#include <cstring>
#include <ctime>
#include <map>

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/user.h>

namespace moult::engine {
namespace {

constexpr uint64_t kRestartBlock = static_cast<uint64_t>(-516);
constexpr uint64_t kNoHand = static_cast<uint64_t>(-514);

// A process's memory: some bytes at some addresses, nothing elsewhere.
class Memory {
 public:
  template <typename T>
  void Put(uint64_t address, const T& object) {
    bytes_[address].assign(reinterpret_cast<const char*>(&object), sizeof(object));
  }
  ReadMemory reader() const {
    return [this](uint64_t address, absl::Span<std::byte> out) -> absl::Status {
      const auto it = bytes_.find(address);
      if (it == bytes_.end() || it->second.size() < out.size()) return absl::NotFoundError("unmapped");
      std::memcpy(out.data(), it->second.data(), out.size());
      return absl::OkStatus();
    };
  }

 private:
  std::map<uint64_t, std::string> bytes_;
};

image::GpRegs Regs(long nr, uint64_t rax, uint64_t rdi = 0, uint64_t rsi = 0, uint64_t rdx = 0, uint64_t r10 = 0) {
  user_regs_struct regs{};
  regs.orig_rax = static_cast<uint64_t>(nr);
  regs.rax = rax;
  regs.rdi = rdi;
  regs.rsi = rsi;
  regs.rdx = rdx;
  regs.r10 = r10;
  regs.rip = 0x401007;
  image::GpRegs out;
  std::memcpy(static_cast<void*>(&out), &regs, sizeof(out));
  return out;
}

TEST(InterruptedCall_IsLeftToTheKernel, WhenItIsNotARestartBlock) {
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_read, kNoHand), Memory().reader());
  EXPECT_EQ(call.kind, InterruptedCall::Kind::kOther);
}

TEST(InterruptedCall_IsLeftToTheKernel, WhenTheThreadWasInNoCall) {
  const InterruptedCall call = ClassifyInterrupted(Regs(-1, kRestartBlock), Memory().reader());
  EXPECT_EQ(call.kind, InterruptedCall::Kind::kOther);
}

TEST(InterruptedCall_KnowsWhatRemains, WhenNanosleepWasGivenRoomForIt) {
  Memory memory;
  memory.Put(0x1000, timespec{10, 0});
  memory.Put(0x2000, timespec{3, 500});
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_nanosleep, kRestartBlock, 0x1000, 0x2000), memory.reader());
  EXPECT_EQ(call.nr, SYS_nanosleep);
  EXPECT_EQ(call.requested_ns, 10'000'000'000);
  EXPECT_EQ(call.remaining_ns, 3'000'000'500);
}

TEST(InterruptedCall_KnowsOnlyTheRequest, WhenNanosleepHasNoRoomForTheRest) {
  Memory memory;
  memory.Put(0x1000, timespec{2, 0});
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_nanosleep, kRestartBlock, 0x1000), memory.reader());
  EXPECT_EQ(call.requested_ns, 2'000'000'000);
  EXPECT_FALSE(call.remaining_ns.has_value());
}

TEST(InterruptedCall_HasNoTime, WhenTheTimespecIsGarbage) {
  Memory memory;
  memory.Put(0x1000, timespec{-1, 2'000'000'000});
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_nanosleep, kRestartBlock, 0x1000), memory.reader());
  EXPECT_FALSE(call.requested_ns.has_value());
}

TEST(InterruptedCall_IsAbsolute, WhenAFutexWaitsWithABitset) {
  const uint64_t operation = FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG;
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_futex, kRestartBlock, 0x3000, operation, 1, 0x1000), Memory().reader());
  EXPECT_TRUE(call.absolute);
}

TEST(InterruptedCall_WaitsForEver, WhenPollHasANegativeTimeout) {
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_poll, kRestartBlock, 0x3000, 1, static_cast<uint64_t>(-1)), Memory().reader());
  ASSERT_TRUE(call.requested_ns.has_value());
  EXPECT_LT(*call.requested_ns, 0);
}

TEST(InterruptedCall_ReadsItsNumberFromTheCode, WhenItWasRestartedBefore) {
  Memory memory;
  const unsigned char code[7] = {0xb8, SYS_poll, 0, 0, 0, 0x0f, 0x05};
  memory.Put(0x401000, code);
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_restart_syscall, kRestartBlock, 0, 0, 100), memory.reader());
  EXPECT_EQ(call.nr, SYS_poll);
  EXPECT_EQ(call.requested_ns, 100'000'000);
}

TEST(InterruptedCall_IsUnknown, WhenTheCodeDoesNotTell) {
  const InterruptedCall call = ClassifyInterrupted(Regs(SYS_restart_syscall, kRestartBlock), Memory().reader());
  EXPECT_EQ(call.kind, InterruptedCall::Kind::kRestartBlock);
  EXPECT_EQ(call.nr, -1);
}

TEST(RestartedSleep_IsNamedByItsArguments, WhenATimerRuns) {
  EXPECT_EQ(NumberOfRestarted(Regs(SYS_restart_syscall, kRestartBlock, 1), SleepKind::kTimer), SYS_clock_nanosleep);
  EXPECT_EQ(NumberOfRestarted(Regs(SYS_restart_syscall, kRestartBlock, 0x7ffd00001000), SleepKind::kTimer), SYS_nanosleep);
  EXPECT_EQ(NumberOfRestarted(Regs(SYS_restart_syscall, kRestartBlock), SleepKind::kUnknown), -1);
}

}  // namespace
}  // namespace moult::engine
