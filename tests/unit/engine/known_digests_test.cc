// SPDX-License-Identifier: Apache-2.0
#include "image/known_digests.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "image/files.h"
#include "moult/base/unique_fd.h"

namespace moult::engine {
namespace {

// There, readable to all, and not written to lately.
constexpr char kOldFile[] = "/etc/ld.so.conf";

bool Always() { return true; }

FileVersion VersionAt(const std::string& path) {
  struct stat st {};
  EXPECT_EQ(stat(path.c_str(), &st), 0) << path;
  return VersionOf(st);
}

image::Sha256Digest DigestAt(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto digest = image::Sha256OfFile(fd.get(), path);
  EXPECT_TRUE(digest.ok()) << digest.status();
  return digest.value_or(image::Sha256Digest{});
}

std::string LibC() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        const std::string name = info->dlpi_name;
        if (name.find("/libc.so") != std::string::npos) *static_cast<std::string*>(to) = name;
        return 0;
      },
      &path);
  return path;
}

image::ProcessImageT ImageWith(const FileVersion& version) {
  image::ProcessImageT image;
  auto& file = *image.files.emplace_back(std::make_unique<image::FileRefT>());
  file.path = kOldFile;
  file.mode = S_IFREG | 0644;
  file.content = image::FileContent::Exact;
  file.dev = version.dev;
  file.ino = version.ino;
  file.size = version.size;
  file.mtime_ns = version.mtime_ns;
  file.ctime_ns = version.ctime_ns;
  return image;
}

TEST(KnownDigests_Knows, WhatIsMapped) {
  const std::string libc = LibC();
  ASSERT_FALSE(libc.empty());
  KnownDigests known;
  known.Learn(getpid(), Always);
  const image::Sha256Digest* digest = known.Find(VersionAt(libc));
  if (digest == nullptr && geteuid() != 0) GTEST_SKIP() << "map_files is for root";
  ASSERT_NE(digest, nullptr);
  EXPECT_EQ(*digest, DigestAt(libc));
}

TEST(KnownDigests_Knows, WhatIsOpenToBeRead) {
  const UniqueFd fd(open(kOldFile, O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(fd.valid());
  KnownDigests known;
  known.Learn(getpid(), Always);
  const image::Sha256Digest* digest = known.Find(VersionAt(kOldFile));
  ASSERT_NE(digest, nullptr);
  EXPECT_EQ(*digest, DigestAt(kOldFile));
}

TEST(KnownDigests_DoesNotKnow, WhatIsOnlyNamed) {
  const UniqueFd fd(open(kOldFile, O_PATH | O_CLOEXEC));
  ASSERT_TRUE(fd.valid());
  KnownDigests known;
  known.Learn(getpid(), Always);
  EXPECT_EQ(known.Find(VersionAt(kOldFile)), nullptr);
}

// Another write could leave its times as they are.
TEST(KnownDigests_DoesNotKnow, WhatWasWrittenJustNow) {
  char path[] = "/tmp/moult-known-XXXXXX";
  const UniqueFd fd(mkostemp(path, O_CLOEXEC));
  ASSERT_TRUE(fd.valid());
  ASSERT_EQ(write(fd.get(), "new", 3), 3);
  const FileVersion version = VersionAt(path);
  KnownDigests known;
  known.Learn(getpid(), Always);
  unlink(path);
  EXPECT_EQ(known.Find(version), nullptr);
}

// Its holder would be told to give it up, for a capture that is refused because of it.
TEST(KnownDigests_DoesNotKnow, WhatHasALease) {
  const UniqueFd fd(open(kOldFile, O_RDONLY | O_CLOEXEC));
  if (fcntl(fd.get(), F_SETLEASE, F_RDLCK) < 0) GTEST_SKIP() << "F_SETLEASE: " << std::strerror(errno);
  KnownDigests known;
  known.Learn(getpid(), Always);
  EXPECT_EQ(known.Find(VersionAt(kOldFile)), nullptr);
  EXPECT_EQ(fcntl(fd.get(), F_GETLEASE), F_RDLCK);
}

TEST(KnownDigests_DoesNotKnow, AnotherVersion) {
  const UniqueFd fd(open(kOldFile, O_RDONLY | O_CLOEXEC));
  KnownDigests known;
  known.Learn(getpid(), Always);
  FileVersion other = VersionAt(kOldFile);
  ++other.ctime_ns;
  EXPECT_EQ(known.Find(other), nullptr);
}

TEST(KnownDigests_Stops, WhenToldTo) {
  const UniqueFd fd(open(kOldFile, O_RDONLY | O_CLOEXEC));
  KnownDigests known;
  known.Learn(getpid(), [] { return false; });
  EXPECT_EQ(known.Find(VersionAt(kOldFile)), nullptr);
}

TEST(DigestFiles_ReadsNothing, WhenTheDigestIsKnown) {
  const UniqueFd fd(open(kOldFile, O_RDONLY | O_CLOEXEC));
  KnownDigests known;
  known.Learn(getpid(), Always);
  image::ProcessImageT image = ImageWith(VersionAt(kOldFile));
  const auto changed = DigestFiles("/no-such-root", known, image);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_TRUE(changed->empty());
  const image::Sha256Digest digest = DigestAt(kOldFile);
  EXPECT_TRUE(
      std::equal(digest.begin(), digest.end(), image.files[0]->digest.begin(), image.files[0]->digest.end()));
}

TEST(DigestFiles_Reads, WhatIsNotKnown) {
  image::ProcessImageT image = ImageWith(VersionAt(kOldFile));
  const auto changed = DigestFiles("", KnownDigests(), image);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_TRUE(changed->empty());
  EXPECT_EQ(image.files[0]->digest.size(), 32u);
}

TEST(DigestFiles_NamesTheFile, WhenItIsAnotherVersionByNow) {
  const UniqueFd fd(open(kOldFile, O_RDONLY | O_CLOEXEC));
  KnownDigests known;
  known.Learn(getpid(), Always);
  FileVersion before = VersionAt(kOldFile);
  --before.mtime_ns;
  image::ProcessImageT image = ImageWith(before);
  const auto changed = DigestFiles("", known, image);
  ASSERT_TRUE(changed.ok()) << changed.status();
  EXPECT_EQ(*changed, std::vector<std::string>{kOldFile});
  EXPECT_TRUE(image.files[0]->digest.empty());
}

}  // namespace
}  // namespace moult::engine
