// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>

#include "proc/net_inet.h"
#include "proc/net_multicast.h"
#include "proc/net_unix.h"
#include "proc/read.h"

namespace moult::proc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr std::string_view kUnix =
    "Num       RefCount Protocol Flags    Type St Inode Path\n"
    "000000003d8123e6: 00000002 00000000 00010000 0001 01 30592 /tmp/s p ace\n"
    "00000000f3273933: 00000002 00000000 00000000 0002 01 30594 /tmp/n\n"
    "l\n"
    "\n"
    "000000x: y\n"
    "00000000f05fb4c4: 00000003 00000000 00000000 0001 03  1509\n"
    "00000000e5b31020: 00000002 00000000 00010000 0005 01 30593 @abs@tract x\n"
    "00000000e5b31021: 00000002 00000000 00000000 0001 01 30599   lead\n";

TEST(ParseNetUnix, ParseNetUnix_ReadsNames_WhenTheyAreOdd) {
  const auto sockets = ParseNetUnix(kUnix);
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  ASSERT_THAT(*sockets, SizeIs(5));
  EXPECT_EQ((*sockets)[0].path, "/tmp/s p ace");
  EXPECT_EQ((*sockets)[0].inode, 30592u);
  EXPECT_EQ((*sockets)[0].refcount, 2u);
  EXPECT_EQ((*sockets)[0].type, static_cast<uint32_t>(SOCK_STREAM));
  EXPECT_EQ((*sockets)[0].state, 1u);
  EXPECT_TRUE((*sockets)[0].listening());
  EXPECT_EQ((*sockets)[1].path, "/tmp/n\nl\n\n000000x: y");
  EXPECT_FALSE((*sockets)[1].listening());
  EXPECT_EQ((*sockets)[2].path, "");
  EXPECT_EQ((*sockets)[2].state, 3u);
  EXPECT_EQ((*sockets)[3].path, "@abs@tract x");
  EXPECT_EQ((*sockets)[3].type, static_cast<uint32_t>(SOCK_SEQPACKET));
  EXPECT_TRUE((*sockets)[3].abstract());
  EXPECT_EQ((*sockets)[4].path, "  lead");
}

TEST(ParseNetUnix, ParseNetUnix_NamesTheLine_WhenItBelongsToNoSocket) {
  for (const std::string bad :
       {"x", "00000000f05fb4c4: 00000003", "00000000f05fb4c4: 00000003 0 0 0001 03 1509x"}) {
    const auto sockets = ParseNetUnix(bad + "\n");
    ASSERT_FALSE(sockets.ok()) << bad;
    EXPECT_THAT(std::string(sockets.status().message()), HasSubstr("parse net/unix line 1 \"" + bad));
  }
}

constexpr std::string_view kTcp =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode        "
    " \n"
    "   0: 0100007F:8265 00000000:0000 0A 00000000:00000001 00:00000000 00000000     0        0 30597 2 "
    "0000000059445bf1 100 0 0 10 0                     \n"
    "   1: 0100007F:901E 0100007F:8265 01 000000ff:00000010 00:00000000 00000000  1000        0 30599 2 "
    "000000006009f0be 20 0 0 10 -1                         \n";
constexpr std::string_view kUdp6 =
    "  sl  local_address                         remote_address                        st tx_queue rx_queue "
    "tr "
    "tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
    " 9182: 00000000000000000000000001000000:B973 B80D01200000000067452301EFCDAB89:0000 07 00000000:00000000 "
    "00:00000000 00000000     0        0 30601 2 00000000bb1a3bfd 0\n";

TEST(ParseNetInet, ParseNetInet_ReadsSockets_WhenTextIsReal) {
  const auto tcp = ParseNetInet(kTcp);
  ASSERT_TRUE(tcp.ok()) << tcp.status();
  ASSERT_THAT(*tcp, SizeIs(2));
  EXPECT_EQ((*tcp)[0].local.ToString(), "127.0.0.1:33381");
  EXPECT_EQ((*tcp)[0].remote.ToString(), "0.0.0.0:0");
  EXPECT_EQ((*tcp)[0].state, kTcpListen);
  EXPECT_EQ((*tcp)[0].rx_queue, 1u);
  EXPECT_EQ((*tcp)[0].inode, 30597u);
  EXPECT_EQ((*tcp)[1].remote, (*tcp)[0].local);
  EXPECT_EQ((*tcp)[1].state, kTcpEstablished);
  EXPECT_EQ((*tcp)[1].tx_queue, 255u);
  EXPECT_EQ((*tcp)[1].uid, 1000u);

  const auto udp6 = ParseNetInet(kUdp6);
  ASSERT_TRUE(udp6.ok()) << udp6.status();
  ASSERT_THAT(*udp6, SizeIs(1));
  EXPECT_EQ((*udp6)[0].local.family, AF_INET6);
  EXPECT_EQ((*udp6)[0].local.ToString(), "[::1]:47475");
  EXPECT_EQ((*udp6)[0].remote.ToString(), "[2001:db8::123:4567:89ab:cdef]:0");
  EXPECT_EQ((*udp6)[0].state, kTcpClose);
}

