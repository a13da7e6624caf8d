// SPDX-License-Identifier: Apache-2.0
#include "fake_agent.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace moult::host::testing {
namespace {

rpc::Clock::time_point Soon() { return rpc::Clock::now() + std::chrono::seconds(20); }

void Must(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::abort();
}

bool TakeConnectLine(int fd, uint32_t port) {
  std::string line;
  char c = 0;
  while (c != '\n' && recv(fd, &c, 1, 0) == 1) line.push_back(c);
  if (line != "CONNECT " + std::to_string(port) + "\n") return false;
  return send(fd, "OK 1073741824\n", 14, MSG_NOSIGNAL) == 14;
}

}  // namespace

bool Respond(rpc::Channel& channel, uint64_t id, rpc::ResponseT response) {
  return channel.Respond(id, response, Soon()).ok();
}

bool RespondDone(rpc::Channel& channel, uint64_t id) {
  return Respond(channel, id, rpc::MakeResponse(rpc::DoneT()));
}

rpc::FunctionSpecT Spec() {
  rpc::FunctionSpecT spec;
  spec.name = "sample";
  spec.argv = {"/usr/bin/sample"};
  return spec;
}

rpc::FunctionReplyT FunctionReply(uint64_t function, const std::string& template_name) {
  rpc::FunctionReplyT reply;
  reply.function = std::make_unique<rpc::FunctionInfoT>();
  reply.function->id = function;
  reply.function->spec = std::make_unique<rpc::FunctionSpecT>(Spec());
  reply.function->state = rpc::FunctionState::Running;
  reply.function->template_name = template_name;
  return reply;
}

FakeAgent::FakeAgent(std::string path, uint32_t connect_port)
    : path_(std::move(path)),
      connect_port_(connect_port),
      listener_(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      stop_(eventfd(0, EFD_CLOEXEC)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
  unlink(path_.c_str());
  Must(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0, "bind");
  Must(listen(listener_.get(), 16) == 0, "listen");
  hello_.version = 1;
  hello_.boot_id = "boot-1";
  hello_.features = {"copy"};
  threads_.emplace_back([this] { Accept(); });
}

FakeAgent::~FakeAgent() {
  std::vector<std::thread> threads;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (const int fd : connections_) shutdown(fd, SHUT_RDWR);
    const uint64_t one = 1;
    Must(write(stop_.get(), &one, sizeof(one)) == sizeof(one), "write");
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
  unlink(path_.c_str());
}

void FakeAgent::On(rpc::RequestBody verb, Handler handler) {
  const std::lock_guard<std::mutex> lock(mutex_);
  handlers_[verb] = std::move(handler);
}

void FakeAgent::SetHello(rpc::HelloReplyT hello) {
  const std::lock_guard<std::mutex> lock(mutex_);
  hello_ = std::move(hello);
}

std::vector<std::string> FakeAgent::Verbs() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return verbs_;
}

void FakeAgent::ForgetVerbs() {
  const std::lock_guard<std::mutex> lock(mutex_);
  verbs_.clear();
}

void FakeAgent::Accept() {
  for (;;) {
    pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    Must(poll(fds, 2, -1) > 0 || errno == EINTR, "poll");
    if (fds[1].revents != 0) return;
    UniqueFd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!fd.valid() || stopping_) continue;
    connections_.push_back(fd.get());
    threads_.emplace_back([this, raw = fd.Release()] { Serve(UniqueFd(raw)); });
  }
}

void FakeAgent::Serve(UniqueFd fd) {
  const int raw = fd.get();
  if (connect_port_ == 0 || TakeConnectLine(raw, connect_port_)) {
    rpc::Channel channel(std::move(fd));
    for (;;) {
      auto request = channel.ReceiveRequest();
      if (!request.ok() || !Answer(channel, request->first, *request->second)) break;
    }
    fd = channel.TakeFd();
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  std::erase(connections_, raw);  // Before it is closed: the number may come again.
  fd.Reset();
}

bool FakeAgent::Answer(rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
  Handler handler;
  rpc::HelloReplyT hello;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (request.body.type != rpc::RequestBody::Hello) verbs_.push_back(rpc::VerbName(request.body.type));
    const auto found = handlers_.find(request.body.type);
    if (found != handlers_.end()) handler = found->second;
    hello = hello_;
  }
  if (handler) return handler(channel, id, request);
  if (request.body.type == rpc::RequestBody::Hello)
    return Respond(channel, id, rpc::MakeResponse(std::move(hello)));
  if (request.body.type == rpc::RequestBody::List) {
    return Respond(channel, id, rpc::MakeResponse(rpc::ListReplyT()));
  }
  return Respond(channel, id, rpc::ErrorResponse(absl::UnimplementedError("not in this test")));
}

}  // namespace moult::host::testing
