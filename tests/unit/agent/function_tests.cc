// SPDX-License-Identifier: Apache-2.0
//
// What a function's specification asks for, and what can be seen of a function from outside and inside.
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "daemon.h"

namespace moult::agent {
namespace {

using rpc::CaptureOutcome;
using rpc::FunctionState;
using ::testing::HasSubstr;

// Answers each connection with what its generation file holds.
constexpr char kGeneration[] = R"(
import socket
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/counter.sock')
s.listen(8)
while True:
    c, _ = s.accept()
    if c.recv(4096):
        c.sendall(b'HTTP/1.0 200 OK\r\n\r\n' + open('/run/moult-function/generation', 'rb').read())
    c.close()
)";

// Keeps files of every kind in its private folders, open, mapped and closed, changes them with each request, and
// answers with what it finds there.
constexpr char kScratch[] = R"(
import mmap, os, socket, stat
os.makedirs('/tmp/d/e')
os.chmod('/tmp/d', 0o750)
with open('/tmp/d/plain', 'w') as f:
    f.write('0123456789' * 2000)
    f.seek(1 << 20)
    f.write('behind a hole')
os.chmod('/tmp/d/plain', 0o2604)
os.chown('/tmp/d/plain', 12, 34)
os.utime('/tmp/d/plain', (1, 1234567890.5))
os.link('/tmp/d/plain', '/tmp/d/e/other')
os.symlink('plain', '/tmp/d/link')
os.mkfifo('/dev/shm/fifo', 0o640)
log = open('/tmp/log', 'w+b', buffering=0)
mapped = open('/dev/shm/mapped', 'w+b')
mapped.truncate(8192)
view = mmap.mmap(mapped.fileno(), 8192)
os.chdir('/tmp/d/e')
os.utime('/tmp/d', (1, 987654321.25))
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/counter.sock')
s.listen(8)

def look():
    log.write(b'x')
    view[5000] += 1
    plain, folder = os.stat('/tmp/d/link'), os.stat('/tmp/d')
    with open('/tmp/d/plain') as f:
        text = f.read()
    with open('/dev/shm/mapped', 'rb') as f:
        seen = f.read()[5000]
    return [text[:20000] == '0123456789' * 2000, text[1 << 20:], text.count('\0'), oct(plain.st_mode), plain.st_uid,
            plain.st_gid, plain.st_mtime, plain.st_nlink, plain.st_ino == os.stat('other').st_ino, oct(folder.st_mode),
            folder.st_mtime, oct(os.stat('/dev/shm/fifo').st_mode), os.stat('/tmp/log').st_size, log.tell(), seen,
            os.getcwd(), sorted(os.listdir('/tmp')), sorted(os.listdir('/dev/shm'))]

print('listening', flush=True)
while True:
    c, _ = s.accept()
    if c.recv(4096):
        c.sendall(b'HTTP/1.0 200 OK\r\n\r\n' + repr(look()).encode())
    c.close()
)";

rpc::FunctionSpecT Shell(const std::string& script) {
  rpc::FunctionSpecT spec;
  spec.name = "shell";
  spec.argv = {"/bin/sh", "-c", script};
  spec.readiness = std::make_unique<rpc::ReadinessT>();
  spec.readiness->kind = rpc::ReadinessKind::Line;
  spec.readiness->line = "ready";
  return spec;
}

std::unique_ptr<rpc::HookT> CommandHook(const std::string& script) {
  auto hook = std::make_unique<rpc::HookT>();
  hook->kind = rpc::HookKind::Command;
  hook->command = {"/bin/sh", "-c", script};
  return hook;
}

std::unique_ptr<rpc::HookT> HttpHook(const std::string& path) {
  auto hook = std::make_unique<rpc::HookT>();
  hook->kind = rpc::HookKind::HttpGet;
  hook->path = path;
  return hook;
}

