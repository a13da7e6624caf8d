// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <limits>

#include "commands.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "output.h"
#include "top.h"

namespace moult::ctl {
namespace {

using Clock = std::chrono::steady_clock;

int interrupted = -1;  // the end that the handler writes to

void Interrupted(int) {
  const int error = errno;
  [[maybe_unused]] const ssize_t put = write(interrupted, "", 1);
  errno = error;
}

// While it lives, the first SIGINT ends the wait, which is an end like any other. A second one ends the
// process, as it may when a VM does not answer.
class Interrupt {
 public:
  static absl::StatusOr<Interrupt> Catch() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoStatus("top: pipe");
    return Interrupt(UniqueFd(ends[0]), UniqueFd(ends[1]));
  }
  Interrupt(Interrupt&&) = default;
  Interrupt& operator=(Interrupt&&) = delete;
  ~Interrupt() {
    if (write_.valid()) sigaction(SIGINT, &before_, nullptr);
  }

  // Whether it came. Waits for it until then.
  bool WaitUntil(Clock::time_point end) const {
    for (;;) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
      pollfd wait{read_.get(), POLLIN, 0};
      const int ready =
          poll(&wait, 1, static_cast<int>(std::clamp<int64_t>(left, 0, std::numeric_limits<int>::max())));
      if (ready > 0) return true;
      if (ready == 0 && left <= 0) return false;
    }
  }

 private:
  Interrupt(UniqueFd read, UniqueFd write) : read_(std::move(read)), write_(std::move(write)) {
    interrupted = write_.get();
    struct sigaction action {};
    action.sa_handler = Interrupted;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &before_);
  }

  UniqueFd read_, write_;
  struct sigaction before_ {};
};

// Shows one round: over the one before on a terminal, below it elsewhere.
absl::Status Show(const std::vector<Load>& loads, bool json, bool first) {
  const bool redraw = !json && isatty(STDOUT_FILENO) == 1;
  winsize size{};
  const bool fits = redraw && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1;
  const size_t lines = fits ? size.ws_row - 1u : std::numeric_limits<size_t>::max();
  const char* between = redraw ? "\x1b[H\x1b[2J" : first || json ? "" : "\n";
  std::fputs(between, stdout);
  Print(TopJson(loads), TopText(loads, lines), json);
  if (std::fflush(stdout) != 0) return absl::InternalError("write the result to stdout");
  return absl::OkStatus();
}

// Looks at all of guest RAM, so it takes no more than a part of the time; between two looks the last one holds.
class PageLooks {
 public:
  explicit PageLooks(bool wanted) : wanted_(wanted) {}

  absl::Status AddTo(Backend& backend, std::vector<Load>* loads) {
    constexpr int kPart = 20;
    const Clock::time_point begin = Clock::now();
    if (wanted_ && begin >= next_) {
      const absl::StatusOr<Json> result = backend.Call("pages", Json::object());
      // An agent may have no ledger, or not be let have one, or not now. The rest is shown all the same.
      wanted_ = !absl::IsUnimplemented(result.status()) && !absl::IsPermissionDenied(result.status());
      absl::Status seen = result.status();
      if (seen.ok()) {
        auto ledger = ParseLedger(*result);
        seen = ledger.status();
        if (ledger.ok()) ledger_ = *std::move(ledger);
      }
      if (wanted_ && !seen.ok() && !std::exchange(told_, true))
        std::fprintf(stderr, "moultctl: note: top without pages: %s\n", Printable(std::string(seen.message())).c_str());
      next_ = Clock::now() + kPart * (Clock::now() - begin);
    }
    AddPages(ledger_, loads);
    return absl::OkStatus();
  }

 private:
  bool wanted_;
  bool told_ = false;  // that there was none now
  Clock::time_point next_{};
  Ledger ledger_;
};

absl::Status Watch(Backend& backend, const Arguments& arguments, const Interrupt& interrupt) {
  const auto every =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(arguments.interval));
  PageLooks looks(!arguments.no_pages);
  std::vector<Load> before;
  Clock::time_point then;
  for (uint64_t round = 0; arguments.count == 0 || round < arguments.count; ++round) {
    if (round > 0 && interrupt.WaitUntil(then + every)) break;
    MOULT_ASSIGN_OR_RETURN(const Json result, backend.Call("ps", Json::object()));
    const Clock::time_point now = Clock::now();
    MOULT_ASSIGN_OR_RETURN(std::vector<Load> loads, ParseLoads(result));
    loads = WithRates(before, std::move(loads), std::chrono::duration<double>(now - then).count());
    MOULT_RETURN_IF_ERROR(looks.AddTo(backend, &loads));
    MOULT_RETURN_IF_ERROR(Show(loads, arguments.json, round == 0));
    before = std::move(loads);
    then = now;
  }
  return absl::OkStatus();
}

}  // namespace

int RunTop(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Interrupt> interrupt = Interrupt::Catch();
  const absl::Status status = interrupt.ok() ? Watch(backend, arguments, *interrupt) : interrupt.status();
  return status.ok() ? 0 : Fail(status, arguments.json);
}

}  // namespace moult::ctl
