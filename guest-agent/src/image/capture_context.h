// SPDX-License-Identifier: Apache-2.0
//
// What the capture halves of the resources share while one process is taken apart.
#ifndef MOULT_IMAGE_CAPTURE_CONTEXT_H_
#define MOULT_IMAGE_CAPTURE_CONTEXT_H_

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "image/before.h"
#include "image/page_sink.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/schema.h"
#include "proc/net_multicast.h"
#include "proc/stat.h"
#include "proc/status.h"
#include "ptrace/tracee.h"
#include "resource/thread/interrupted.h"

namespace moult::engine {

inline constexpr uint32_t kNone = 4294967295u;

// Files that the process needs by name. An entry's digest is filled in after the process runs again.
class FileTable {
 public:
  explicit FileTable(image::ProcessImageT& image) : image_(image) {}

  // Put before every path to reach it: empty, or /proc/PID/root for a process with mounts of its own.
  void set_root(std::string root) { root_ = std::move(root); }
  const std::string& root() const { return root_; }

  // The index of the file that `path` (in the process's mount namespace) names, which must be the one `st` describes:
  // a path that leads elsewhere by now (replaced, mounted over) is refused. `what` names the user in errors.
  absl::StatusOr<uint32_t> Add(const std::string& path, const struct stat& st, image::FileContent content,
                               const std::string& what);
  // Its content may be another when it is restored, whoever else uses the file; it only must not have shrunk.
  void AllowChange(uint32_t index) { changeable_.insert(index); }
  // Files in `folder` come with the template, content and all: they only must be there.
  void ComeAlong(absl::string_view folder);
  // When all are listed.
  void Finish();

 private:
  image::ProcessImageT& image_;
  std::set<uint32_t> changeable_;
  std::string root_;
  std::map<std::pair<uint64_t, uint64_t>, std::vector<uint32_t>> by_inode_;
};

// Content without a name, by inode.
class ObjectTable {
 public:
  explicit ObjectTable(image::ProcessImageT& image) : image_(image) {}
  // The index for the object that `fd` (a descriptor of ours) shows; `is_new` says that it was added just
  // now, with kind, size and ownership filled in and its content staged.
  absl::StatusOr<uint32_t> Add(int fd, image::ObjectKind kind, const std::string& name, PageSink& pages);

 private:
  image::ProcessImageT& image_;
  std::map<std::pair<uint64_t, uint64_t>, uint32_t> by_inode_;
};

// What an open file is, as its descriptor shows it.
struct FileIdentity {
  uint64_t dev;
  uint64_t ino;
  uint32_t mode;
  uint32_t flags;  // F_GETFL
};

// The ends of a pipe that the process has.
struct PipeEnds {
  uint32_t first_reader = kNone;  // open file index
  bool writer = false;
};

struct CaptureContext {
  CaptureContext(ptrace::Tracee& t, Before& b, PageSink& p, image::ProcessImageT& i, image::ProcessT& pr)
      : tracee(t), before(b), pages(p), image(i), process(pr), files(i), objects(i) {}

  ptrace::Tracee& tracee;
  Before& before;
  PageSink& pages;
  image::ProcessImageT& image;
  image::ProcessT& process;
  FileTable files;
  ObjectTable objects;
  std::vector<FileIdentity> open_files;  // by open file index
  std::vector<PipeEnds> pipe_ends;       // by pipe index
  proc::Status status;             // of the leader
  proc::Stat stat;                 // of the leader
  pid_t ns_pid = 0;                // the process's pid as it sees it
  std::map<pid_t, SleepKind> restarted_sleeps;  // by tid as we see it
  CancelledTimers cancelled_timers;
  // That anybody in its network namespace has joined; read when the first UDP socket is seen.
  std::optional<std::vector<proc::MulticastGroup>> multicast_groups;
  ptrace::RemotePtr scratch_hint;  // a hole in its address space

  pid_t pid() const { return tracee.pid(); }
  std::string ProcPath(absl::string_view name) const { return absl::StrCat("/proc/", pid(), "/", name); }
  void Note(std::string note) { image.notes.push_back(std::move(note)); }
  // For what may be true of each of many threads.
  void NoteOnce(std::string note) {
    if (std::find(image.notes.begin(), image.notes.end(), note) == image.notes.end()) Note(std::move(note));
  }
};

// A refusal: names the object and the remedy. The process's name is put before it by the caller.
absl::Status Refuse(absl::string_view object, absl::string_view remedy);

int64_t StatTimeNs(const struct timespec& time);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_CAPTURE_CONTEXT_H_
