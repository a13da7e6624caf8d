// SPDX-License-Identifier: Apache-2.0
//
// When a tunnel ends: with both directions, with the function's end of it, and a while after the function's last byte.
#include "rpc/tunnel.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <string>

namespace moult::agent {
namespace {

struct Ends {
  UniqueFd near;
  UniqueFd far;
};

Ends UnixPair() {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Ends TcpPair() {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* any = reinterpret_cast<sockaddr*>(&address);
  EXPECT_EQ(bind(listener.get(), any, size), 0);
  EXPECT_EQ(listen(listener.get(), 1), 0);
  EXPECT_EQ(getsockname(listener.get(), any, &size), 0);
  UniqueFd near(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(near.get(), any, size), 0);
  return {std::move(near), UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))};
}

// Lets it move on by what comes, until nothing does for `patience_ms`, or it is over: false. Not by time alone, however long
// this thread waits for a CPU.
bool Pump(Tunnel& tunnel, int patience_ms = 200) {
  for (;;) {
    auto wanted = tunnel.Wanted();
    if (poll(wanted.data(), wanted.size(), patience_ms) == 0) return true;
    if (!tunnel.Advance(wanted.data())) return false;
  }
}

// Whether it is still there when nothing has come for long.
bool OutlastsSilence(Tunnel& tunnel) {
  if (!Pump(tunnel, 2 * static_cast<int>(std::chrono::milliseconds(Tunnel::kLinger).count()))) return false;
  const auto nothing = tunnel.Wanted();
  return tunnel.Advance(nothing.data());
}

std::string Receive(const UniqueFd& fd) {
  std::string text(100, 0);
  const ssize_t n = recv(fd.get(), text.data(), text.size(), MSG_DONTWAIT);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

void Send(const UniqueFd& fd, const std::string& text) {
  ASSERT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

TEST(Tunnel, Ends_WhenTheFunctionHasClosed) {
  Ends host = UnixPair();
  Ends function = UnixPair();
  Tunnel tunnel(std::move(host.near), std::move(function.near));
  Send(host.far, "question");
  EXPECT_TRUE(Pump(tunnel));
  EXPECT_EQ(Receive(function.far), "question");
  Send(function.far, "answer");
  function.far.Reset();
  EXPECT_FALSE(Pump(tunnel));
  EXPECT_EQ(Receive(host.far), "answer");
}

TEST(Tunnel, Ends_WhenTheHostIsSilentAfterTheLastByte) {
  Ends host = UnixPair();
  Ends function = TcpPair();
  Tunnel tunnel(std::move(host.near), std::move(function.near));
  const auto begin = Tunnel::Clock::now();
  Send(function.far, "answer");
  shutdown(function.far.get(), SHUT_WR);
  EXPECT_TRUE(Pump(tunnel));
  EXPECT_EQ(Receive(host.far), "answer");
  ASSERT_TRUE(tunnel.deadline().has_value());
  EXPECT_GE(*tunnel.deadline(), begin + Tunnel::kLinger);
  // The function still listens.
  const auto first = *tunnel.deadline();
  Send(host.far, "more");
  EXPECT_TRUE(Pump(tunnel));
  EXPECT_EQ(Receive(function.far), "more");
  EXPECT_GT(*tunnel.deadline(), first);
  EXPECT_FALSE(OutlastsSilence(tunnel));
}

TEST(Tunnel, Stays_WhenTheFunctionHasNotTakenAll) {
  Ends host = UnixPair();
  Ends function = TcpPair();
  Tunnel tunnel(std::move(host.near), std::move(function.near));
  shutdown(function.far.get(), SHUT_WR);
  const std::string much(1 << 16, 'x');
  for (bool full = false; !full;) {
    full = send(host.far.get(), much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0;
    ASSERT_TRUE(Pump(tunnel, 10));
  }
  EXPECT_FALSE(tunnel.deadline().has_value());
  EXPECT_TRUE(OutlastsSilence(tunnel));
}

TEST(Tunnel, Stays_WhenTheHostHasSentAll) {
  Ends host = UnixPair();
  Ends function = TcpPair();
  Tunnel tunnel(std::move(host.near), std::move(function.near));
  Send(host.far, "question");
  shutdown(host.far.get(), SHUT_WR);
  EXPECT_TRUE(Pump(tunnel));
  EXPECT_EQ(Receive(function.far), "question");
  EXPECT_FALSE(tunnel.deadline().has_value());
  Send(function.far, "late answer");
  EXPECT_TRUE(Pump(tunnel));
  EXPECT_EQ(Receive(host.far), "late answer");
  function.far.Reset();
  EXPECT_FALSE(Pump(tunnel));
}

}  // namespace
}  // namespace moult::agent
