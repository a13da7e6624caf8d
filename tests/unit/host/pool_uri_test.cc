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
  const auto dax = ParsePoolUri("dax:/dev/dax0.0");
  ASSERT_TRUE(dax.ok()) << dax.status();
  EXPECT_EQ(dax->scheme, "dax");
  EXPECT_EQ(dax->path, "/dev/dax0.0");
  const auto rdma = ParsePoolUri("rdma://10.0.0.1:7471,node-2.example:1,[fe80::1%eth0]:65535/");
  ASSERT_TRUE(rdma.ok()) << rdma.status();
  EXPECT_THAT(rdma->nodes, ElementsAre(PoolNode{"10.0.0.1", 7471}, PoolNode{"node-2.example", 1},
                                       PoolNode{"fe80::1%eth0", 65535}));
  EXPECT_THAT(ParsePoolUri("rdma://a")->nodes, ElementsAre(PoolNode{"a", kPoolPort}));
  EXPECT_THAT(ParsePoolUri("rdma://[::1]/")->nodes, ElementsAre(PoolNode{"::1", kPoolPort}));
  EXPECT_EQ(rdma->nodes[2].text(), "[fe80::1%eth0]:65535");
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
      {"nfs:/dev/dax0.0", "is of no kind that there is"},
      {"dax:", "has no absolute path"},
      {"dax:dev/dax0.0", "has no absolute path"},
      {"rdma:/a:1", "has no host"},
      {"rdma://", "a node is no host name or address"},
      {"rdma:///", "a node is no host name or address"},
      {"rdma://:1/", "a node is no host name or address"},
      {"rdma://a:/", "a port is not 1 to 65535"},
      {"rdma://a:0/", "a port is not 1 to 65535"},
      {"rdma://a:65536/", "a port is not 1 to 65535"},
      {"rdma://a:+1/", "a port is not 1 to 65535"},
      {"rdma://a:1x/", "a port is not 1 to 65535"},
      {"rdma://[::1]x/", "a port is not 1 to 65535"},
      {"rdma://a:1,/", "a node is no host name or address"},
      {"rdma://a/b", "a node is no host name or address"},
      {"rdma://::1/", "a node is no host name or address"},
      {"rdma://a b:1/", "a node is no host name or address"},
      {"rdma://[::1:1/", "a node is no host name or address"},
      {"rdma://[]:1/", "a node is no host name or address"},
      {"rdma://a,b,a:7471/", "has a node twice"},
      {"rdma://a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q/", "has too many nodes"},
  };
  for (const auto& one : cases) {
    const auto uri = ParsePoolUri(one.text);
    EXPECT_TRUE(absl::IsInvalidArgument(uri.status())) << one.text;
    EXPECT_THAT(uri.status().message(), HasSubstr(one.what)) << one.text;
    EXPECT_THAT(uri.status().message(),
                HasSubstr("; give file:/PATH, dax:/PATH or rdma://HOST[:PORT][,HOST[:PORT]]/"));
  }
  EXPECT_FALSE(ParsePoolUri(absl::string_view("file:/a\0b", 9)).ok());
}

TEST(PoolUri, Rdma_AsksForAKey_BeforeItLooksForADevice) {
  const auto none = OpenTemplatePool("rdma://a/", {"red", ""});
  EXPECT_TRUE(absl::IsInvalidArgument(none.status()));
  EXPECT_THAT(none.status().message(), HasSubstr("pool rdma://a/: asks for the tenant's key"));
  EXPECT_TRUE(absl::IsNotFound(OpenTemplatePool("rdma://a/", {"red", "/nonexistent/keys"}).status()));
}

}  // namespace
}  // namespace moult::host::testing
