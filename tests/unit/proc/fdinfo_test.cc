// SPDX-License-Identifier: Apache-2.0
#include "proc/fdinfo.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "moult/base/unique_fd.h"
#include "proc/read.h"

namespace moult::proc {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr std::string_view kEventFd =
    "pos:\t0\nflags:\t04002\nmnt_id:\t17\nino:\t1038\neventfd-count:               1f\neventfd-id: 1\n"
    "eventfd-semaphore: 1\n";
constexpr std::string_view kTimerFd =
    "pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\nclockid: 1\nticks: 3\nsettime flags: 03\n"
    "it_value: (999, 882570248)\nit_interval: (1, 500000000)\n";
constexpr std::string_view kInotify =
    "pos:\t0\nflags:\t00\nmnt_id:\t17\nino:\t1038\n"
    "inotify wd:b ino:1 sdev:15 mask:2 ignored_mask:0 fhandle-bytes:c fhandle-type:81 "
    "f_handle:010000000000000000000000\n"
    "inotify wd:1 ino:a72237 sdev:fe00000 mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 "
    "f_handle:3722a70035fe4fad\n"
    "inotify wd:2 ino:5 sdev:1c mask:102 ignored_mask:0 \n";
constexpr std::string_view kEpoll =
    "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n"
    "tfd:       16 events: 80000019 data:               10  pos:0 ino:40e sdev:10\n"
    "tfd:       20 events:       19 data: ffff7f1100000014  pos:-5 ino:777f sdev:f\n"
    "tfd:        3 events:       19 data:                3 \n";
constexpr std::string_view kSignalFd =
    "pos:\t0\nflags:\t02004002\nmnt_id:\t17\nino:\t1038\nsigmask:\t8000000000000a00\n";
constexpr std::string_view kPidFd =
    "pos:\t0\nflags:\t02000002\nmnt_id:\t4\nino:\t9990\nPid:\t9989\nNSpid:\t9989\n";
constexpr std::string_view kLocked =
    "pos:\t4096\nflags:\t02100002\nmnt_id:\t27\nino:\t10953277\n"
    "lock:\t1: POSIX  ADVISORY  WRITE 9989 fe:00:10953277 5 14\n"
    "lock:\t1: FLOCK  ADVISORY  READ 9989 fe:00:10953277 0 EOF\n";
constexpr std::string_view kUnixInfo = "pos:\t0\nflags:\t02000002\nmnt_id:\t10\nino:\t30596\nscm_fds: 2\n";

TEST(ParseFdInfo, ParseFdInfo_ReadsCommonFields_WhenFileIsPlain) {
  const auto info =
      ParseFdInfo("pos:\t12345\nflags:\t0100002\nmnt_id:\t27\nino:\t99\nsome-new-key:\tx\nno colon\n");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->pos, 12345u);
  EXPECT_EQ(info->flags, 0100002u);
  EXPECT_EQ(info->mnt_id, 27);
  EXPECT_EQ(info->ino, 99u);
  EXPECT_FALSE(info->eventfd || info->timerfd || info->sigmask || info->pidfd_pid || info->scm_fds);
  EXPECT_TRUE(info->locks.empty() && info->epoll.empty() && info->inotify.empty());
}

TEST(ParseFdInfo, ParseFdInfo_KeepsTheBits_WhenPositionIsNegative) {
  const auto info = ParseFdInfo("pos:\t-4096\nflags:\t02\n");
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->pos, 0xfffffffffffff000u);
}

TEST(ParseFdInfo, ParseFdInfo_ReadsCount_WhenFileIsEventFd) {
  const auto info = ParseFdInfo(kEventFd);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_TRUE(info->eventfd.has_value());
  EXPECT_EQ(info->eventfd->count, 31u);
  EXPECT_EQ(info->eventfd->id, 1);
  EXPECT_EQ(info->eventfd->semaphore, true);
}

TEST(ParseFdInfo, ParseFdInfo_ReadsTimes_WhenFileIsTimerFd) {
  const auto info = ParseFdInfo(kTimerFd);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_TRUE(info->timerfd.has_value());
  EXPECT_EQ(info->timerfd->clockid, 1);
  EXPECT_EQ(info->timerfd->ticks, 3u);
  EXPECT_EQ(info->timerfd->settime_flags, 3u);
  EXPECT_EQ(info->timerfd->value_ns, 999882570248u);
  EXPECT_EQ(info->timerfd->interval_ns, 1500000000u);
}

TEST(ParseFdInfo, ParseFdInfo_ReadsWatches_WhenFileIsInotify) {
  const auto info = ParseFdInfo(kInotify);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_THAT(info->inotify, SizeIs(3));
  EXPECT_EQ(info->inotify[0].wd, 11);
  EXPECT_EQ(info->inotify[0].fhandle_type, 0x81);
  EXPECT_EQ(info->inotify[0].fhandle.size(), 12u);
  EXPECT_EQ(info->inotify[1].ino, 0xa72237u);
  EXPECT_EQ(info->inotify[1].sdev, 0xfe00000u);
  EXPECT_EQ(info->inotify[1].mask, 0x100u);
  EXPECT_EQ(info->inotify[1].fhandle, "\x37\x22\xa7" + std::string(1, '\0') + "\x35\xfe\x4f\xad");
  EXPECT_EQ(info->inotify[2].wd, 2);
  EXPECT_TRUE(info->inotify[2].fhandle.empty());
}

