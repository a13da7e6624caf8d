// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/rdma_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "pool/rdma/api.h"

namespace moult::host::rdma {
namespace {

using ::testing::HasSubstr;

const std::string kHexKey(64, 'a');

TEST(RdmaKeys, KeyFile_NamesTenants) {
  const auto keys = ParseKeys("# ours\n\nred " + kHexKey + "\n- " + std::string(64, '0') + "  read-only\r\n");
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ((*keys)[0].tenant, "red");
  EXPECT_EQ((*keys)[0].key[31], 0xaa);
  EXPECT_FALSE((*keys)[0].read_only);
  EXPECT_EQ((*keys)[1].tenant, "");
  EXPECT_TRUE((*keys)[1].read_only);
  EXPECT_TRUE(absl::IsNotFound(FindKey(*keys, "blue").status()));
}

TEST(RdmaKeys, KeyFile_IsRefused_WithoutTellingTheKey) {
  const std::string key = "0123456789abcdef" + std::string(47, 'b');
  for (const std::string& text : {"red " + key, std::string("red"), "red " + key + "cc", "red " + key + "g", "red " + key + "c writable",
                                  "red " + kHexKey + "\nred " + kHexKey, std::string(65, 'n') + " " + kHexKey}) {
    const auto keys = ParseKeys(text);
    EXPECT_TRUE(absl::IsInvalidArgument(keys.status())) << text;
    EXPECT_THAT(std::string(keys.status().message()), ::testing::AllOf(HasSubstr("line "), ::testing::Not(HasSubstr("0123456789"))));
  }
  EXPECT_THAT(std::string(ParseKeys("# none\n").status().message()), HasSubstr("holds no key"));
}

TEST(RdmaKeys, KeyFile_MustBeItsOwnersAlone) {
  const std::string path = ::testing::TempDir() + "/keys." + std::to_string(getpid());
  std::ofstream(path) << "red " << kHexKey << "\n";
  chmod(path.c_str(), 0640);
  const auto open = ReadKeyFile(path);
  EXPECT_TRUE(absl::IsPermissionDenied(open.status()));
  EXPECT_THAT(std::string(open.status().message()), HasSubstr("chmod 600"));
  chmod(path.c_str(), 0600);
  EXPECT_TRUE(ReadKeyFile(path).ok());
  unlink(path.c_str());
  EXPECT_TRUE(absl::IsNotFound(ReadKeyFile(path).status()));
}

TEST(RdmaKeys, Proofs_DependOnAllThatTheyAreOver) {
  const auto keys = ParseKeys("red " + kHexKey + "\nblue " + std::string(64, 'b'));
  ASSERT_TRUE(keys.ok());
  const Handshake base{IdOf("red"), {1}, {2}, 3, 4};
  const Mac mac = ClientProof((*keys)[0], base);
  EXPECT_TRUE(SameMac(mac, ClientProof((*keys)[0], base)));
  EXPECT_FALSE(SameMac(mac, ServerProof((*keys)[0], base)));
  EXPECT_FALSE(SameMac(mac, ClientProof((*keys)[1], base)));
  Handshake other = base;
  other.tenant = IdOf("blue");
  EXPECT_FALSE(SameMac(mac, ClientProof((*keys)[0], other)));
  other = base;
  other.client_nonce[31] = 1;
  EXPECT_FALSE(SameMac(mac, ClientProof((*keys)[0], other)));
  other = base;
  other.server_nonce[31] = 1;
  EXPECT_FALSE(SameMac(mac, ClientProof((*keys)[0], other)));
  other = base;
  other.server_queue_pair = 5;
  EXPECT_FALSE(SameMac(mac, ClientProof((*keys)[0], other)));
}

// The format of a proof is part of the protocol: `printf ... | openssl dgst -sha256 -mac HMAC` gives the same.
TEST(RdmaKeys, ClientProof_IsHmacOverTheStatedBytes) {
  const auto keys = ParseKeys("red " + std::string(64, '0'));
  ASSERT_TRUE(keys.ok());
  const Mac mac = ClientProof((*keys)[0], Handshake{});
  EXPECT_EQ(image::DigestHex(mac), "a542a919077d55a88398fb961c9ada063cbb607b5dcaff197d43937174e81351");
}

TEST(RdmaPool, Open_TellsWhatToDo_WithoutADevice) {
  const auto api = LoadApiWithDevice();
  if (api.ok()) GTEST_SKIP() << "this host has an RDMA device";
  const auto pool = OpenRdmaPool(*ParsePoolUri("rdma://10.0.0.1/"), TenantKey{});
  EXPECT_TRUE(absl::IsFailedPrecondition(pool.status())) << pool.status();
  EXPECT_THAT(std::string(pool.status().message()),
              ::testing::AllOf(HasSubstr("pool rdma://10.0.0.1/: rdma: "),
                               ::testing::AnyOf(HasSubstr("TCP is no substitute; load"), HasSubstr("install librdmacm1"))));
}

TEST(RdmaPool, OpenPagePool_TellsWhatToDo_WithoutADevice) {
  if (LoadApiWithDevice().ok()) GTEST_SKIP() << "this host has an RDMA device";
  const std::string path = ::testing::TempDir() + "/page-keys." + std::to_string(getpid());
  std::ofstream(path) << "red " << kHexKey << "\n";
  chmod(path.c_str(), 0600);
  const auto pool = OpenPagePool("rdma://10.0.0.1/", {"red", path}, 1 << 20);
  EXPECT_TRUE(absl::IsNotFound(OpenPagePool("rdma://10.0.0.1/", {"blue", path}, 1 << 20).status()));
  unlink(path.c_str());
  EXPECT_TRUE(absl::IsFailedPrecondition(pool.status())) << pool.status();
  EXPECT_THAT(std::string(pool.status().message()),
              ::testing::AllOf(HasSubstr("pool rdma://10.0.0.1/: rdma: "),
                               ::testing::AnyOf(HasSubstr("TCP is no substitute; load"), HasSubstr("install librdmacm1"))));
}

TEST(RdmaPool, Open_RefusesBadOptions_BeforeItLooksForADevice) {
  const auto pool = OpenRdmaPool(*ParsePoolUri("rdma://10.0.0.1/"), TenantKey{}, {.connections = 0});
  EXPECT_TRUE(absl::IsInvalidArgument(pool.status()));
  EXPECT_THAT(std::string(pool.status().message()), HasSubstr("1 to 64 connections"));
}

}  // namespace
}  // namespace moult::host::rdma
