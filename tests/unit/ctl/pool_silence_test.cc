// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "../protocol/sample_image.h"
#include "commands.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/template_writer.h"
#include "output.h"

namespace moult::ctl {
namespace {

// A folder whose lock never comes is as good as a file system that hangs.
TEST(PoolSilence, EndsAPush_ThatMovesNothing) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::string root = std::filesystem::temp_directory_path().string() + "/moult-test-XXXXXX";
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  for (const char* name : {"/store", "/pool"}) std::filesystem::create_directory(root + name);
  {
    auto writer = image::TemplateWriter::Create(root + "/store/t");
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::vector<uint8_t> pages = image::sample::Pages();
    const struct iovec part = {pages.data(), pages.size()};
    ASSERT_TRUE((*writer)->AppendPages({&part, 1}).ok());
    ASSERT_TRUE((*writer)->Commit(image::sample::Image(), image::sample::Manifest()).ok());
  }
  PoolArguments arguments;
  arguments.verb = "push";
  arguments.uri = "file:" + root + "/pool";
  arguments.name = "t";
  arguments.where.store = root + "/store";
  arguments.silence_s = 1;
  {
    const UniqueFd lock(open((root + "/pool/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(flock(lock.get(), LOCK_EX), 0);
    EXPECT_EXIT(exit(RunPool(arguments)), ::testing::ExitedWithCode(ExitCode(absl::UnavailableError(""))),
                "moultctl: pool push t: pool file:.*/pool does not answer: nothing has been read or written for 1 s .--silence-s.; look at its file system");
    EXPECT_FALSE(std::filesystem::exists(root + "/pool/t"));
  }
  EXPECT_EQ(RunPool(arguments), 0);
  EXPECT_TRUE(std::filesystem::exists(root + "/pool/t/manifest"));
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace moult::ctl
