// SPDX-License-Identifier: Apache-2.0
//
// The control server over a real socket, with the stand-in for libmoult behind it, and a client.
#ifndef MOULT_TESTS_CONTROL_SERVER_FIXTURE_H_
#define MOULT_TESTS_CONTROL_SERVER_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "control/listener.h"
#include "control/server.h"
#include "fake_moult.h"
#include "forbid.h"

namespace moult::control {

inline constexpr int kWaitMs = 10'000;

// A client that waits with a deadline.
class Client {
 public:
  explicit Client(const std::string& path) : fd_(*Connect(path)) {}
  explicit Client(UniqueFd fd) : fd_(std::move(fd)) {}

  void Write(const std::string& text) {
    ASSERT_EQ(send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL), ssize_t(text.size()));
  }
  void Request(int id, const std::string& method, const std::string& params = "{}") {
    Write("{\"id\":" + std::to_string(id) + ",\"method\":\"" + method + "\",\"params\":" + params + "}\n");
  }
  // One line; "" at the end of the stream, "timeout" when nothing comes.
  std::string Line() {
    while (in_.find('\n') == std::string::npos) {
      const std::string more = Receive();
      if (more.empty() || more == "timeout") return more;
      in_ += more;
    }
    const size_t end = in_.find('\n');
    std::string line = in_.substr(0, end);
    in_.erase(0, end + 1);
    return line;
  }
  std::string Bytes() { return in_.empty() ? Receive() : std::exchange(in_, ""); }
  std::string Receive() {
    pollfd wait{fd_.get(), POLLIN, 0};
    if (poll(&wait, 1, kWaitMs) != 1) return "timeout";
    char chunk[4096];
    const ssize_t got = recv(fd_.get(), chunk, sizeof(chunk), 0);
    return got > 0 ? std::string(chunk, static_cast<size_t>(got)) : "";
  }
  // The answer to `id`: progress is skipped.
  Json Answer() {
    for (;;) {
      const std::string line = Line();
      Json json = Json::parse(line, nullptr, false);
      if (json.is_discarded()) return Json{{"line", line}};
      if (!json.contains("progress")) return json;
    }
  }
  void Close() { fd_.Reset(); }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::string in_;
};

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fake::Reset();
    folder_ = std::filesystem::temp_directory_path() / ("moult-control-" + std::to_string(getpid()));
    std::filesystem::create_directory(folder_);
    path_ = folder_ / "control.sock";
  }
  void StartServer(absl::Status fault = absl::OkStatus(), bool store = true) {
    moult_vm_options options = MOULT_INIT(options);
    options.user = this;
    options.work = [](void* user, moult_op* op) { static_cast<ServerTest*>(user)->server_->Work(op); };
    ServerOptions server;
    server.target.fault = fault;
    if (fault.ok()) {
      ASSERT_EQ(moult_vm_create(&options, &server.target.vm), 0);
    }
    if (store) {
      ASSERT_EQ(moult_store_open("/", nullptr, &server.target.store), 0);
    }
    server.log = [this](int, const std::string& message) { messages_.push_back(message); };
    server.describe = [] { return Json{{"vmm", "test"}}; };
    target_ = server.target;
    absl::StatusOr<UniqueFd> listener = Listen(path_);
    ASSERT_TRUE(listener.ok()) << listener.status();
    server_ = *Server::Create(*std::move(listener), std::move(server));
    thread_ = std::thread([this] {
      ASSERT_TRUE(!forbids_threads_ || testing::Forbid(testing::kThreadCalls, EAGAIN));
      server_->Run();
    });
  }
  void TearDown() override {
    if (server_ != nullptr) {
      server_->Stop();
      thread_.join();
      server_.reset();
      moult_vm_close(target_.vm);
      moult_store_close(target_.store);
    }
    std::filesystem::remove_all(folder_);
  }

  std::filesystem::path folder_;
  std::string path_;
  Target target_;
  std::unique_ptr<Server> server_;
  std::thread thread_;
  bool forbids_threads_ = false;       // the server's
  std::vector<std::string> messages_;  // the server's thread's, until it ends
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace moult::control

#endif  // MOULT_TESTS_CONTROL_SERVER_FIXTURE_H_
