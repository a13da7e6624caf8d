// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>

#include <fstream>
#include <thread>

#include "host_test.h"
#include "moult/base/unique_fd.h"
#include "moult/pager.h"
#include "pool/file/store.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ForkTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    pool_ = root_ + "/pool";
    std::filesystem::create_directory(pool_);
  }
  int Fork(const char* name, const std::string& to, uint32_t flags = 0, nlohmann::json* json = nullptr) {
    moult_fork_options fork = MOULT_INIT(fork);
    fork.function = 7;
    fork.name = name;
    fork.to = to.c_str();
    fork.flags = flags;
    OpHandle op;
    if (const int failed = moult_vm_fork(vm_, &fork, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  int ForkHere(const char* name, uint32_t flags = 0, nlohmann::json* json = nullptr) {
    return Fork(name, "file:" + pool_, flags, json);
  }
  // Whatever is there, half-made things too, but for the lock.
  static std::vector<std::string> In(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().filename() != ".lock") names.push_back(entry.path().filename());
    }
    return names;
  }

  // Somebody wants its lock.
  static bool IsWaitedFor(int fd) {
    struct stat info;
    EXPECT_EQ(fstat(fd, &info), 0);
    std::ifstream locks("/proc/locks");
    for (std::string line; std::getline(locks, line);) {
      if (line.find("->") != std::string::npos && line.find(":" + std::to_string(info.st_ino) + " ") != std::string::npos) return true;
    }
    return false;
  }

  std::string pool_;
};

TEST_F(ForkTest, Template_IsInThePool_WithWhatACaptureHolds) {
  CreateVm();
  ScriptCapture();
  nlohmann::json json;
  ASSERT_EQ(ForkHere("t", 0, &json), 0) << moult_last_error();
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::Resume));
  EXPECT_EQ(json["op"], "fork");
  EXPECT_EQ(json["to"], "file:" + pool_);
  EXPECT_EQ(json["pushed"], true);
  EXPECT_EQ(json["kept"], false);
  EXPECT_GT(json["stopped_us"], 0);
  EXPECT_THAT(In(store_path_), IsEmpty());
  ASSERT_EQ(Capture("same"), 0);
  const auto forked = image::TemplateReader::Open(pool_ + "/t");
  const auto captured = image::TemplateReader::Open(store_path_ + "/same");
  ASSERT_TRUE(forked.ok()) << forked.status();
  EXPECT_TRUE((*forked)->VerifyPages().ok());
  EXPECT_EQ((*forked)->manifest().pages->sha256, (*captured)->manifest().pages->sha256);
  EXPECT_EQ((*forked)->image_file(), (*captured)->image_file());
  EXPECT_EQ((*forked)->manifest().tenant, (*captured)->manifest().tenant);
}

TEST_F(ForkTest, FunctionRuns_BeforeAnythingGoesToThePool) {
  CreateVm();
  ScriptCapture();
  std::vector<std::string> there{"not looked"};
  agent_->On(rpc::RequestBody::CaptureEnd, [&](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    there = In(pool_);
    return RespondDone(channel, id);
  });
  ASSERT_EQ(ForkHere("t"), 0) << moult_last_error();
  EXPECT_THAT(there, IsEmpty());
}

TEST_F(ForkTest, Template_StaysInTheStore_WhenItIsToBeKept) {
  CreateVm();
  ScriptCapture();
  nlohmann::json json;
  ASSERT_EQ(ForkHere("t", MOULT_FORK_KEEP, &json), 0) << moult_last_error();
  EXPECT_EQ(json["kept"], true);
  EXPECT_THAT(In(store_path_), ElementsAre("t"));
  EXPECT_EQ(moult_store_verify(store_, "t"), 0) << moult_last_error();
}

TEST_F(ForkTest, FunctionIsNotStopped_WhenItCannotSucceed) {
  CreateVm();
  ScriptCapture();
  ASSERT_EQ(ForkHere("t"), 0) << moult_last_error();
  ASSERT_EQ(Capture("mine"), 0) << moult_last_error();
  agent_->ForgetVerbs();
  EXPECT_EQ(ForkHere("t"), -EEXIST);
  EXPECT_THAT(moult_last_error(), HasSubstr("is in pool file:" + pool_ + " already; give another name"));
  EXPECT_EQ(Fork("u", "file:" + root_ + "/none"), -ENOENT);
  EXPECT_THAT(moult_last_error(), HasSubstr("pool file:" + root_ + "/none"));
  EXPECT_EQ(Fork("u", "file:" + store_path_ + "/."), -EBUSY);
  EXPECT_EQ(moult_last_error_code(), MOULT_FAILED_PRECONDITION);
  EXPECT_THAT(moult_last_error(), HasSubstr("this VM's own store"));
  EXPECT_EQ(Fork("u", "rdma://127.0.0.1/"), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("asks for the tenant's key"));
  EXPECT_EQ(ForkHere("mine"), -EEXIST);
  EXPECT_THAT(agent_->Verbs(), IsEmpty());
  EXPECT_THAT(In(pool_), ElementsAre("t"));
  EXPECT_THAT(In(store_path_), ElementsAre("mine"));
}