TEST(ParseNetInet, ParseNetInet_NamesTheLine_WhenItIsMalformed) {
  for (const std::string bad : {"   0: 0100007F:8265", "   0: 0100007:8265 00000000:0000 0A 0:0 00:0 0 0 0 1",
                                "   0: 0100007G:8265 00000000:0000 0A 0:0 00:0 0 0 0 1",
                                "   0: 0100007F:18265 00000000:0000 0A 0:0 00:0 0 0 0 1",
                                "   0: 0100007F:8265 00000000:0000 0A 0:0 00:0 0 0 0 1x", "sl"}) {
    const auto sockets = ParseNetInet("  sl  local_address\n" + bad + "\n");
    ASSERT_FALSE(sockets.ok()) << bad;
    EXPECT_THAT(std::string(sockets.status().message()), HasSubstr("parse net/inet line 2 \"" + bad));
  }
}

constexpr std::string_view kIgmp =
    "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
    "1\tlo        :     1      V3\n"
    "\t\t\t\t010000E0     1 0:00000000\t\t0\n"
    "14\teth0      :     2      V3\n"
    "\t\t\t\t030201EF     2 0:00000000\t\t0\n"
    "\t\t\t\t010000E0     1 0:00000000\t\t0\n";
constexpr std::string_view kIgmp6 =
    "1    lo              ff020000000000000000000000000001     1 0000000C 0\n"
    "14   eth0            ff0200000000000000000001ff0000fb     1 00000004 0\n";

TEST(ParseIgmp, ParseIgmp_ReadsGroupsOfInterfaces_WhenTextIsReal) {
  const auto four = ParseIgmp(kIgmp);
  ASSERT_TRUE(four.ok()) << four.status();
  EXPECT_THAT(*four, ElementsAre(MulticastGroup{1, AF_INET, {224, 0, 0, 1}}, MulticastGroup{14, AF_INET, {239, 1, 2, 3}},
                                 MulticastGroup{14, AF_INET, {224, 0, 0, 1}}));
  const auto six = ParseIgmp6(kIgmp6);
  ASSERT_TRUE(six.ok()) << six.status();
  EXPECT_THAT(*six, ElementsAre(MulticastGroup{1, AF_INET6, {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}},
                                MulticastGroup{14, AF_INET6, {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0xfb}}));
}

TEST(ParseIgmp, ParseIgmp_NamesTheLine_WhenItIsMalformed) {
  for (const std::string bad : {"\t\t\t\t010000E0     1 0:00000000", "eth0", "1 lo", ""}) {
    const auto groups = ParseIgmp("Idx\tDevice\n" + bad + "\n");
    ASSERT_FALSE(groups.ok()) << bad;
    EXPECT_THAT(std::string(groups.status().message()), HasSubstr("parse net/igmp line 2 \""));
  }
  EXPECT_FALSE(ParseIgmp("1\tlo\n\t\t\t\t010000G0 1\n").ok());
  for (const std::string bad : {"1    lo              ff02     1", "1    lo              fg020000000000000000000000000001",
                                "x    lo              ff020000000000000000000000000001", "1"}) {
    const auto groups = ParseIgmp6(bad + "\n");
    ASSERT_FALSE(groups.ok()) << bad;
    EXPECT_THAT(std::string(groups.status().message()), HasSubstr("parse net/igmp6 line 1 \"" + bad));
  }
}

TEST(ParseNet, Parsers_DoNotCrash_WhenTextIsCutAtAnyByte) {
  for (const std::string_view text : {kUnix, kTcp, kUdp6, kIgmp, kIgmp6}) {
    for (size_t size = 0; size < text.size(); ++size) {
      const std::string cut(text.substr(0, size));
      (void)ParseNetUnix(cut);
      (void)ParseNetInet(cut);
      (void)ParseIgmp(cut);
      (void)ParseIgmp6(cut);
    }
  }
}

TEST(ParseNet, Parsers_Succeed_WhenTextIsFromThisMachine) {
  EXPECT_TRUE(ParseNetUnix(*ReadFile("/proc/net/unix")).ok());
  for (const char* file : {"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"}) {
    const auto text = ReadFile(file);
    // No file where IPv6 is off.
    if (!text.ok()) continue;
    EXPECT_TRUE(ParseNetInet(*text).ok()) << file;
  }
  const auto igmp = ReadFile("/proc/net/igmp");
  EXPECT_TRUE(!igmp.ok() || ParseIgmp(*igmp).ok());
  const auto igmp6 = ReadFile("/proc/net/igmp6");
  EXPECT_TRUE(!igmp6.ok() || ParseIgmp6(*igmp6).ok());
}

}  // namespace
}  // namespace moult::proc