class FunctionTest : public AgentTest {
 protected:
  absl::StatusOr<uint64_t> Run(Client& client, const rpc::FunctionSpecT& spec) {
    rpc::RunT run;
    run.spec = std::make_unique<rpc::FunctionSpecT>(spec);
    auto reply = client.Call(std::move(run));
    if (!reply.ok()) return reply.status();
    return (*reply)->body.AsFunctionReply()->function->id;
  }
  void Kill(Client& client, uint64_t function) {
    rpc::KillT kill;
    kill.function = function;
    const auto reply = client.Call(std::move(kill));
    EXPECT_TRUE(reply.ok()) << reply.status();
  }
  size_t Known(Client& client) {
    const auto list = client.Call(rpc::ListT{});
    return list.ok() ? (*list)->body.AsListReply()->functions.size() : 0;
  }
  // A connection that has become the function's log.
  UniqueFd OpenLogs(uint64_t function, uint64_t tail_bytes, bool follow) {
    const auto client = Connect();
    rpc::LogsT logs;
    logs.function = function;
    logs.tail_bytes = tail_bytes;
    logs.follow = follow;
    const auto reply = client->Call(std::move(logs));
    EXPECT_TRUE(reply.ok()) << reply.status();
    return client->channel.TakeFd();
  }
  // To the end of the stream, or until `until` has come.
  static std::string ReadStream(int fd, const std::string& until = "") {
    std::string text;
    while (until.empty() || !absl::StrContains(text, until)) {
      pollfd ready{fd, POLLIN, 0};
      if (poll(&ready, 1, 60'000) <= 0) {
        ADD_FAILURE() << "no more came after: " << text;
        break;
      }
      char buffer[4096];
      const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
      if (n <= 0) break;
      text.append(buffer, static_cast<size_t>(n));
    }
    return text;
  }
  std::string Logs(uint64_t function, uint64_t tail_bytes = 0) {
    return ReadStream(OpenLogs(function, tail_bytes, false).get());
  }
};

TEST_F(FunctionTest, Hello_RefusesOtherVersions) {
  StartAgent();
  Client client(ConnectRaw());
  rpc::HelloT hello;
  hello.version_min = 2;
  hello.version_max = 3;
  const auto refused = client.Call(std::move(hello));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.status().message(),
              HasSubstr("versions 2 to 3 of the protocol, this agent 1; update the older one"));
  EXPECT_FALSE(client.Call(rpc::ListT{}).ok());
  rpc::HelloT both;
  both.version_min = 1;
  both.version_max = 3;
  const auto reply = client.Call(std::move(both));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ((*reply)->body.AsHelloReply()->version, 1u);
}

TEST_F(FunctionTest, Doctor_NamesARemedyForWhatIsMissing) {
  StartAgent();
  const auto client = Connect();
  const auto reply = client->Call(rpc::DoctorT{});
  ASSERT_TRUE(reply.ok()) << reply.status();
  std::vector<std::string> names;
  for (const auto& check : (*reply)->body.AsDoctorReply()->checks) {
    names.push_back(check->name);
    EXPECT_FALSE(check->detail.empty()) << check->name;
    EXPECT_EQ(check->remedy.empty(), check->ok) << check->name;
    if (check->name == "cgroup") {
      EXPECT_EQ(check->ok, !cgroup_root_.empty()) << check->detail;
    } else if (check->name == "driver") {
      EXPECT_EQ(check->ok, access("/dev/moult", R_OK | W_OK) == 0) << check->detail;
    }
  }
  EXPECT_THAT(names,
              ::testing::IsSupersetOf({"cgroup", "cgroup_controllers", "driver", "vsock", "kpageflags"}));
}

TEST_F(FunctionTest, Run_GivesEnvironmentFolderAndUser) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec =
      Shell("echo $WHO $(pwd) $(id -u):$(id -g) $(id -G) ${HOME-none}; echo ready; exec sleep 600");
  spec.env = {"WHO=me", "PATH=/usr/bin:/bin"};
  spec.cwd = "/usr/share";
  spec.uid = 1234;
  spec.gid = 5678;
  const auto function = Run(*client, spec);
  ASSERT_TRUE(function.ok()) << function.status();
  EXPECT_EQ(Logs(*function), "me /usr/share 1234:5678 5678 none\nready\n");
  Kill(*client, *function);
  spec.cwd = "/no/such/folder";
  const auto refused = Run(*client, spec);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(refused.status().message(), HasSubstr("enter its working directory: ENOENT"));
}

TEST_F(FunctionTest, Run_WaitsForTheWholeLine) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = Shell("echo not ready; printf 're'; sleep 0.2; echo ady; exec sleep 600");
  const auto function = Run(*client, spec);
  ASSERT_TRUE(function.ok()) << function.status();
  EXPECT_EQ(Logs(*function), "not ready\nready\n");
  Kill(*client, *function);
  spec = Shell("echo not ready; exec sleep 600");
  spec.readiness->timeout_ms = 3000;  // the shell is to have said it by then
  const auto late = Run(*client, spec);
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.status().message(),
              HasSubstr("no line \"ready\" in its output in time; the end of its output:\nnot ready"));
}

TEST_F(FunctionTest, CommandHooks_RunInsideBeforeCaptureAndAfterAttach) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = CounterSpec();
  spec.env = {"WHO=hook"};
  // The socket is in the function's own /tmp: only what is inside sees it.
  spec.before_capture = CommandHook("test -S /tmp/counter.sock && echo before $WHO");
  spec.after_attach =
      CommandHook("test -S /tmp/counter.sock && echo after $WHO $(cat /run/moult-function/generation)");
  const auto first = Run(*client, spec);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto taken = CaptureCopy(*client, *first, CaptureOutcome::End);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_THAT(Logs(*first), HasSubstr("before hook\n"));
  const auto second = AttachStream(*client, *taken);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(Logs(*second), "after hook 1\n");
  EXPECT_EQ(Ask(*second), "1");
}

TEST_F(FunctionTest, HttpHooks_AskTheFunction) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = CounterSpec();
  spec.before_capture = HttpHook("/prepare");
  spec.after_attach = HttpHook("/arrived");
  const auto first = Run(*client, spec);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(Ask(*first), "1");
  const auto taken = CaptureCopy(*client, *first, CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(Ask(*first), "3");  // 2 was the hook's
  Kill(*client, *first);
  const auto second = AttachStream(*client, *taken);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(Ask(*second), "4");  // 3 was the hook's
}

