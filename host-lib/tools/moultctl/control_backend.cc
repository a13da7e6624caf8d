// SPDX-License-Identifier: Apache-2.0
//
// A client of the control socket: one call at a time.
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "backend.h"
#include "moult/base/status.h"
#include "progress.h"

namespace moult::ctl {
namespace {

// The ledger of each single page of an 8 GiB guest fits.
constexpr size_t kMaxAnswer = 256u << 20;
// The server says something twice a second as long as a call goes on.
constexpr time_t kMostSilenceSeconds = 20;

class Control final : public Backend {
 public:
  Control(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) { LimitSilence(kMostSilenceSeconds); }

  absl::StatusOr<Json> Call(const std::string& method, const Json& params) override {
    MOULT_RETURN_IF_ERROR(Send(method, params));
    return Answer(method, /*at_once=*/false);
  }

  absl::StatusOr<UniqueFd> Stream(const std::string& method, const Json& params) override {
    MOULT_RETURN_IF_ERROR(Send(method, params));
    // What follows the answer is the stream's, so nothing may be read ahead.
    MOULT_RETURN_IF_ERROR(Answer(method, /*at_once=*/true).status());
    LimitSilence(0);  // A stream may be silent.
    return std::move(fd_);
  }

 private:
  // 0: without a limit.
  void LimitSilence(time_t seconds) {
    const timeval limit{seconds, 0};
    for (const int side : {SO_RCVTIMEO, SO_SNDTIMEO}) setsockopt(fd_.get(), SOL_SOCKET, side, &limit, sizeof(limit));
  }

  absl::Status Silent() const {
    return absl::UnavailableError(absl::StrCat("control socket ", path_, ": the VM's process has said nothing for ", kMostSilenceSeconds,
                                               " s; let it go on if it is stopped, end some of its clients if they are many, then try again"));
  }

  absl::Status Send(const std::string& method, const Json& params) {
    const std::string line = Json{{"id", ++id_}, {"method", method}, {"params", params}}.dump(
                                 -1, ' ', false, Json::error_handler_t::replace) +
                             "\n";
    for (size_t sent = 0; sent < line.size();) {
      const ssize_t put = send(fd_.get(), line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Silent();
      if (put < 0) return ErrnoStatus(absl::StrCat(method, ": send to control socket ", path_));
      sent += static_cast<size_t>(put);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Line(bool byte_by_byte) {
    std::array<char, 65536> chunk;
    size_t end, searched = 0;
    // A whole page ledger is one line of many megabytes: what was searched is not searched again.
    while ((end = in_.find('\n', searched)) == std::string::npos) {
      searched = in_.size();
      const ssize_t got = recv(fd_.get(), chunk.data(), byte_by_byte ? 1 : chunk.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Silent();
      if (got < 0) return ErrnoStatus(absl::StrCat("read from control socket ", path_));
      if (got == 0)
        return absl::UnavailableError(
            absl::StrCat("control socket ", path_, ": the VM's process closed the connection"));
      in_.append(chunk.data(), static_cast<size_t>(got));
      if (in_.size() > kMaxAnswer)
        return absl::DataLossError(absl::StrCat("control socket ", path_, ": an answer without end"));
    }
    std::string line = in_.substr(0, end);
    in_.erase(0, end + 1);
    return line;
  }

  absl::StatusOr<Json> Answer(const std::string& method, bool at_once) {
    Progress progress(method);
    for (;;) {
      MOULT_ASSIGN_OR_RETURN(const std::string line, Line(at_once));
      MOULT_ASSIGN_OR_RETURN(Json answer, control::ParseJson(line));
      if (!answer.is_object())
        return absl::DataLossError(absl::StrCat("control socket ", path_, ": ", line.substr(0, 80)));
      if (const auto told = answer.find("progress"); told != answer.end()) {
        progress.Tick();
      } else if (answer.contains("error")) {
        return control::ErrorFromJson(answer["error"]);
      } else {
        return answer["result"];
      }
    }
  }

  UniqueFd fd_;
  const std::string path_;
  std::string in_;
  int id_ = 0;
};

}  // namespace

std::unique_ptr<Backend> ControlBackend(UniqueFd connection, std::string path) {
  return std::make_unique<Control>(std::move(connection), std::move(path));
}

}  // namespace moult::ctl
