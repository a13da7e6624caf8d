// SPDX-License-Identifier: Apache-2.0
#include "qemu/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moult::qemu {
namespace {

using ::testing::ElementsAre;

TEST(ParseSettings, TakesEverything) {
  Settings s;
  ASSERT_TRUE(ParseSettings("control=/c,,d.sock,ram=a+b,window=w,vsock=uds:/v,port=7,store=/"
                            "s,tenant=x,cross_tenant=on,log=/l,debug=on,name=n,pool=file:/p,pool_mib=64,pager_threads=3,"
                            "cache=/dev/shm/c,cache_mib=9,prefetch_mib=0,fault_ms=50,pool_key=/k",
                            &s)
                  .ok());
  EXPECT_EQ(s.control, "/c,d.sock");
  EXPECT_THAT(s.ram, ElementsAre("a", "b"));
  EXPECT_THAT(s.windows, ElementsAre("w"));
  EXPECT_EQ(s.port, 7u);
  EXPECT_TRUE(s.cross_tenant && s.debug);
  EXPECT_EQ(s.pool, "file:/p");
  EXPECT_EQ(s.pool_mib, 64u);
  EXPECT_EQ(s.pager_threads, 3u);
  EXPECT_EQ(s.cache, "/dev/shm/c");
  EXPECT_EQ(s.cache_mib, 9u);
  EXPECT_EQ(s.prefetch_mib, 0u);
  EXPECT_EQ(s.fault_ms, 50u);
  EXPECT_EQ(s.pool_key, "/k");
}

TEST(ParseSettings, NamesWhatIsWrong_AndKeepsTheRest) {
  Settings s;
  EXPECT_EQ(ParseSettings("port=x,control=/c,vsock=3", &s).message(),
            "MOULT_QEMU: port must be a port number");
  EXPECT_EQ(ParseSettings("pager_threads=0", &s).message(), "MOULT_QEMU: pager_threads must be 1 to 64");
  EXPECT_EQ(ParseSettings("pool_mib=all", &s).message(), "MOULT_QEMU: pool_mib must be a number of MiB");
  EXPECT_EQ(ParseSettings("cache_mib=x", &s).message(), "MOULT_QEMU: cache_mib must be a number of MiB");
  EXPECT_EQ(ParseSettings("prefetch_mib=x", &s).message(), "MOULT_QEMU: prefetch_mib must be a number of MiB a second");
  EXPECT_EQ(ParseSettings("fault_ms=0", &s).message(), "MOULT_QEMU: fault_ms must be 1 to 600000 milliseconds");
  EXPECT_EQ(s.control, "/c");
  EXPECT_THAT(s.ram, ElementsAre("ram"));
  Settings bare;
  EXPECT_EQ(ParseSettings("control=/c", &bare).message(),
            "MOULT_QEMU: vsock is missing: the way to the agent (CID, uds:PATH or unix:PATH)");
}

TEST(ParseSettings, RefusesWhatItDoesNotKnow) {
  Settings s;
  EXPECT_THAT(std::string(ParseSettings("control=/c,vsock=3,windw=w", &s).message()),
              ::testing::HasSubstr("windw is no key"));
  EXPECT_THAT(std::string(ParseSettings("control", &s).message()),
              ::testing::HasSubstr("control has no value"));
}

}  // namespace
}  // namespace moult::qemu
