// SPDX-License-Identifier: Apache-2.0
//
// Every way to the agent but AF_VSOCK, which needs a guest (tests/vm/vsock_test.py).
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "host_test.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

// What an embedder's connect function has to work with.
struct Dialer {
  std::string path;
  int fails_with = 0;
  int calls = 0;
  uint32_t port = 0;

  static int Connect(void* user, uint32_t port) {
    auto* dialer = static_cast<Dialer*>(user);
    ++dialer->calls;
    dialer->port = port;
    if (dialer->fails_with != 0) return -dialer->fails_with;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, dialer->path.c_str(), sizeof(address.sun_path) - 1);
    // Blocking, as a careless embedder has it: the library must not wait on it for all that.
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
    const int error = errno;
    close(fd);
    return -error;
  }
};

class TransportTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    agent_ = nullptr;
    agent_ = std::make_unique<FakeAgent>(root_ + "/agent", 0);  // no CONNECT
    dialer_.path = agent_->path();
  }
  Options By(uint32_t kind) {
    Options options = DefaultOptions(&guest_);
    options.vm.transport = {};
    options.vm.transport.kind = kind;
    options.vm.transport.fd = -1;
    options.vm.transport.path = agent_->path().c_str();
    options.vm.transport.connect = Dialer::Connect;
    options.vm.transport.user = &dialer_;
    return options;
  }
  int List(uint32_t timeout_ms = 0) {
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = timeout_ms;
    OpHandle op;
    if (const int failed = moult_vm_list(vm_, &options, op.out()); failed != 0) return failed;
    return op.Wait();
  }
  void CloseAtList() {
    agent_->On(rpc::RequestBody::List, [](rpc::Channel&, uint64_t, rpc::RequestT&) { return false; });
  }

  Dialer dialer_;
};

TEST_F(TransportTest, Callback_IsAskedForEachConnection) {
  Options options = By(MOULT_TRANSPORT_CALLBACK);
  options.vm.transport.port = 4711;
  vm_ = Create(options);
  EXPECT_EQ(dialer_.calls, 0);  // It talks to nobody yet.
  EXPECT_EQ(List(), 0) << moult_last_error();
  EXPECT_EQ(List(), 0) << moult_last_error();
  EXPECT_EQ(dialer_.calls, 1);
  EXPECT_EQ(dialer_.port, 4711u);
  CloseAtList();
  EXPECT_EQ(List(), -ECONNRESET);
  agent_->On(rpc::RequestBody::List, nullptr);
  EXPECT_EQ(List(), 0) << moult_last_error();
  EXPECT_EQ(dialer_.calls, 2);
}

TEST_F(TransportTest, Callback_ErrorsAreTheOperations) {
  vm_ = Create(By(MOULT_TRANSPORT_CALLBACK));
  dialer_.fails_with = ECONNREFUSED;
  EXPECT_EQ(List(), -ECONNRESET);
  EXPECT_EQ(moult_last_error_code(), MOULT_UNAVAILABLE);
  EXPECT_THAT(moult_last_error(), HasSubstr("the embedder's connect function: ECONNREFUSED"));
  dialer_.fails_with = EACCES;
  EXPECT_EQ(List(), -EACCES);
  EXPECT_EQ(moult_last_error_code(), MOULT_PERMISSION_DENIED);
  dialer_.fails_with = 0;
  ExpectServing();
}

TEST_F(TransportTest, Callback_SocketThatNobodyAnswersIsWaitedForInTimeOnly) {
  agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t, rpc::RequestT&) {
    pollfd closed{channel.fd(), POLLRDHUP, 0};
    (void)!poll(&closed, 1, 20'000);
    return false;
  });
  vm_ = Create(By(MOULT_TRANSPORT_CALLBACK));
  EXPECT_EQ(List(200), -ETIMEDOUT);
}

TEST_F(TransportTest, Unix_NeedsNoConnectLine) {
  vm_ = Create(By(MOULT_TRANSPORT_UNIX));
  EXPECT_EQ(List(), 0) << moult_last_error();
  CloseAtList();
  EXPECT_EQ(List(), -ECONNRESET);
  agent_->On(rpc::RequestBody::List, nullptr);
  EXPECT_EQ(List(), 0) << moult_last_error();
}

TEST_F(TransportTest, Fd_IsTakenOverAndCannotBeMadeAgain) {
  Options options = By(MOULT_TRANSPORT_FD);
  options.vm.transport.fd = Dialer::Connect(&dialer_, 0);
  const int fd = options.vm.transport.fd;
  ASSERT_GE(fd, 0);
  vm_ = Create(options);
  EXPECT_EQ(List(), 0) << moult_last_error();
  CloseAtList();
  EXPECT_EQ(List(), -ECONNRESET);
  EXPECT_EQ(List(), -ECONNRESET);
  EXPECT_THAT(moult_last_error(), HasSubstr("only one was given"));
  moult_vm_close(vm_);
  vm_ = nullptr;
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
}

TEST_F(TransportTest, Create_NamesWhatAKindLacks) {
  const struct {
    uint32_t kind;
    const char* lacks;
  } cases[] = {{MOULT_TRANSPORT_VSOCK, "vsock needs the VM's cid"},
               {MOULT_TRANSPORT_CONNECT, "no path of a unix socket"},
               {MOULT_TRANSPORT_UNIX, "no path of a unix socket"},
               {MOULT_TRANSPORT_FD, "fd is not a stream socket"},
               {MOULT_TRANSPORT_CALLBACK, "no connect function"},
               {99, "unknown kind"}};
  for (const auto& [kind, lacks] : cases) {
    Options options = By(kind);
    options.vm.transport.path = nullptr;
    options.vm.transport.connect = nullptr;
    moult_vm* vm = nullptr;
    EXPECT_EQ(moult_vm_create(&options.vm, &vm), -EINVAL) << kind;
    EXPECT_THAT(moult_last_error(), HasSubstr(lacks));
  }
}

}  // namespace
}  // namespace moult::host::testing
