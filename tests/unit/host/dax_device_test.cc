// SPDX-License-Identifier: Apache-2.0
//
// Files, and what several processes do with one.
#include <sys/mount.h>
#include <sched.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <thread>
#include "dax_medium.h"
#include "moult/base/page.h"
#include "moult/protocol/digest.h"
#include "pool/dax/dax_pages.h"
#include "pool/dax/device.h"
#include "pool/dax/flush.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kFileBytes = 256 * kSmallBlock;

class DaxDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "moult-dax-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/pool";
    ASSERT_TRUE(DaxDevice::CreateFile(path_, kFileBytes).ok());
    const auto device = Device(true);
    ASSERT_TRUE(FormatDax(device.get(), {.block = kSmallBlock}, DaxDeadline()).ok());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<DaxDevice> Device(bool writable) const {
    auto device = DaxDevice::Open(path_, writable);
    EXPECT_TRUE(device.ok()) << device.status();
    return *std::move(device);
  }
  static absl::Status WhyNot(const std::string& path) { return DaxDevice::Open(path, false).status(); }
  absl::Status Add(const std::string& name, uint64_t pages) const {
    const auto device = Device(true);
    return DaxVolume::Open(device.get())->Add(DaxSample{name, pages}.content(), DaxDeadline());
  }
  absl::Status Remove(const std::string& name) const {
    const auto device = Device(true);
    return DaxVolume::Open(device.get())->Remove(name, DaxDeadline());
  }
  DaxSpace Space() const {
    const auto device = Device(false);
    return *DaxVolume::Open(device.get())->Space();
  }
  // The names of what is there; all of it is whole.
  std::vector<std::string> Names() const {
    const auto device = Device(false);
    const auto volume = DaxVolume::Open(device.get());
    EXPECT_TRUE(volume.ok()) << volume.status();
    const auto directory = volume->Read();
    EXPECT_TRUE(directory.ok()) << directory.status();
    for (const DaxEntry& entry : directory->entries)
      EXPECT_EQ(WhatIsWrong(*device, volume->geometry(), entry), "");
    return NamesIn(*directory);
  }
  static void AwaitExit(pid_t child) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
  std::string folder_, path_;
};

TEST_F(DaxDeviceTest, Open_SaysWhatIsNoDevice) {
  EXPECT_TRUE(absl::IsNotFound(WhyNot(folder_ + "/none")));
  EXPECT_TRUE(absl::IsInvalidArgument(WhyNot("/dev/null")));
  EXPECT_THAT(WhyNot("/dev/null").message(),
              HasSubstr("open /dev/null: is no DAX device and no file; give /dev/daxX.Y, or a file"));
  EXPECT_THAT(WhyNot(folder_).message(), HasSubstr("is a folder; name a file in it"));
  ASSERT_EQ(mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(WhyNot(folder_ + "/fifo")));
  std::ofstream(folder_ + "/empty");
  EXPECT_TRUE(absl::IsFailedPrecondition(WhyNot(folder_ + "/empty")));
  EXPECT_THAT(WhyNot(folder_ + "/empty").message(),
              HasSubstr("the file is empty; moultctl pool format dax:"));
}

// A mapping there is of the file below, so it does not keep the locks of the one that was opened.
TEST_F(DaxDeviceTest, FileOnOverlayfs_IsRefused) {
  bool mounted = false;
  absl::Status opened;
  std::thread([&] {  // In a mount namespace of its own, which goes with it.
    for (const char* name : {"/upper", "/work", "/merged"}) ASSERT_EQ(mkdir((folder_ + name).c_str(), 0700), 0);
    const std::string layers = "lowerdir=" + folder_ + "/merged,upperdir=" + folder_ + "/upper,workdir=" + folder_ + "/work";
    mounted = unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
              mount("overlay", (folder_ + "/merged").c_str(), "overlay", 0, layers.c_str()) == 0;
    if (!mounted) return;
    ASSERT_TRUE(DaxDevice::CreateFile(folder_ + "/merged/pool", kFileBytes).ok());
    opened = DaxDevice::Open(folder_ + "/merged/pool", /*writable=*/false).status();
  }).join();
  if (!mounted) GTEST_SKIP() << "overlayfs cannot be mounted here";
  EXPECT_TRUE(absl::IsFailedPrecondition(opened)) << opened;
  EXPECT_THAT(std::string(opened.message()), HasSubstr("overlayfs"));
}

