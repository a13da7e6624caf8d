// SPDX-License-Identifier: Apache-2.0
//
// moult-vm-exec: runs commands for the tests inside a guest. It listens on a vsock port, tells the host so by
// connecting to the same port there, and then serves one command for each connection. For tests alone:
// whoever can reach the port is root in the guest.
//
//   request   u32 count, then count times: u32 length, bytes (the argument vector)
//   frames    u8 kind, u32 length, bytes
//     to the guest    kInput (length 0: end of input)
//     to the host     kOutput, kError, and as the last one kExit with an i32: exit code, or minus the signal
//
// End of input is a frame and not a half-closed connection, since not every vsock device passes that on. When
// the host closes the connection, what the command started in its session is killed.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

namespace {

constexpr unsigned kPort = 7000;
constexpr uint32_t kLongestFrame = 1 << 20;
constexpr uint32_t kMostArguments = 4096;
enum Kind : uint8_t { kInput = 0, kOutput = 1, kError = 2, kExit = 3 };

[[noreturn]] void Die(const char* what) {
  fprintf(stderr, "moult-vm-exec: %s: %s\n", what, strerror(errno));
  _exit(1);
}

bool ReadAll(int fd, void* to, size_t size) {
  auto* at = static_cast<char*>(to);
  while (size > 0) {
    const ssize_t got = read(fd, at, size);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

bool WriteAll(int fd, const void* from, size_t size) {
  const auto* at = static_cast<const char*>(from);
  while (size > 0) {
    const ssize_t put = write(fd, at, size);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += put;
    size -= static_cast<size_t>(put);
  }
  return true;
}

bool SendFrame(int fd, Kind kind, const void* data, uint32_t size) {
  std::array<char, 5> head;
  head[0] = static_cast<char>(kind);
  memcpy(&head[1], &size, sizeof(size));
  return WriteAll(fd, head.data(), head.size()) && WriteAll(fd, data, size);
}

std::vector<std::string> ReadArguments(int fd) {
  uint32_t count = 0;
  if (!ReadAll(fd, &count, sizeof(count)) || count == 0 || count > kMostArguments) return {};
  std::vector<std::string> arguments(count);
  for (std::string& argument : arguments) {
    uint32_t size = 0;
    if (!ReadAll(fd, &size, sizeof(size)) || size > kLongestFrame) return {};
    argument.resize(size);
    if (!ReadAll(fd, argument.data(), size)) return {};
  }
  return arguments;
}

struct Command {
  pid_t pid = -1;
  int pidfd = -1;
  int input = -1;  // our ends of its pipes; -1 once closed
  int output = -1;
  int error = -1;
};

[[noreturn]] void Exec(std::vector<std::string>& arguments, int in, int out, int err) {
  setsid();
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  close_range(3, ~0U, 0);
  signal(SIGPIPE, SIG_DFL);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
  _exit(127);
}

Command Start(std::vector<std::string>& arguments) {
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) Die("pipe2");
  Command command;
  command.pid = fork();
  if (command.pid < 0) Die("fork");
  if (command.pid == 0) Exec(arguments, in[0], out[1], err[1]);
  close(in[0]);
  close(out[1]);
  close(err[1]);
  command.pidfd = static_cast<int>(syscall(SYS_pidfd_open, command.pid, 0));
  if (command.pidfd < 0) Die("pidfd_open");
  command.input = in[1];
  command.output = out[0];
  command.error = err[0];
  return command;
}

// One chunk of the command's output. False: nothing is there now, or it has been closed.
bool Forward(int connection, int* from, Kind kind) {
  // What SendLimit in protocol/ is about, and why.
  static std::array<char, 16384> chunk;
  const ssize_t got = read(*from, chunk.data(), chunk.size());
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return false;
  if (got <= 0) {
    close(*from);
    *from = -1;
    return false;
  }
  if (!SendFrame(connection, kind, chunk.data(), static_cast<uint32_t>(got))) _exit(1);
  return true;
}

// Takes one frame of input from the host. False: the host has gone.
bool TakeInput(int connection, std::string* pending, bool* ended) {
  std::array<char, 5> head;
  uint32_t size;
  if (!ReadAll(connection, head.data(), head.size())) return false;
  memcpy(&size, &head[1], sizeof(size));
  if (head[0] != kInput || size > kLongestFrame) return false;
  *ended = size == 0;
  pending->resize(size);
  return ReadAll(connection, pending->data(), size);
}

void Feed(Command* command, std::string* pending) {
  const ssize_t put = write(command->input, pending->data(), pending->size());
  if (put >= 0) {
    pending->erase(0, static_cast<size_t>(put));
  } else if (errno != EAGAIN && errno != EINTR) {  // It does not read its input: not an error of ours.
    pending->clear();
    close(command->input);
    command->input = -1;
  }
}

void ReportExit(int connection, Command* command) {
  // What the command itself has written is in the pipes by now. A process that it left behind may hold them
  // open, so their end is not waited for.
  while (command->output >= 0 && Forward(connection, &command->output, kOutput)) {
  }
  while (command->error >= 0 && Forward(connection, &command->error, kError)) {
  }
  int status = 0;
  while (waitpid(command->pid, &status, 0) < 0 && errno == EINTR) {
  }
  const int32_t code = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  SendFrame(connection, kExit, &code, sizeof(code));
}

[[noreturn]] void Serve(int connection) {
  signal(SIGCHLD, SIG_DFL);
  signal(SIGPIPE, SIG_IGN);
  std::vector<std::string> arguments = ReadArguments(connection);
  if (arguments.empty()) _exit(1);
  Command command = Start(arguments);
  for (int fd : {command.input, command.output, command.error}) fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string pending;
  bool ended = false;
  for (;;) {
    const bool wants_input = pending.empty() && !ended;
    std::array<pollfd, 5> set = {{{command.pidfd, POLLIN, 0},
                                  {connection, static_cast<short>(POLLRDHUP | (wants_input ? POLLIN : 0)), 0},
                                  {pending.empty() ? -1 : command.input, POLLOUT, 0},
                                  {command.output, POLLIN, 0},
                                  {command.error, POLLIN, 0}}};
    if (poll(set.data(), set.size(), -1) < 0 && errno != EINTR) Die("poll");
    if (set[3].revents != 0) Forward(connection, &command.output, kOutput);
    if (set[4].revents != 0) Forward(connection, &command.error, kError);
    if (set[2].revents != 0) Feed(&command, &pending);
    if (command.input < 0) pending.clear();
    if (set[1].revents != 0 && (!wants_input || !TakeInput(connection, &pending, &ended))) {
      kill(-command.pid, SIGKILL);
      _exit(1);
    }
    if (ended && pending.empty() && command.input >= 0) {
      close(command.input);
      command.input = -1;
    }
    if (set[0].revents != 0) break;
  }
  ReportExit(connection, &command);
  // The host closes first: it then has read all. Some devices drop what is under way when the guest closes.
  char last;
  while (read(connection, &last, 1) > 0) {
  }
  _exit(0);
}

sockaddr_vm Address(unsigned cid) {
  sockaddr_vm address = {};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = kPort;
  return address;
}

// The host waits for this connection: it is the event "the guest is up".
void SayReady() {
  const int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_vm host = Address(VMADDR_CID_HOST);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&host), sizeof(host)) != 0 ||
      !WriteAll(fd, "ready\n", 6)) {
    Die("tell the host that the guest is ready");
  }
  char answer;
  if (read(fd, &answer, 1) < 0) Die("the host's answer");
  close(fd);
}

}  // namespace

int main() {
  const int listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_vm any = Address(VMADDR_CID_ANY);
  if (listener < 0) Die("socket(AF_VSOCK)");
  if (bind(listener, reinterpret_cast<const sockaddr*>(&any), sizeof(any)) != 0) Die("bind");
  if (listen(listener, 16) != 0) Die("listen");
  signal(SIGCHLD, SIG_IGN);  // Nobody asks how a connection's server ended.
  SayReady();
  for (;;) {
    const int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      Die("accept");
    }
    const pid_t server = fork();
    if (server == 0) Serve(connection);
    if (server < 0) perror("moult-vm-exec: fork");
    close(connection);
  }
}