TEST_F(FunctionTest, HookThatFails_LeavesThingsAsTheyWere) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = CounterSpec();
  spec.before_capture = CommandHook("echo will not; exit 3");
  const auto function = Run(*client, spec);
  ASSERT_TRUE(function.ok()) << function.status();
  auto taken = CaptureCopy(*client, *function, CaptureOutcome::End);
  EXPECT_EQ(taken.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(taken.status().message(), HasSubstr("before_capture hook: /bin/sh exited with status 3"));
  EXPECT_THAT(taken.status().message(), HasSubstr("will not"));
  EXPECT_EQ(Info(*client, *function)->state, FunctionState::Running);
  EXPECT_EQ(Ask(*function), "1");

  spec.before_capture = nullptr;
  const auto other = Run(*client, spec);
  ASSERT_TRUE(other.ok()) << other.status();
  taken = CaptureCopy(*client, *other, CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const size_t known = Known(*client);
  taken->spec.after_attach = CommandHook("sleep 600");
  taken->spec.after_attach->timeout_ms = 300;
  const auto attached = AttachStream(*client, *taken);
  EXPECT_EQ(attached.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(attached.status().message(), HasSubstr("after_attach hook"));
  EXPECT_EQ(Known(*client), known);
}

TEST_F(FunctionTest, PrivateFiles_ComeBackAsTheyWere) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = CounterSpec();
  spec.argv.back() = kScratch;
  const auto first = Run(*client, spec);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(Ask(*first), HasSubstr("'0o102604', 12, 34, 1234567890.5, 2, True, '0o40750', 987654321.25"));
  const auto taken = CaptureCopy(*client, *first, CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const std::string second_answer = Ask(*first);
  EXPECT_THAT(second_answer, HasSubstr("2, 2, 2, '/tmp/d/e', ['counter.sock', 'd', 'log'], ['fifo', 'mapped']"));
  for (int i = 0; i < 2; ++i) {
    const auto copy = AttachStream(*client, *taken);
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_EQ(Ask(*copy), second_answer);
  }
  EXPECT_THAT(Ask(*first), HasSubstr("3, 3, 3, '/tmp/d/e'"));
}

TEST_F(FunctionTest, Generation_CountsAttachesAsSeenInside) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = CounterSpec();
  spec.argv.back() = kGeneration;
  const auto first = Run(*client, spec);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(Ask(*first), "0\n");
  const auto taken = CaptureCopy(*client, *first, CaptureOutcome::Resume);
  ASSERT_TRUE(taken.ok()) << taken.status();
  for (const char* wanted : {"1\n", "2\n"}) {
    const auto copy = AttachStream(*client, *taken);
    ASSERT_TRUE(copy.ok()) << copy.status();
    EXPECT_EQ(Ask(*copy), wanted);
  }
  EXPECT_EQ(Ask(*first), "0\n");
  // One agent's numbers go on where the other's ended.
  KillAgent(SIGKILL);
  StartAgent();
  const auto again = Connect();
  const auto copy = AttachStream(*again, *taken);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(Ask(*copy), "3\n");
}

TEST_F(FunctionTest, Logs_HaveATailAndCanBeFollowed) {
  StartAgent();
  const auto client = Connect();
  rpc::FunctionSpecT spec = CounterSpec();
  const auto function = Run(*client, spec);
  ASSERT_TRUE(function.ok()) << function.status();
  EXPECT_EQ(Logs(*function), "listening\n");
  EXPECT_EQ(Logs(*function, 4), "ing\n");
  EXPECT_EQ(Logs(*function, 1 << 20), "listening\n");

  const auto talker = Run(*client, Shell("echo ready; while :; do sleep 0.1; echo word; done"));
  ASSERT_TRUE(talker.ok()) << talker.status();
  const UniqueFd follower = OpenLogs(*talker, 0, true);
  EXPECT_THAT(ReadStream(follower.get(), "word\nword\nword\n"), HasSubstr("ready\nword\n"));
  Kill(*client, *talker);
  rpc::ForgetT forget;
  forget.function = *talker;
  ASSERT_TRUE(client->Call(std::move(forget)).ok());
  ReadStream(follower.get());  // It ends.
}

TEST_F(FunctionTest, Log_IsTrimmedToItsLastPart) {
  StartAgent(", \"log_bytes\": 8192");
  const auto client = Connect();
  const auto function = Run(
      *client,
      Shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo ready; exec sleep 600"));
  ASSERT_TRUE(function.ok()) << function.status();
  std::string text = Logs(*function);
  // The agent looks after it every few seconds.
  for (const auto until = Soon(); text.size() > 100'000 && rpc::Clock::now() < until;
       text = Logs(*function)) {
    poll(nullptr, 0, 500);
  }
  EXPECT_LE(text.size(), 2u * 8192 + 4096);
  EXPECT_THAT(text, ::testing::EndsWith("line 19998\nline 19999\nready\n"));
}

}  // namespace
}  // namespace moult::agent