TEST_F(DaxDeviceTest, CreateFile_SparesWhatIsThere) {
  EXPECT_TRUE(absl::IsAlreadyExists(DaxDevice::CreateFile(path_, 4096).status()));
  std::ofstream(folder_ + "/empty");
  EXPECT_TRUE(DaxDevice::CreateFile(folder_ + "/empty", 8192).ok());
  EXPECT_EQ(std::filesystem::file_size(folder_ + "/empty"), 8192u);
  EXPECT_FALSE(DaxDevice::CreateFile(folder_ + "/huge", 1ull << 60).ok());
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/huge"));
}

TEST_F(DaxDeviceTest, Flush_ChangesNothing) {
  const auto device = Device(true);
  const std::vector<std::byte> before(device->bytes().begin(), device->bytes().end());
  FlushLines(device->bytes().data() + 1, 1000);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), device->bytes().begin()));
}

TEST_F(DaxDeviceTest, WhatIsStored_IsInTheFile) {
  ASSERT_TRUE(Add("a", 3).ok());
  EXPECT_THAT(Names(), ElementsAre("a"));
  EXPECT_EQ(Device(false)->kind(), DaxKind::kPageCache);
}

TEST_F(DaxDeviceTest, Writer_WaitsForAnotherUntilItsDeadline) {
  const auto first = Device(true);
  ASSERT_TRUE(first->LockForWriting(DaxDeadline()).ok());
  const auto second = Device(true);
  const absl::Status late = second->LockForWriting(DaxMedium::Clock::now() + std::chrono::milliseconds(20));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late));
  EXPECT_THAT(late.message(), HasSubstr("another process writes to it"));
  // Readers do not wait.
  EXPECT_THAT(Names(), IsEmpty());
}

// An embedder that forks at that moment, and whose child lives on.
TEST_F(DaxDeviceTest, WritersLock_GoesWithItsDevice_ThoughAChildHasTheDescriptor) {
  auto first = Device(true);
  ASSERT_TRUE(first->LockForWriting(DaxDeadline()).ok());
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  first.reset();
  const absl::Status free = Device(true)->LockForWriting(DaxMedium::Clock::now() + std::chrono::milliseconds(20));
  EXPECT_TRUE(free.ok()) << free;
  kill(child, SIGKILL);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(DaxDeviceTest, Hold_IsSeenByOthersAndGoesWithItsDevice) {
  const auto writer = Device(true);
  const DaxRange all{0, kFileBytes};
  auto reader = Device(false);
  const DaxRange two[] = {{16384, 4096}, {32768, 8192}};
  ASSERT_TRUE(reader->Hold(two).ok());
  EXPECT_THAT(*writer->Held(all), ElementsAre(two[0], two[1]));
  EXPECT_THAT(*writer->Held({36864, 4096}), ElementsAre(DaxRange{36864, 4096}));
  EXPECT_THAT(*reader->Held(all), IsEmpty());
  auto other = Device(false);
  ASSERT_TRUE(other->Hold({two, 1}).ok());
  reader.reset();
  EXPECT_THAT(*writer->Held(all), ElementsAre(two[0]));
  other.reset();
  EXPECT_THAT(*writer->Held(all), IsEmpty());
}

// What the windows of VMs rest on.
TEST_F(DaxDeviceTest, Hold_LastsAsLongAsAMappingOfItsDevice) {
  const auto writer = Device(true);
  auto reader = Device(false);
  const DaxRange range{16384, 4096};
  ASSERT_TRUE(reader->Hold({&range, 1}).ok());
  void* const at =
      mmap(nullptr, range.length, PROT_READ, MAP_PRIVATE, reader->fd(), static_cast<off_t>(range.at));
  ASSERT_NE(at, MAP_FAILED);
  reader.reset();
  EXPECT_THAT(*writer->Held({0, kFileBytes}), ElementsAre(range));
  munmap(at, range.length);
  EXPECT_THAT(*writer->Held({0, kFileBytes}), IsEmpty());
}

// As on devdax, where no less than 2 MiB can be mapped: here by an image of such a device.
TEST_F(DaxDeviceTest, WhatIsBehindThePages_IsShownWithThem_AndMustBeZero) {
  RecordedMedium medium(32u << 20);
  medium.align_ = kDaxBlock;
  ASSERT_EQ(FormatDax(&medium, {}, DaxDeadline()), absl::OkStatus());
  const DaxSample sample{"a", 3};
  {
    auto volume = DaxVolume::Open(&medium);
    ASSERT_TRUE(volume.ok()) << volume.status();
    ASSERT_EQ(volume->Add(sample.content(), DaxDeadline()), absl::OkStatus());
  }
  std::vector<std::byte> pages(3 * kPage);
  ASSERT_EQ(sample.content().read_pages(0, absl::MakeSpan(pages)), absl::OkStatus());
  const image::Sha256Digest leaf = image::LeafDigest(image::kFormatVersion, pages);
  const std::vector<uint8_t> leaves(leaf.begin(), leaf.end());
  for (const bool flipped : {false, true}) {
    const auto volume = DaxVolume::Open(&medium);
    const DaxEntry entry = volume->Read()->entries.front();
    const uint64_t first = entry.ranges(volume->geometry()).front().at;
    if (flipped) medium.memory_[first + kDaxBlock - 1] ^= std::byte{1};
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(medium.memory_.data()), static_cast<std::streamsize>(medium.memory_.size()));
    auto opened = DaxPages::Open(Device(false), volume->geometry(), entry, std::make_shared<DaxChecked>());
    ASSERT_TRUE(opened.ok()) << opened.status();
    const absl::Status verified = (*opened)->Verify({.digests = leaves}, DaxDeadline());
    EXPECT_EQ(verified.code(), flipped ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk) << verified;
    if (flipped) {
      EXPECT_THAT(verified.message(), HasSubstr("what is behind its pages is not zero"));
    }
  }
}

