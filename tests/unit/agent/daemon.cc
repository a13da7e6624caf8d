// SPDX-License-Identifier: Apache-2.0
#include "daemon.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moult/base/status.h"
#include "moult/protocol/parse.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

constexpr char kCounter[] = R"(
import socket
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/counter.sock')
s.listen(8)
print('listening', flush=True)
n = 0
while True:
    c, _ = s.accept()
    if c.recv(4096):
        n += 1
        c.sendall(b'HTTP/1.0 200 OK\r\n\r\n%d' % n)
    c.close()
)";

std::string CgroupMount() {
  for (const char* path : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
    struct statfs fs {};
    if (statfs(path, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC && access(path, W_OK) == 0) return path;
  }
  return "";
}

bool CanMakeNamespaces() {
  const pid_t pid = fork();
  if (pid == 0) _exit(unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) == 0 ? 0 : 1);
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

void AgentTest::SetUp() {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  if (!CanMakeNamespaces()) GTEST_SKIP() << "this machine lets nobody make namespaces";
  // What a killed agent leaves behind comes to us.
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  char name[] = "/tmp/moult-agent-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  folder_ = name;
  const std::string mount = CgroupMount();
  if (!mount.empty()) cgroup_root_ = absl::StrCat(mount, "/moult-test-", getpid());
}

void AgentTest::TearDown() {
  if (folder_.empty()) return;
  if (agent_ > 0) KillAgent(SIGKILL);
  // Functions outlive their agent: end them by their inits' pids, which are our children by now.
  auto tids = proc::ReadFile(absl::StrCat("/proc/self/task/", getpid(), "/children"));
  if (tids.ok()) {
    for (const auto pid : absl::StrSplit(*tids, ' ', absl::SkipEmpty())) {
      int number = 0;
      if (absl::SimpleAtoi(pid, &number)) kill(number, SIGKILL);
    }
  }
  while (waitpid(-1, nullptr, 0) > 0) {
  }
  if (!cgroup_root_.empty()) {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(cgroup_root_, ignored)) {
      if (entry.is_directory()) rmdir(entry.path().c_str());
    }
    rmdir(cgroup_root_.c_str());
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void AgentTest::StartAgent(const std::string& extra) {
  const std::string config = folder_ + "/agent.conf";
  std::ofstream(config) << "{\"vsock_port\": 0, \"unix_path\": \"" << folder_ << "/sock\", \"state_dir\": \""
                        << folder_ << "/state\", \"cgroup_root\": \""
                        << (cgroup_root_.empty() ? "/nonexistent/x" : cgroup_root_)
                        << "\", \"require_cgroup\": " << (cgroup_root_.empty() ? "false" : "true") << extra
                        << "}";
  // Emptied before it starts: what another has said is not its word.
  const UniqueFd log(open((folder_ + "/agent.log").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  ASSERT_TRUE(log.valid());
  agent_ = fork();
  if (agent_ == 0) {
    dup2(log.get(), STDERR_FILENO);
    execl(MOULT_AGENT, "moult-agent", "--config", config.c_str(), nullptr);
    _exit(127);
  }
  // Its last word before it serves.
  AwaitLog("moult-agent: ready\n");
}

std::string AgentTest::Log() const { return proc::ReadFile(folder_ + "/agent.log").value_or(""); }

void AgentTest::AwaitLog(const std::string& text) {
  const auto deadline = Soon();
  while (Log().find(text) == std::string::npos && rpc::Clock::now() < deadline && AgentRuns()) poll(nullptr, 0, 2);
  ASSERT_THAT(Log(), ::testing::HasSubstr(text));
}

bool AgentTest::ClosedByPeer(int fd) {
  for (;;) {
    pollfd poll_fd{fd, POLLIN, 0};
    if (poll(&poll_fd, 1, 60'000) <= 0) return false;
    char buffer[4096];
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n <= 0) return true;
  }
}

void AgentTest::AwaitQuiet(Client& client, size_t count) {
  const auto deadline = Soon();
  size_t found = 0;
  do {
    sched_yield();
    const auto list = client.Call(rpc::ListT{});
    ASSERT_TRUE(list.ok()) << list.status();
    found = (*list)->body.AsListReply()->functions.size();
  } while ((found != count || !Workers().empty()) && rpc::Clock::now() < deadline);
  EXPECT_EQ(found, count);
  EXPECT_TRUE(Workers().empty());
}

void AgentTest::KillAgent(int signal) {
  kill(agent_, signal);
  waitpid(agent_, nullptr, 0);
  agent_ = -1;
}

bool AgentTest::AgentRuns() const { return agent_ > 0 && waitpid(agent_, nullptr, WNOHANG) == 0; }

UniqueFd AgentTest::ConnectRaw() {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder_ + "/sock";
  std::memcpy(address.sun_path, path.c_str(), path.size());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) fd.Reset();
  return fd;
}

std::unique_ptr<Client> AgentTest::Connect() {
  auto client = std::make_unique<Client>(ConnectRaw());
  rpc::HelloT hello;
  hello.version_min = 1;
  hello.version_max = 1;
  hello.client = "test";
  const auto reply = client->Call(std::move(hello));
  EXPECT_TRUE(reply.ok()) << reply.status();
  return client;
}

std::vector<pid_t> AgentTest::Workers(const std::string& name) const {
  std::vector<pid_t> workers;
  auto children = proc::ReadFile(absl::StrCat("/proc/", agent_, "/task/", agent_, "/children"));
  if (!children.ok()) return workers;
  for (const auto text : absl::StrSplit(*children, ' ', absl::SkipEmpty())) {
    int pid = 0;
    if (!absl::SimpleAtoi(text, &pid)) continue;
    auto comm = proc::ReadFile(absl::StrCat("/proc/", pid, "/comm"));
    if (comm.ok() && *comm == name + "\n") workers.push_back(pid);
  }
  return workers;
}

rpc::FunctionSpecT AgentTest::CounterSpec() {
  rpc::FunctionSpecT spec;
  spec.name = "counter";
  spec.argv = {"/usr/bin/python3", "-S", "-c", kCounter};
  spec.endpoint = std::make_unique<rpc::EndpointT>();
  spec.endpoint->kind = rpc::EndpointKind::Unix;
  spec.endpoint->path = "/tmp/counter.sock";
  spec.readiness = std::make_unique<rpc::ReadinessT>();
  spec.readiness->kind = rpc::ReadinessKind::Connect;
  return spec;
}

uint64_t AgentTest::RunCounter(Client& client) {
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>(CounterSpec());
  auto reply = client.Call(std::move(run));
  EXPECT_TRUE(reply.ok()) << reply.status();
  return reply.ok() ? (*reply)->body.AsFunctionReply()->function->id : 0;
}

std::string AgentTest::Ask(uint64_t function) {
  const auto client = Connect();
  rpc::TunnelT tunnel;
  tunnel.function = function;
  const auto opened = client->Call(std::move(tunnel));
  EXPECT_TRUE(opened.ok()) << opened.status();
  if (!opened.ok()) return "";
  const UniqueFd fd = client->channel.TakeFd();
  const std::string request = "GET / HTTP/1.0\r\n\r\n";
  EXPECT_EQ(send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  for (;;) {
    pollfd poll_fd{fd.get(), POLLIN, 0};
    if (poll(&poll_fd, 1, 60'000) <= 0) break;
    char buffer[4096];
    const ssize_t n = recv(fd.get(), buffer, sizeof(buffer), 0);
    if (n <= 0) break;
    answer.append(buffer, static_cast<size_t>(n));
  }
  const size_t body = answer.find("\r\n\r\n");
  EXPECT_NE(body, std::string::npos) << answer;
  return body == std::string::npos ? "" : answer.substr(body + 4);
}

absl::StatusOr<Template> AgentTest::CaptureCopy(Client& client, uint64_t function,
                                                rpc::CaptureOutcome outcome) {
  rpc::CaptureT capture;
  capture.function = function;
  capture.mode = rpc::PageMode::Copy;
  MOULT_ASSIGN_OR_RETURN(const uint64_t id,
                         client.channel.Send(rpc::MakeRequest(std::move(capture)), Soon()));
  MOULT_ASSIGN_OR_RETURN(const auto response, client.channel.ReceiveResponse(id, Soon()));
  const rpc::CaptureReportT& report = *response->body.AsCaptureReport();
  Template taken{report.image, report.manifest, std::vector<std::byte>(report.pages_size), *report.spec};
  MOULT_RETURN_IF_ERROR(client.channel.ReceiveData(id, absl::MakeSpan(taken.pages), Soon()));
  rpc::CaptureEndT end;
  end.outcome = outcome;
  MOULT_RETURN_IF_ERROR(client.Call(std::move(end)).status());
  return taken;
}

rpc::AttachT AgentTest::AttachOf(const Template& from) {
  rpc::AttachT attach;
  attach.name = "counter-template";
  attach.spec = std::make_unique<rpc::FunctionSpecT>(from.spec);
  attach.image = from.image;
  const std::string manifest =
      image::EncodeManifestFile({reinterpret_cast<const char*>(from.manifest.data()), from.manifest.size()});
  attach.manifest.assign(manifest.begin(), manifest.end());
  attach.source = rpc::PageSource::Stream;
  attach.pages_size = from.pages.size();
  return attach;
}

absl::StatusOr<uint64_t> AgentTest::AttachStream(Client& client, const Template& from) {
  MOULT_ASSIGN_OR_RETURN(const uint64_t id, client.channel.Send(rpc::MakeRequest(AttachOf(from)), Soon()));
  MOULT_RETURN_IF_ERROR(client.channel.SendData(id, from.pages, Soon()));
  MOULT_ASSIGN_OR_RETURN(const auto response, client.channel.ReceiveResponse(id, Soon()));
  return response->body.AsFunctionReply()->function->id;
}

std::unique_ptr<rpc::FunctionInfoT> AgentTest::Info(Client& client, uint64_t function) {
  auto reply = client.Call(rpc::ListT{});
  EXPECT_TRUE(reply.ok()) << reply.status();
  if (!reply.ok()) return nullptr;
  for (auto& info : (*reply)->body.AsListReply()->functions) {
    if (info->id == function) return std::move(info);
  }
  return nullptr;
}

void AgentTest::AwaitState(Client& client, uint64_t function, rpc::FunctionState state) {
  const auto deadline = Soon();
  auto info = Info(client, function);
  while (info != nullptr && info->state != state && rpc::Clock::now() < deadline) {
    sched_yield();
    info = Info(client, function);
  }
  ASSERT_NE(info, nullptr);
  ASSERT_EQ(info->state, state) << rpc::EnumNameFunctionState(info->state) << ", " << info->end_reason;
}

}  // namespace moult::agent
