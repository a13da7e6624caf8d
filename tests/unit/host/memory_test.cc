// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <algorithm>

#include "host_test.h"
#include "memory/guest_memory.h"

namespace moult::host {
namespace {

using testing::FakeGuest;
using ::testing::HasSubstr;
using testing::kRamBytes;
using testing::kRamGpa;

RegionConfig Region(const FakeGuest& guest) {
  return {{GuestPhys(kRamGpa), kRamBytes}, reinterpret_cast<std::byte*>(guest.ram), guest.ram_fd.get(), 0};
}

TEST(GuestMemory, Translate_KnowsOneRegionAtATime) {
  const FakeGuest low, high;
  RegionConfig second = Region(high);
  second.range.start = GuestPhys(kRamGpa + kRamBytes);  // Touches the first.
  auto memory = GuestMemory::Create({Region(low), second});
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto at = [&](uint64_t gpa, uint64_t length) { return memory->Translate({GuestPhys(gpa), length}); };
  EXPECT_EQ(reinterpret_cast<uint8_t*>(at(kRamGpa, 1)->data()), low.ram);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(at(kRamGpa + kRamBytes - 1, 1)->data()), low.ram + kRamBytes - 1);
  EXPECT_EQ(reinterpret_cast<uint8_t*>(at(kRamGpa + kRamBytes, kRamBytes)->data()), high.ram);
  for (const auto& [gpa, length] :
       std::vector<std::pair<uint64_t, uint64_t>>{{kRamGpa - 1, 1},
                                                  {kRamGpa - 1, 2},
                                                  {0, 1},
                                                  {kRamGpa + kRamBytes - 1, 2},
                                                  {kRamGpa, kRamBytes + 1},
                                                  {kRamGpa + 2 * kRamBytes, 1},
                                                  {kRamGpa, UINT64_MAX},
                                                  {UINT64_MAX, 1},
                                                  {UINT64_MAX, UINT64_MAX},
                                                  {kRamGpa + 8, UINT64_MAX - 7}}) {
    EXPECT_EQ(at(gpa, length).status().code(), absl::StatusCode::kOutOfRange) << gpa << " " << length;
  }
}

TEST(GuestMemory, Create_RefusesMemoryThatCannotBeGivenBack) {
  const FakeGuest guest;
  const auto expect = [](const RegionConfig& region, absl::StatusCode code, const char* message) {
    const auto memory = GuestMemory::Create({region});
    EXPECT_EQ(memory.status().code(), code) << memory.status();
    EXPECT_THAT(std::string(memory.status().message()), HasSubstr(message));
  };
  using enum absl::StatusCode;
  RegionConfig region = Region(guest);
  uint8_t* const private_map = FakeGuest::Map(kRamBytes, MAP_PRIVATE, guest.ram_fd.get());
  region.hva = reinterpret_cast<std::byte*>(private_map);
  expect(region, kFailedPrecondition, "a private mapping of the fd");
  region.fd = -1;
  expect(region, kFailedPrecondition, "a private mapping of a file");
  munmap(private_map, kRamBytes);
  expect(region, kInvalidArgument, "nothing is mapped");

  region = Region(guest);
  region.fd = -1;
  expect(region, kFailedPrecondition, "shared memory without its fd");
  const FakeGuest other;
  region.fd = other.ram_fd.get();
  expect(region, kInvalidArgument, "another file");
  region = Region(guest);
  region.fd_offset = 4096;
  region.range.length -= 4096;
  expect(region, kInvalidArgument, "another part");
  region = Region(guest);
  region.range.length = 2 * kRamBytes;
  expect(region, kInvalidArgument, "ends before the region");
  region = Region(guest);
  region.range.start = GuestPhys(1);
  expect(region, kInvalidArgument, "not page aligned");
  region.range.start = GuestPhys(~4095ull);
  expect(region, kInvalidArgument, "wraps around");
  const auto twice = GuestMemory::Create({Region(guest), Region(guest)});
  EXPECT_THAT(std::string(twice.status().message()), HasSubstr("overlaps an earlier region"));
}

TEST(GuestMemory, GuestOf_IsTheWayBack) {
  const FakeGuest guest;
  auto memory = GuestMemory::Create({Region(guest)});
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto* const start = reinterpret_cast<const std::byte*>(guest.ram);
  EXPECT_EQ(memory->GuestOf(start).value(), GuestPhys(kRamGpa));
  EXPECT_EQ(memory->GuestOf(start + kRamBytes - 1).value(), GuestPhys(kRamGpa + kRamBytes - 1));
  EXPECT_EQ(memory->GuestOf(start + kRamBytes).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(memory->GuestOf(start - 1).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(memory->GuestOf(nullptr).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(GuestMemory, Read_CopiesPages_AndLeavesHolesHoles) {
  const FakeGuest guest;
  auto memory = GuestMemory::Create({Region(guest)});
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_TRUE(memory->Release({GuestPhys(kRamGpa + 4096), 4096}).ok());
  const uint64_t allocated = guest.AllocatedBytes();
  std::vector<std::byte> pages(3 * 4096, std::byte{9});
  ASSERT_TRUE(memory->Read({GuestPhys(kRamGpa), pages.size()}, pages.data()).ok());
  EXPECT_EQ(std::memcmp(pages.data(), guest.ram, 4096), 0);
  EXPECT_EQ(std::count(pages.begin() + 4096, pages.begin() + 8192, std::byte{0}), 4096);
  EXPECT_EQ(std::memcmp(pages.data() + 8192, guest.ram + 8192, 4096), 0);
  EXPECT_EQ(guest.AllocatedBytes(), allocated);
  EXPECT_EQ(memory->Read({GuestPhys(kRamGpa + kRamBytes), 4096}, pages.data()).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(memory->Read({GuestPhys(kRamGpa), 1}, pages.data()).code(), absl::StatusCode::kInvalidArgument);
}

TEST(GuestMemory, Discard_FreesAnonymousMemory) {
  uint8_t* const ram = FakeGuest::Map(kRamBytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  std::memset(ram, 0x5a, kRamBytes);
  auto memory = GuestMemory::Create(
      {RegionConfig{{GuestPhys(0), kRamBytes}, reinterpret_cast<std::byte*>(ram), -1, 0}});
  ASSERT_TRUE(memory.ok()) << memory.status();
  uint64_t zeroed = 0;
  ASSERT_TRUE(memory->Discard({GuestPhys(4096), 8192}, &zeroed).ok());
  unsigned char resident[4];
  ASSERT_EQ(mincore(ram, sizeof(resident) * 4096, resident), 0);
  EXPECT_EQ(resident[0] & 1, 1);
  EXPECT_EQ(resident[1] & 1, 0);
  EXPECT_EQ(resident[2] & 1, 0);
  EXPECT_EQ(resident[3] & 1, 1);
  EXPECT_EQ(ram[4096], 0);
  EXPECT_EQ(zeroed, 0u);
  EXPECT_EQ(memory->Discard({GuestPhys(1), 4096}, &zeroed).code(), absl::StatusCode::kInvalidArgument);
  munmap(ram, kRamBytes);
}

TEST(GuestMemory, Discard_LeavesNothing_WhenTheHostKeepsThePages) {
  FakeGuest guest;
  // A hole would be a change of content that the seal forbids; a mapping from before may still be written.
  ASSERT_EQ(fcntl(guest.ram_fd.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
  auto memory = GuestMemory::Create({Region(guest)});
  ASSERT_TRUE(memory.ok()) << memory.status();
  uint64_t zeroed = 0;
  ASSERT_TRUE(memory->Discard({GuestPhys(kRamGpa), 4096}, &zeroed).ok());
  EXPECT_EQ(zeroed, 4096u);
  EXPECT_EQ(memory->Release({GuestPhys(kRamGpa), 4096}).code(), absl::StatusCode::kPermissionDenied);
  for (int i = 0; i < 4096; ++i) ASSERT_EQ(guest.ram[i], 0) << i;
  EXPECT_NE(guest.ram[4097], 0);
}

}  // namespace
}  // namespace moult::host
