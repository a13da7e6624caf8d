// SPDX-License-Identifier: Apache-2.0
//
// One HTTP request to a function, over the tunnel that the agent opens to its endpoint.
#include <curl/curl.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "commands.h"
#include "control/pump.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "output.h"
#include "progress.h"
#include "read_file.h"

namespace moult::ctl {
namespace {

struct Answer {
  std::string headers;
  std::string body;
  long status = 0;
  uint64_t total_us = 0;
};

using Handle = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;
using List = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

size_t Append(char* data, size_t size, size_t count, void* to) {
  static_cast<std::string*>(to)->append(data, size * count);
  return size * count;
}

int ShowProgress(void* progress, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  static_cast<Progress*>(progress)->Tick();
  return 0;
}

// Debian 12's curl (7.88) connects a socket also when it was told that it is connected already. So it gets a
// socket to connect to, of this process alone, and a thread that carries bytes between that and the tunnel.
class Relay {
 public:
  static absl::StatusOr<std::unique_ptr<Relay>> Start(UniqueFd tunnel) {
    UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socklen_t length = sizeof(sa_family_t);  // the kernel chooses an abstract name
    const auto raw = reinterpret_cast<sockaddr*>(&address);
    if (!listener.valid() || bind(listener.get(), raw, length) < 0 || listen(listener.get(), 1) < 0)
      return ErrnoStatus("invoke: listen");
    length = sizeof(address);
    if (getsockname(listener.get(), raw, &length) < 0) return ErrnoStatus("invoke: getsockname");
    const size_t name = length - offsetof(sockaddr_un, sun_path) - 1;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return ErrnoStatus("invoke: pipe");
    return std::unique_ptr<Relay>(new Relay(std::move(listener), std::string(address.sun_path + 1, name),
                                            std::move(tunnel), UniqueFd(ends[0]), UniqueFd(ends[1])));
  }
  // Ends the thread, whatever it waits for.
  ~Relay() {
    shutdown(listener_.get(), SHUT_RDWR);
    stop_.Reset();
    thread_.join();
  }
  const std::string& name() const { return name_; }

 private:
  Relay(UniqueFd listener, std::string name, UniqueFd tunnel, UniqueFd stopped, UniqueFd stop)
      : listener_(std::move(listener)),
        name_(std::move(name)),
        stopped_(std::move(stopped)),
        stop_(std::move(stop)) {
    thread_ = std::thread([this, tunnel = std::move(tunnel)]() mutable { Run(std::move(tunnel)); });
  }

  void Run(UniqueFd tunnel) {
    UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ucred peer{};
    socklen_t length = sizeof(peer);
    // An abstract name is for everyone in this network namespace; the tunnel is not.
    if (!client.valid() || getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
        peer.pid != getpid())
      return;
    fcntl(client.get(), F_SETFL, O_NONBLOCK);
    fcntl(tunnel.get(), F_SETFL, O_NONBLOCK);
    control::Pump pump(std::move(client), std::move(tunnel), "", "");
    while (true) {
      pollfd waits[3] = {};
      pump.Want(&waits[0], &waits[1]);
      waits[2] = {stopped_.get(), POLLIN, 0};
      if (poll(waits, 3, -1) < 0 && errno != EINTR) return;
      if (waits[2].revents != 0 || !pump.Process()) return;
    }
  }

