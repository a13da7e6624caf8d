// SPDX-License-Identifier: Apache-2.0
#include "resource/fd/kinds.h"

#include "resource/epoll/epoll.h"
#include "resource/eventfd/eventfd.h"
#include "resource/file/file.h"
#include "resource/inet_socket/inet_socket.h"
#include "resource/inotify/inotify.h"
#include "resource/memfd/memfd.h"
#include "resource/pipe/pipe.h"
#include "resource/signalfd/signalfd.h"
#include "resource/timerfd/timerfd.h"
#include "resource/unix_socket/unix_socket.h"

namespace moult::engine {

absl::Span<const FdKind> FdKinds() {
  using R = image::Resource;
  // In order of matching: an O_PATH descriptor of a pipe is no pipe end.
  static constexpr FdKind kKinds[] = {
      {"O_PATH", R::PathOnly, MatchesPathOnly, CapturePathOnly, RestorePathOnly, nullptr},
      {"memfd", R::MemfdFile, MatchesMemfd, CaptureMemfd, RestoreMemfd, nullptr},
      {"unlinked file", R::UnlinkedRegular, MatchesUnlinked, CaptureUnlinked, RestoreUnlinked, nullptr},
      {"file", R::RegularFile, MatchesRegularFile, CaptureRegularFile, RestoreRegularFile, nullptr},
      {"directory", R::Directory, MatchesDirectory, CaptureDirectory, RestoreDirectory, nullptr},
      {"device", R::Device, MatchesDevice, CaptureDevice, RestoreDevice, nullptr},
      {"pipe", R::PipeEnd, MatchesPipe, CapturePipe, RestorePipe, nullptr},
      {"eventfd", R::EventFd, MatchesEventFd, CaptureEventFd, RestoreEventFd, nullptr},
      {"timerfd", R::TimerFd, MatchesTimerFd, CaptureTimerFd, RestoreTimerFd, nullptr},
      {"signalfd", R::SignalFd, MatchesSignalFd, CaptureSignalFd, RestoreSignalFd, nullptr},
      {"epoll", R::Epoll, MatchesEpoll, CaptureEpoll, RestoreEpoll, FinishEpoll},
      {"inotify", R::Inotify, MatchesInotify, CaptureInotify, RestoreInotify, nullptr},
      {"unix socket", R::UnixSocket, MatchesUnixSocket, CaptureUnixSocket, RestoreUnixSocket, nullptr},
      {"inet socket", R::InetSocket, MatchesInetSocket, CaptureInetSocket, RestoreInetSocket, nullptr},
  };
  return kKinds;
}

}  // namespace moult::engine