TEST(ParseFdInfo, ParseFdInfo_ReadsItems_WhenFileIsEpoll) {
  const auto info = ParseFdInfo(kEpoll);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_THAT(info->epoll, SizeIs(3));
  EXPECT_EQ(info->epoll[0].tfd, 16);
  EXPECT_EQ(info->epoll[0].events, 0x80000019u);
  EXPECT_EQ(info->epoll[0].data, 0x10u);
  EXPECT_EQ(info->epoll[1].data, 0xffff7f1100000014u);
  EXPECT_EQ(info->epoll[1].pos, -5);
  EXPECT_EQ(info->epoll[1].ino, 0x777fu);
  EXPECT_EQ(info->epoll[1].sdev, 0xfu);
  EXPECT_EQ(info->epoll[2].tfd, 3);
}

TEST(ParseFdInfo, ParseFdInfo_ReadsWhatTheKindAdds_WhenItIsOneField) {
  EXPECT_EQ(ParseFdInfo(kSignalFd)->sigmask, 0x8000000000000a00u);
  EXPECT_EQ(ParseFdInfo(kPidFd)->pidfd_pid, 9989);
  EXPECT_EQ(ParseFdInfo("flags:\t02\nPid:\t-1\n")->pidfd_pid, -1);
  EXPECT_EQ(ParseFdInfo(kUnixInfo)->scm_fds, 2u);
}

TEST(ParseFdInfo, ParseFdInfo_ReadsLocks_WhenFileIsLocked) {
  const auto info = ParseFdInfo(kLocked);
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_THAT(info->locks, SizeIs(2));
  EXPECT_EQ(info->locks[0].kind, LockKind::kPosix);
  EXPECT_EQ(info->locks[0].end, 14u);
  EXPECT_EQ(info->locks[1].kind, LockKind::kFlock);
  EXPECT_EQ(info->locks[1].end, kLockToEof);
}

TEST(ParseFdInfo, ParseFdInfo_NamesTheLine_WhenAKnownLineIsMalformed) {
  for (const std::string bad : {
           "pos:\tx",
           "pos:\t9223372036854775808",
           "flags:\t08",
           "flags:\t777777777777777",
           "mnt_id:\t1 2",
           "ino:\t-1",
           "eventfd-count: g",
           "eventfd-semaphore: 2",
           "tfd: 1 events: 1",
           "tfd: 1 events: 1 data: 1 x",
           "tfd: 1 events: 100000000 data: 1",
           "it_value: (1, 1000000000)",
           "it_value: (1)",
           "it_value: 1, 1",
           "it_value: (18446744073709551615, 0)",
           "sigmask:\t",
           "Pid:\t",
           "scm_fds: -1",
           "inotify wd:1",
           "inotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:00",
           "inotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 fhandle-bytes:1 fhandle-type:1 f_handle:zz",
           "inotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 fhandle-bytes:80000001 fhandle-type:1 "
           "f_handle:00",
           "lock:\t1: POSIX",
           "clockid: 1x",
           "ticks: ",
           "settime flags: 9",
       }) {
    const auto info = ParseFdInfo("flags:\t02\n" + bad + "\n");
    ASSERT_FALSE(info.ok()) << bad;
    EXPECT_THAT(std::string(info.status().message()), HasSubstr("parse fdinfo line 2 \"")) << bad;
  }
}

TEST(ParseFdInfo, ParseFdInfo_Fails_WhenThereAreNoFlags) {
  EXPECT_FALSE(ParseFdInfo("").ok());
  EXPECT_FALSE(ParseFdInfo("pos:\t0\n").ok());
}

TEST(ParseFdInfo, ParseFdInfo_DoesNotCrash_WhenTextIsCutAtAnyByte) {
  for (const std::string_view text :
       {kEventFd, kTimerFd, kInotify, kEpoll, kSignalFd, kPidFd, kLocked, kUnixInfo}) {
    for (size_t size = 0; size < text.size(); ++size) {
      (void)ParseFdInfo(std::string(text.substr(0, size)));
    }
  }
}

FdInfo Live(int fd) {
  const auto text = ReadFile(absl::StrCat("/proc/self/fdinfo/", fd));
  EXPECT_TRUE(text.ok()) << text.status();
  auto info = ParseFdInfo(*text);
  EXPECT_TRUE(info.ok()) << info.status();
  return *std::move(info);
}

TEST(ParseFdInfo, ParseFdInfo_AgreesWithTheKernel_WhenDescriptorsAreOurs) {
  const UniqueFd event(eventfd(7, EFD_NONBLOCK));
  EXPECT_EQ(Live(event.get()).eventfd->count, 7u);

  const UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  const itimerspec spec = {.it_interval = {2, 5}, .it_value = {1000, 0}};
  ASSERT_EQ(timerfd_settime(timer.get(), 0, &spec, nullptr), 0);
  const FdInfo timer_info = Live(timer.get());
  EXPECT_EQ(timer_info.timerfd->interval_ns, 2000000005u);
  EXPECT_GT(timer_info.timerfd->value_ns, 900000000000u);
  EXPECT_LE(timer_info.timerfd->value_ns, 1000000000000u);

  const UniqueFd epoll(epoll_create1(0));
  epoll_event want = {};
  want.events = EPOLLIN | EPOLLET;
  want.data.u64 = 0xfeedfacecafebeef;
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &want), 0);
  const FdInfo epoll_info = Live(epoll.get());
  ASSERT_THAT(epoll_info.epoll, SizeIs(1));
  EXPECT_EQ(epoll_info.epoll[0].tfd, event.get());
  EXPECT_EQ(epoll_info.epoll[0].data, 0xfeedfacecafebeefu);
}

}  // namespace
}  // namespace moult::proc