  UniqueFd listener_;
  std::string name_;
  UniqueFd stopped_, stop_;
  std::thread thread_;
};

absl::StatusOr<std::string> Data(const std::string& data) {
  if (data.empty() || data[0] != '@') return data;
  return ReadFile(data.substr(1), absl::StrCat("--data ", data));
}

absl::Status CurlError(CURLcode code, const std::string& function) {
  const std::string text = absl::StrCat("invoke function ", function, ": ", curl_easy_strerror(code));
  if (code == CURLE_OPERATION_TIMEDOUT)
    return absl::DeadlineExceededError(absl::StrCat(text, "; a larger --timeout may help, and moultctl ps tells whether the function runs"));
  if (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR)
    return absl::UnavailableError(text);
  if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_WEIRD_SERVER_REPLY)
    return absl::FailedPreconditionError(absl::StrCat(text, "; does the function speak HTTP/1.1?"));
  return absl::InternalError(text);
}

absl::StatusOr<Answer> Request(UniqueFd tunnel, const Arguments& arguments, const InvokeArguments& invoke) {
  const Handle curl(curl_easy_init(), curl_easy_cleanup);
  if (curl == nullptr) return absl::InternalError("invoke: curl_easy_init failed");
  MOULT_ASSIGN_OR_RETURN(const std::string data, Data(invoke.data));
  Answer answer;
  MOULT_ASSIGN_OR_RETURN(const std::unique_ptr<Relay> relay, Relay::Start(std::move(tunnel)));
  // The host's name is for the Host header alone; nothing is looked up.
  const std::string url = absl::StrCat("http://function", invoke.path[0] == '/' ? "" : "/", invoke.path);
  List headers(nullptr, curl_slist_free_all);
  for (const std::string& header : invoke.headers) {
    headers.reset(curl_slist_append(headers.release(), header.c_str()));
  }
  const auto set = [&](CURLoption option, auto value) { curl_easy_setopt(curl.get(), option, value); };
  set(CURLOPT_URL, url.c_str());
  set(CURLOPT_PROXY, "");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_HTTP09_ALLOWED, 0L);
  set(CURLOPT_ABSTRACT_UNIX_SOCKET, relay->name().c_str());
  set(CURLOPT_WRITEFUNCTION, Append);
  set(CURLOPT_WRITEDATA, &answer.body);
  set(CURLOPT_HEADERFUNCTION, Append);
  set(CURLOPT_HEADERDATA, &answer.headers);
  set(CURLOPT_HTTPHEADER, headers.get());
  set(CURLOPT_TIMEOUT_MS, invoke.timeout_ms);
  Progress progress("invoke");
  set(CURLOPT_XFERINFODATA, &progress);
  set(CURLOPT_XFERINFOFUNCTION, ShowProgress);
  set(CURLOPT_NOPROGRESS, 0L);
  if (!invoke.data.empty()) {
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(data.size()));
    set(CURLOPT_POSTFIELDS, data.c_str());
  }
  if (invoke.method == "HEAD") set(CURLOPT_NOBODY, 1L);
  if (!invoke.method.empty()) set(CURLOPT_CUSTOMREQUEST, invoke.method.c_str());
  const CURLcode code = curl_easy_perform(curl.get());
  if (code != CURLE_OK) return CurlError(code, arguments.function);
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &answer.status);
  return answer;
}

Json AsJson(const Answer& answer) {
  Json json{{"status", answer.status}};
  AddBytes(&json, "headers", answer.headers);
  AddBytes(&json, "body", answer.body);
  json["total_us"] = answer.total_us;
  return json;
}

}  // namespace

// The kernel would accept the connection, and nobody answer: unless a policy lets the function run for it, which only the
// VMM's control socket knows.
absl::Status CheckRuns(Backend& backend, uint64_t function) {
  MOULT_ASSIGN_OR_RETURN(const Json listed, backend.Call("ps", Json::object()));
  const auto is_it = [&](const Json& one, const char* key) { return Number(one, key) == function; };
  const Json& functions = Member(listed, "functions");
  const bool frozen = std::any_of(functions.begin(), functions.end(),
                                  [&](const Json& one) { return is_it(one, "id") && Text(one, "state") == "frozen"; });
  if (!frozen) return absl::OkStatus();
  const absl::StatusOr<Json> status = backend.Call("status", Json::object());
  const Json& policies = status.ok() ? Member(*status, "policies") : Json();
  if (std::any_of(policies.begin(), policies.end(), [&](const Json& one) { return is_it(one, "function"); })) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("invoke: function ", function, " is frozen; thaw it, or recall it if it is offloaded"));
}

int RunInvoke(Backend& backend, const Arguments& arguments, const InvokeArguments& invoke) {
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  if (const absl::Status runs = CheckRuns(backend, *id); !runs.ok()) return Fail(runs, arguments.json);
  absl::StatusOr<UniqueFd> tunnel = backend.Stream("invoke", {{"function", *id}});
  if (!tunnel.ok()) return Fail(tunnel.status(), arguments.json);
  absl::StatusOr<Answer> answer = Request(*std::move(tunnel), arguments, invoke);
  if (!answer.ok()) return Fail(answer.status(), arguments.json);
  answer->total_us = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start)
          .count());
  if (arguments.json) {
    Print(AsJson(*answer), "", true);
  } else {
    // The body may be an image; it goes out byte for byte.
    const std::string out = absl::StrCat(invoke.include ? answer->headers : "", answer->body);
    std::fwrite(out.data(), 1, out.size(), stdout);
  }
  return invoke.fail && answer->status >= 400 ? 1 : 0;
}

}  // namespace moult::ctl