// A folder whose lock never comes is as good as a file system that hangs.
TEST_F(ForkTest, PushToAPoolThatDoesNotAnswer_Ends_AndIsUndone) {
  Options options = DefaultOptions(&guest_);
  const std::string pages = "file:" + root_;
  options.vm.pool = pages.c_str();
  vm_ = Create(options);
  ScriptCapture();
  std::vector<std::thread> pagers;
  for (int i = 0; i < 3; ++i) pagers.emplace_back([this] { EXPECT_EQ(moult_pager_run(vm_), 0) << moult_last_error(); });
  while (moult_pager_threads(vm_) < 3) std::this_thread::yield();
  UniqueFd lock(open((pool_ + "/.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(flock(lock.get(), LOCK_EX), 0);

  moult_fork_options fork = MOULT_INIT(fork);
  fork.function = 7;
  fork.name = "t";
  const std::string to = "file:" + pool_;
  fork.to = to.c_str();
  moult_op_options timed = MOULT_INIT(timed);
  // For the capture, and for what others do before it is over, on a slow disk too.
  timed.timeout_ms = 10000;
  // Meanwhile somebody puts another in the place of the one that is on its way.
  ASSERT_EQ(Capture("other"), 0) << moult_last_error();
  std::atomic<bool> ended{false};
  std::thread replaces([&] {
    bool waited_for = false;
    while (!(waited_for = IsWaitedFor(lock.get())) && !ended) std::this_thread::yield();
    EXPECT_TRUE(waited_for) << "nobody waits for the lock";
    EXPECT_EQ(moult_store_remove(store_, "t"), 0) << moult_last_error();
    EXPECT_EQ(moult_store_import(store_, "t", (store_path_ + "/other").c_str(), nullptr), 0) << moult_last_error();
  });
  OpHandle op;
  ASSERT_EQ(moult_vm_fork(vm_, &fork, &timed, op.out()), 0) << moult_last_error();
  EXPECT_EQ(op.Wait(), -ECONNRESET);
  ended = true;
  EXPECT_EQ(moult_last_error_code(), MOULT_UNAVAILABLE);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7 runs on; its template t was not kept"));
  EXPECT_THAT(moult_last_error(), HasSubstr("push t to " + to + ": nothing of it stays there once it answers: pool " + to +
                                            " does not answer: a push has not ended within"));
  EXPECT_THAT(moult_last_error(), HasSubstr("look at its file system"));
  replaces.join();
  EXPECT_THAT(In(store_path_), ::testing::UnorderedElementsAre("other", "t")) << "another's is not its to remove";

  lock.Reset();
  EXPECT_EQ(moult_pager_stop(vm_), 0);
  for (std::thread& pager : pagers) pager.join();
  EXPECT_THAT(In(pool_), IsEmpty());
}

TEST_F(ForkTest, Options_AreChecked) {
  CreateVm();
  EXPECT_EQ(ForkHere(".t"), -EINVAL);
  EXPECT_EQ(ForkHere("t", 2), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("flags"));
  EXPECT_EQ(Fork("t", "nfs:/p"), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("is of no kind that there is"));
  EXPECT_EQ(Fork("t", ""), -EINVAL);
}

TEST_F(ForkTest, FailedCapture_LeavesNothing) {
  CreateVm();
  agent_->On(rpc::RequestBody::Capture, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    return Respond(channel, id, rpc::ErrorResponse(absl::FailedPreconditionError("fd 5: io_uring")));
  });
  EXPECT_EQ(ForkHere("t"), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("io_uring"));
  EXPECT_THAT(In(pool_), IsEmpty());
  EXPECT_THAT(In(store_path_), IsEmpty());
}

TEST_F(ForkTest, FailedPush_LeavesNothingInThePool_AndTheFunctionRuns) {
  const std::string small = root_ + "/small";
  std::filesystem::create_directory(small);
  if (mount("none", small.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "needs the right to mount a small tmpfs: " << std::strerror(errno);
  }
  CreateVm();
  ScriptCapture();
  nlohmann::json json;
  EXPECT_EQ(Fork("t", "file:" + small, 0, &json), -ENOSPC);
  EXPECT_EQ(moult_last_error_code(), MOULT_RESOURCE_EXHAUSTED);
  EXPECT_THAT(moult_last_error(), HasSubstr("function 7 runs on; its template t was not kept"));
  EXPECT_THAT(moult_last_error(), HasSubstr("push t to file:" + small));
  EXPECT_EQ(json["pushed"], false);
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::Resume));
  EXPECT_THAT(In(small), IsEmpty());
  EXPECT_THAT(In(store_path_), IsEmpty());
  EXPECT_EQ(Fork("t", "file:" + small, MOULT_FORK_KEEP), -ENOSPC);
  EXPECT_THAT(moult_last_error(), HasSubstr("its template t is in the VM's store"));
  EXPECT_THAT(In(small), IsEmpty());
  EXPECT_EQ(moult_store_verify(store_, "t"), 0) << moult_last_error();
  ExpectServing();
  EXPECT_EQ(umount(small.c_str()), 0);
}

}  // namespace
}  // namespace moult::host::testing
