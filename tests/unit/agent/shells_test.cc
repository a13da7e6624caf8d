// SPDX-License-Identifier: Apache-2.0
//
// Warm shells: there before a function needs one, as many as the configuration says, and no leftovers of any.
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "daemon.h"
#include "function/record.h"

namespace moult::agent {
namespace {

using rpc::CaptureOutcome;
using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::Not;
using ::testing::SizeIs;

std::string NamespaceOf(const std::string& pid, const char* kind) {
  std::error_code error;
  return std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/ns/", kind), error).string();
}

class ShellsTest : public AgentTest {
 protected:
  using Inits = std::map<uint64_t, pid_t>;  // by id; those that live

  // As the agent's records have them: of shells, or of functions.
  Inits InitsOf(bool shells) const {
    std::vector<std::string> errors;
    Inits found;
    for (const auto& function : LoadAll(folder_ + "/state/functions", &errors)) {
      if (function->shell == shells && OpenSame(function->init_pid, function->init_start).valid())
        found[function->info.id] = function->init_pid;
    }
    return found;
  }
  Inits Shells() const { return InitsOf(true); }
  // Until there are `count`, none of them among `not_these`.
  Inits AwaitShells(size_t count, const Inits& not_these = {}) {
    const auto settled = [&](const Inits& now) {
      return now.size() == count && std::none_of(now.begin(), now.end(), [&](const auto& shell) {
               return not_these.contains(shell.first);
             });
    };
    const auto deadline = Soon();
    Inits now = Shells();
    while (!settled(now) && rpc::Clock::now() < deadline) {
      poll(nullptr, 0, 5);
      now = Shells();
    }
    EXPECT_TRUE(settled(now)) << now.size() << " shells";
    return now;
  }
  size_t Folders() const {
    std::error_code error;
    const std::filesystem::directory_iterator folders(folder_ + "/state/functions", error);
    return error ? 0 : static_cast<size_t>(std::distance(begin(folders), end(folders)));
  }
  // Of functions and shells; those that are dying may be removed a little later.
  size_t AwaitCgroups(size_t count) const {
    const auto deadline = Soon();
    for (;;) {
      size_t now = 0;
      for (const auto& entry : std::filesystem::directory_iterator(cgroup_root_)) now += entry.is_directory() ? 1 : 0;
      if (now == count || rpc::Clock::now() >= deadline) return now;
      poll(nullptr, 0, 20);
    }
  }
  void ExpectNothingBut(size_t functions, size_t shells) {
    EXPECT_THAT(Shells(), SizeIs(shells));
    EXPECT_THAT(InitsOf(false), SizeIs(functions));
    EXPECT_EQ(Folders(), functions + shells);
    if (!cgroup_root_.empty()) {
      EXPECT_EQ(AwaitCgroups(functions + shells), functions + shells);
    }
  }
};

TEST_F(ShellsTest, AreReadyBeforeAnybodyAsks) {
  StartAgent(", \"warm_shells\": 3");
  const Inits shells = Shells();
  ASSERT_THAT(shells, SizeIs(3));
  std::set<std::string> spaces{NamespaceOf("self", "pid")};
  for (const auto& [id, init] : shells) {
    for (const char* kind : {"mnt", "ipc", "time_for_children"}) {
      EXPECT_NE(NamespaceOf(absl::StrCat(init), kind), NamespaceOf("self", kind)) << kind;
    }
    spaces.insert(NamespaceOf(absl::StrCat(init), "pid"));
    if (cgroup_root_.empty()) continue;
    const auto group = Cgroup::Open(cgroup_root_, absl::StrCat(id));
    ASSERT_TRUE(group.ok()) << group.status();
    const auto processes = (*group)->Processes();
    ASSERT_TRUE(processes.ok()) << processes.status();
    EXPECT_THAT(*processes, Contains(init));
  }
  EXPECT_THAT(spaces, SizeIs(4));  // one each, none of them ours
  ExpectNothingBut(0, 3);
  // They are no functions to a host.
  const auto client = Connect();
  const auto list = client->Call(rpc::ListT{});
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_THAT((*list)->body.AsListReply()->functions, IsEmpty());
}

TEST_F(ShellsTest, BecomeFunctions_AndAreMadeAnew) {
  StartAgent();
  const auto client = Connect();
  const Inits first = AwaitShells(2);
  const uint64_t ran = RunCounter(*client);
  ASSERT_THAT(first, Contains(Key(ran)));
  EXPECT_EQ(InitsOf(false).at(ran), first.at(ran));
  const Inits second = AwaitShells(2);
  EXPECT_THAT(second, Not(Contains(Key(ran))));
  const auto taken = CaptureCopy(*client, ran, CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const Inits third = AwaitShells(2);
  const auto attached = AttachStream(*client, *taken);
  ASSERT_TRUE(attached.ok()) << attached.status();
  ASSERT_THAT(third, Contains(Key(*attached)));
  EXPECT_EQ(InitsOf(false).at(*attached), third.at(*attached));
  AwaitShells(2);
  EXPECT_EQ(Ask(*attached), "1");
}

TEST_F(ShellsTest, AreNeverMoreThanTheConfigurationSays) {
  for (const size_t limit : {size_t{0}, size_t{1}}) {
    StartAgent(absl::StrCat(", \"warm_shells\": ", limit));
    const auto client = Connect();
    // More at once than there are ready; and one that fails gives back none.
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(Ask(RunCounter(*client)), "1");
      EXPECT_LE(Shells().size(), limit);
    }
    rpc::RunT run;
    run.spec = std::make_unique<rpc::FunctionSpecT>();
    run.spec->name = "nothing";
    run.spec->argv = {"/no/such/program"};
    EXPECT_FALSE(client->Call(std::move(run)).ok());
    AwaitShells(limit);
    // Nothing more comes later.
    poll(nullptr, 0, 500);
    ExpectNothingBut(4, limit);
    for (const auto& [id, init] : InitsOf(false)) {
      rpc::KillT kill;
      kill.function = id;
      EXPECT_TRUE(client->Call(std::move(kill)).ok());
      rpc::ForgetT forget;
      forget.function = id;
      EXPECT_TRUE(client->Call(std::move(forget)).ok());
    }
    ExpectNothingBut(0, limit);
    KillAgent(SIGTERM);
  }
}

TEST_F(ShellsTest, AreReplaced_WhenTheyAreKilled) {
  StartAgent();
  const auto client = Connect();
  const Inits first = AwaitShells(2);
  for (const auto& [id, init] : first) kill(init, SIGKILL);
  AwaitShells(2, first);
  AwaitLog("a warm shell has ended");
  ExpectNothingBut(0, 2);
  // One that is dead, and the agent may not know yet, becomes no function.
  for (int i = 0; i < 10; ++i) {
    const auto [id, init] = *AwaitShells(2).begin();  // the one that is next
    kill(init, SIGKILL);
    const auto deadline = Soon();
    while (StartTime(init) != 0 && rpc::Clock::now() < deadline) {
    }
    const uint64_t function = RunCounter(*client);
    EXPECT_NE(function, id);
    rpc::KillT kill_it;
    kill_it.function = function;
    ASSERT_TRUE(client->Call(std::move(kill_it)).ok());
  }
}

TEST_F(ShellsTest, OfAnAgentThatEnded_AreGone) {
  for (const int signal : {SIGKILL, SIGTERM}) {
    StartAgent();
    const uint64_t function = RunCounter(*Connect());
    const Inits first = AwaitShells(2);
    KillAgent(signal);
    if (signal == SIGTERM) ExpectNothingBut(1, 0);
    StartAgent();
    // Not the earlier agent's beside its own.
    ExpectNothingBut(1, 2);
    const auto deadline = Soon();
    for (const auto& shell : first) {
      while (StartTime(shell.second) != 0 && rpc::Clock::now() < deadline) poll(nullptr, 0, 10);
      EXPECT_EQ(StartTime(shell.second), 0u) << "pid " << shell.second;
    }
    const auto client = Connect();
    EXPECT_EQ(Ask(function), "1");
    const uint64_t next = RunCounter(*client);
    EXPECT_EQ(Ask(next), "1");
    AwaitShells(2);
    ExpectNothingBut(2, 2);
    for (const uint64_t id : {function, next}) {
      rpc::KillT kill;
      kill.function = id;
      ASSERT_TRUE(client->Call(std::move(kill)).ok());
      rpc::ForgetT forget;
      forget.function = id;
      ASSERT_TRUE(client->Call(std::move(forget)).ok());
    }
    KillAgent(SIGTERM);
    ExpectNothingBut(0, 0);
  }
}

}  // namespace
}  // namespace moult::agent
