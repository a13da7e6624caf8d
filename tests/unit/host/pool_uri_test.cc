// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/uri.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PoolUri, Text_IsTakenApart) {
  const auto file = ParsePoolUri("file:/mnt/a b");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->scheme, "file");
  EXPECT_EQ(file->path, "/mnt/a b");
  EXPECT_EQ(file->text, "file:/mnt/a b");
  EXPECT_EQ(ParsePoolUri("file:///mnt/a")->path, "/mnt/a");
  EXPECT_EQ(ParsePoolUri("dax:/dev/dax0.0")->path, "/dev/dax0.0");
  const auto rdma = ParsePoolUri("rdma://10.0.0.1:7471,node-2.example:1,[fe80::1%eth0]:65535/");
  ASSERT_TRUE(rdma.ok()) << rdma.status();
  EXPECT_THAT(rdma->nodes, ElementsAre(PoolNode{"10.0.0.1", 7471}, PoolNode{"node-2.example", 1},
                                       PoolNode{"fe80::1%eth0", 65535}));
  EXPECT_EQ(ParsePoolUri("rdma://a:1")->nodes.size(), 1u);
}

TEST(PoolUri, Text_ThatIsNoneIsRefused) {
  const struct {
    const char* text;
    const char* what;
  } cases[] = {
      {"", "has no scheme"},
      {"/mnt/a", "has no scheme"},
      {"file:", "has no absolute path"},
      {"file:a", "has no absolute path"},
      {"file://host/a", "has no absolute path"},
      {"tcp://a:1/", "is of no kind that there is"},
      {"rdma:/a:1", "has no host"},
      {"rdma://", "a node has no port"},
      {"rdma://a/", "a node has no port"},
      {"rdma://:1/", "a node has no port"},
      {"rdma://a:0/", "a port is not 1 to 65535"},
      {"rdma://a:65536/", "a port is not 1 to 65535"},
      {"rdma://a:+1/", "a port is not 1 to 65535"},
      {"rdma://a:1x/", "a port is not 1 to 65535"},
      {"rdma://a:1,/", "a node has no port"},
      {"rdma://a b:1/", "a node is no host name or address"},
      {"rdma://[::1:1/", "a node has no port"},
      {"rdma://[]:1/", "a node is no host name or address"},
      {"rdma://a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1/", "has too many nodes"},
  };
  for (const auto& one : cases) {
    const auto uri = ParsePoolUri(one.text);
    EXPECT_TRUE(absl::IsInvalidArgument(uri.status())) << one.text;
    EXPECT_THAT(uri.status().message(), HasSubstr(one.what)) << one.text;
    EXPECT_THAT(uri.status().message(),
                HasSubstr("; give file:/PATH, dax:/PATH or rdma://HOST:PORT[,HOST:PORT]/"));
  }
  EXPECT_FALSE(ParsePoolUri(absl::string_view("file:/a\0b", 9)).ok());
}

TEST(PoolUri, Scheme_IsOpenedByWhoRegistersIt) {
  const auto none = OpenTemplatePool("dax:/dev/dax0.0", {});
  EXPECT_TRUE(absl::IsUnimplemented(none.status()));
  EXPECT_THAT(none.status().message(), HasSubstr("this program was built without dax: pools"));
  RegisterTemplatePool("dax", [](const PoolUri& uri, const PoolAccess& access) {
    return absl::UnavailableError(uri.path + " as " + access.tenant);
  });
  EXPECT_EQ(OpenTemplatePool("dax:/dev/dax0.0", {"red", ""}).status(),
            absl::UnavailableError("/dev/dax0.0 as red"));
  RegisterTemplatePool("dax", nullptr);
  EXPECT_TRUE(absl::IsUnimplemented(OpenTemplatePool("dax:/dev/dax0.0", {}).status()));
}

}  // namespace
}  // namespace moult::host::testing
