// SPDX-License-Identifier: Apache-2.0
//
// A template that brings files for a sandbox's own folders, where there is no such sandbox. What comes back in one
// is a matter of the agent's tests.
#include "resource/private_file/private_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/sandbox.h"

namespace moult::engine {
namespace {

using ::testing::HasSubstr;

void Add(image::ProcessImageT& image, const std::string& path, uint32_t mode) {
  image.private_files.push_back(std::make_unique<image::PrivateFileT>());
  image.private_files.back()->path = path;
  image.private_files.back()->mode = mode;
}

TEST(RestorePrivateFiles, TouchesNothing_WhenTheFoldersWereEmpty) {
  image::ProcessImageT image;
  EXPECT_EQ(RestorePrivateFiles(image, {}, nullptr), absl::OkStatus());
  Add(image, "/tmp", S_IFDIR | 0700);
  struct stat before {};
  ASSERT_EQ(stat("/tmp", &before), 0);
  EXPECT_EQ(RestorePrivateFiles(image, {}, nullptr), absl::OkStatus());
  struct stat after {};
  ASSERT_EQ(stat("/tmp", &after), 0);
  EXPECT_EQ(after.st_mode, before.st_mode);
}

TEST(RestorePrivateFiles, IsRefused_WhenTheFoldersAreEverybodys) {
  const std::string path = absl::StrCat("/tmp/moult-private-file-", getpid());
  image::ProcessImageT image;
  Add(image, "/tmp", S_IFDIR | 01777);
  Add(image, path, S_IFREG | 0600);
  absl::Status status = RestorePrivateFiles(image, {}, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr(path + " was in a folder of its own sandbox"));
  EXPECT_THAT(status.message(), HasSubstr("attach the template with moult-agent"));
  const auto sandbox = Sandbox::Create(0, 0);
  ASSERT_TRUE(sandbox.ok()) << sandbox.status();
  status = RestorePrivateFiles(image, {}, sandbox->get());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("the sandbox has no /tmp of its own"));
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace moult::engine