TEST_F(DaxDeviceTest, RemovedTemplate_IsKept_UntilTheProcessThatHasItDies) {
  ASSERT_TRUE(Add("a", 3).ok());
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto device = DaxDevice::Open(path_, false);
    if (!device.ok() || !DaxVolume::Open(device->get())->Take("a", DaxDeadline()).ok()) _exit(1);
    (void)!write(ready[1], "r", 1);
    pause();
    _exit(0);
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_TRUE(Remove("a").ok());
  EXPECT_EQ(Space().held, 4 * kSmallBlock);
  EXPECT_EQ(Space().used, 0u);
  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_EQ(Space().held, 0u);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(DaxDeviceTest, ManyProcesses_EachGetTheirsIn) {
  constexpr int kProcesses = 4;
  constexpr int kEach = 8;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      for (int j = 0; j < kEach; ++j) {
        const std::string name = absl::StrCat("t", i, "-", j);
        if (!Add(name, static_cast<uint64_t>(i + 1)).ok()) _exit(1);
        if (j % 2 == 1 && !Remove(absl::StrCat("t", i, "-", j - 1)).ok()) _exit(2);
      }
      _exit(::testing::Test::HasFailure() ? 3 : 0);
    }
    children.push_back(child);
  }
  // Whatever they are at, what is there is whole; but between the look at the directory and that at the
  // blocks a template may go, so it is taken.
  for (int i = 0; i < 50; ++i) {
    const auto device = Device(false);
    const auto volume = DaxVolume::Open(device.get());
    const auto directory = volume->Read();
    ASSERT_TRUE(directory.ok()) << directory.status();
    for (const DaxEntry& entry : directory->entries) {
      const auto taken = DaxVolume(*volume).Take(entry.name, DaxDeadline());
      if (!taken.ok()) continue;
      EXPECT_EQ(WhatIsWrong(*device, volume->geometry(), *taken), "");
    }
  }
  for (const pid_t child : children) AwaitExit(child);
  EXPECT_EQ(Names().size(), static_cast<size_t>(kProcesses * kEach / 2));
}

// Killed anywhere: what it had not finished is not there, and what it took is free.
TEST_F(DaxDeviceTest, KilledWriter_LeavesWhatIsWhole_AndNoLock) {
  for (int round = 0; round < 10; ++round) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      for (int i = 0;; ++i) {
        if (!Add("k", 40).ok() || !Remove("k").ok()) _exit(1);
        if (i == 0) (void)!write(ready[1], "r", 1);
      }
    }
    char byte;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    usleep(static_cast<useconds_t>(round * 700));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    close(ready[0]);
    close(ready[1]);
    if (!Names().empty()) {
      EXPECT_THAT(Names(), ElementsAre("k"));
      ASSERT_TRUE(Remove("k").ok());
    }
    EXPECT_EQ(Space().used, 0u);
    EXPECT_EQ(Space().held, 0u);
  }
}

}  // namespace
}  // namespace moult::host::testing
