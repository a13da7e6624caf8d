// SPDX-License-Identifier: Apache-2.0
//
// A small image that has one of nearly everything and breaks no rule. Deterministic: the golden template is
// made of it.
#ifndef MOULT_TESTS_UNIT_PROTOCOL_SAMPLE_IMAGE_H_
#define MOULT_TESTS_UNIT_PROTOCOL_SAMPLE_IMAGE_H_

#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moult/protocol/limits.h"
#include "moult/protocol/schema.h"

namespace moult::image::sample {

inline constexpr uint64_t kPages = 70;  // two chunks, the second one short
inline constexpr uint64_t kPagesSize = kPages * kPageSize;

// Content of `pages`: no two pages alike, and small once compressed.
inline std::vector<uint8_t> Pages() {
  std::vector<uint8_t> pages(kPagesSize);
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<uint8_t>(i / kPageSize * 3 + i % 61);
  return pages;
}

template <typename T>
T* Add(std::vector<std::unique_ptr<T>>* list) {
  list->push_back(std::make_unique<T>());
  return list->back().get();
}

inline void AddFile(ProcessImageT* image, const char* path, uint32_t mode) {
  FileRefT* file = Add(&image->files);
  file->path = path;
  file->mode = mode;
  if (S_ISREG(mode)) file->digest.assign(32, 0x5a);
}

enum File : uint32_t { kExe, kFolder, kNull, kFifo };

inline void AddVma(MemoryMapT* memory, uint64_t start, uint64_t end, uint32_t prot, VmaKind kind) {
  VmaT* vma = Add(&memory->vmas);
  vma->start = start;
  vma->end = end;
  vma->prot = prot;
  vma->kind = kind;
}

inline std::unique_ptr<MemoryMapT> Memory() {
  auto memory = std::make_unique<MemoryMapT>();
  memory->start_code = 0x400000;
  memory->end_code = 0x401000;
  memory->start_brk = memory->brk = 0x500000;
  memory->start_stack = 0x7ffff0000800;
  memory->auxv.assign(32, 0);
  memory->exe = kExe;
  AddVma(memory.get(), 0x400000, 0x402000, 5, VmaKind::PrivateFile);
  memory->vmas[0]->file = kExe;
  AddVma(memory.get(), 0x500000, 0x580000, 3, VmaKind::Anonymous);
  AddVma(memory.get(), 0x600000, 0x602000, 3, VmaKind::SharedObject);
  memory->vmas[2]->object = 0;
  AddVma(memory.get(), 0x7ffff0000000, 0x7ffff0001000, 3, VmaKind::Anonymous);
  memory->vmas[3]->grows_down = true;
  AddVma(memory.get(), 0x7ffff7ff0000, 0x7ffff7ff2000, 5, VmaKind::Vdso);
  memory->runs = {PageRun(0x401000, 0x1000, 0), PageRun(0x500000, 0x40000, 0x1000),
                  PageRun(0x7ffff0000000, 0x1000, 0x41000)};
  return memory;
}

inline void AddThread(ProcessT* process, int32_t tid) {
  ThreadT* thread = Add(&process->threads);
  thread->tid = tid;
  thread->comm = {'s', 'a', 'm', 'p', 'l', 'e'};
  thread->regs = std::make_unique<GpRegs>(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ~0ull, 0x400100, 0x33,
                                          0x202, 0x7ffff0000800, 0x2b, 0, 0, 0, 0, 0, 0);
  thread->xsave.assign(832, 0);
  thread->credentials = std::make_unique<CredentialsT>();
  thread->credentials->uids.assign(4, 1000);
  thread->credentials->gids.assign(4, 1000);
  thread->scheduling = std::make_unique<SchedulingT>();
  thread->scheduling->affinity_is_default = true;
}

template <typename T>
uint32_t AddOpenFile(ProcessImageT* image, T resource) {
  Add(&image->open_files)->resource.Set(std::move(resource));
  return static_cast<uint32_t>(image->open_files.size() - 1);
}

enum Open : uint32_t {
  kOpenNull,
  kPipeRead,
  kPipeWrite,
  kUnixA,
  kUnixB,
  kEpoll,
  kEventFd,
  kTimerFd,
  kInotify,
  kMemfd,
  kListen
};

inline UnixSocketT UnixPair(uint32_t peer) {
  UnixSocketT socket;
  socket.type = SOCK_STREAM;
  socket.state = SocketState::Connected;
  socket.peer = peer;
  return socket;
}

inline void AddOpenFiles(ProcessImageT* image) {
  DeviceT null;
  null.file = kNull;
  AddOpenFile(image, std::move(null));
  PipeEndT read;
  read.read_end = true;
  AddOpenFile(image, std::move(read));
  PipeEndT write;
  write.write_end = true;
  AddOpenFile(image, std::move(write));
  AddOpenFile(image, UnixPair(kUnixB));
  UnixSocketT b = UnixPair(kUnixA);
  UnixMessageT* message = Add(&b.queue);
  message->data = {'h', 'i'};
  message->fds = {kEventFd};
  AddOpenFile(image, std::move(b));
  EpollT epoll;
  EpollItemT* item = Add(&epoll.items);
  item->fd = 6;
  item->open_file = kEventFd;
  item->events = 1;
  AddOpenFile(image, std::move(epoll));
  EventFdT event;
  event.count = 7;
  AddOpenFile(image, std::move(event));
  TimerFdT timer;
  timer.clock = 1;
  AddOpenFile(image, std::move(timer));
  InotifyT inotify;
  InotifyWatchT* watch = Add(&inotify.watches);
  watch->wd = 1;
  watch->file = kFolder;
  watch->mask = 2;
  inotify.queued.assign(32, 0);
  inotify.queued[12] = 16;
  AddOpenFile(image, std::move(inotify));
  MemfdFileT memfd;
  memfd.object = 0;
  AddOpenFile(image, std::move(memfd));
  InetSocketT listening;
  listening.family = AF_INET;
  listening.type = SOCK_STREAM;
  listening.state = SocketState::Listening;
  listening.address.assign(16, 0);
  listening.address[0] = AF_INET;
  SocketOptionT* option = Add(&listening.options);
  option->level = SOL_SOCKET;
  option->name = SO_REUSEADDR;
  option->value = {1, 0, 0, 0};
  AddOpenFile(image, std::move(listening));
}

inline ProcessImageT Image() {
  ProcessImageT image;
  image.monotonic_ns = 1000000000;
  image.boottime_ns = 1000000000;
  image.realtime_ns = 1700000000000000000;
  image.notes = {"a note with \"quotes\", a \\ and a tab\t"};
  AddFile(&image, "/usr/bin/sample", S_IFREG | 0755);
  AddFile(&image, "/tmp", S_IFDIR | 0755);
  AddFile(&image, "/dev/null", S_IFCHR | 0666);
  AddFile(&image, "/tmp/fifo", S_IFIFO | 0600);
  MemoryObjectT* memfd = Add(&image.objects);
  memfd->kind = ObjectKind::Memfd;
  memfd->name = "shared";
  memfd->size = 0x1800;
  memfd->runs = {PageRun(0x1000, 0x1000, 0x42000)};
  PipeBufferT* pipe = Add(&image.pipes);
  pipe->capacity = 65536;
  Add(&pipe->packets)->data = {1, 2, 3};
  AddOpenFiles(&image);

  ProcessT* process = Add(&image.processes);
  process->pid = process->process_group = process->session = 4242;
  process->memory = Memory();
  AddThread(process, 4242);
  AddThread(process, 4243);
  for (uint32_t i = 0; i < image.open_files.size(); ++i) {
    FdT* fd = Add(&process->fds);
    fd->number = static_cast<int32_t>(i);
    fd->open_file = i;
  }
  process->signal_actions.assign(64, SigAction());
  process->signal_actions[9] = SigAction(0x400200, 0, 0, 0);
  PendingSignalT* pending = Add(&process->pending);
  pending->siginfo.assign(128, 0);
  pending->siginfo[0] = 10;
  process->interval_timers.assign(3, IntervalTimer(0, 0));
  PosixTimerT* timer = Add(&process->posix_timers);
  timer->notify = 4;
  timer->signo = 34;
  timer->tid = 4243;
  process->cwd = kFolder;
  process->limits.assign(16, Limit(1024, 4096));
  return image;
}

inline void AddFd(ProcessImageT* image, uint32_t open_file) {
  FdT* fd = Add(&image->processes[0]->fds);
  fd->number = image->processes[0]->fds[image->processes[0]->fds.size() - 2]->number + 1;
  fd->close_on_exec = true;
  fd->open_file = open_file;
}

inline void AddMoreOpenFiles(ProcessImageT* image) {
  AddFile(image, "/var/log/sample", S_IFREG | 0644);
  const auto log = static_cast<uint32_t>(image->files.size() - 1);
  image->files[log]->size = 4096;
  image->files[log]->content = FileContent::AtLeast;
  MemoryObjectT* unlinked = Add(&image->objects);
  unlinked->kind = ObjectKind::UnlinkedFile;
  unlinked->name = "/tmp/gone";
  unlinked->size = 10;
  unlinked->mode = 0600;
  RegularFileT regular;
  regular.file = log;
  OpenFileT& file = *image->open_files[AddOpenFile(image, std::move(regular))];
  file.flags = 02001;  // O_WRONLY | O_APPEND
  file.position = 100;
  file.owner_type = 1;
  file.owner = 4242;
  file.owner_signal = 40;
  for (const LockKind kind : {LockKind::Posix, LockKind::Ofd, LockKind::Flock}) {
    FileLockT* lock = Add(&file.locks);
    lock->kind = kind;
    lock->write = kind != LockKind::Ofd;
    lock->start = kind == LockKind::Flock ? 0 : 10;
    lock->length = kind == LockKind::Posix ? 20 : 0;
  }
  UnlinkedRegularT nameless;
  nameless.object = static_cast<uint32_t>(image->objects.size() - 1);
  AddOpenFile(image, std::move(nameless));
  DirectoryT folder;
  folder.file = kFolder;
  AddOpenFile(image, std::move(folder));
  PathOnlyT path;
  path.file = kExe;
  AddOpenFile(image, std::move(path));
  SignalFdT signals;
  signals.mask = 0x4000;
  AddOpenFile(image, std::move(signals));
  InetSocketT udp;
  udp.family = AF_INET6;
  udp.type = SOCK_DGRAM;
  udp.protocol = 17;
  udp.state = SocketState::Bound;
  udp.address.assign(28, 0);
  udp.address[0] = AF_INET6;
  AddOpenFile(image, std::move(udp));
  UnixSocketT datagram;
  datagram.type = SOCK_DGRAM;
  datagram.state = SocketState::Bound;
  datagram.address = {0, 'n', 'a', 'm', 'e'};
  AddOpenFile(image, std::move(datagram));
}

inline PrivateFileT& AddPrivateFile(ProcessImageT* image, const std::string& path, uint32_t mode) {
  PrivateFileT* file = Add(&image->private_files);
  file->path = path;
  file->mode = mode;
  file->mtime_ns = 1700000000000000001;
  return *file;
}

// A folder each way, a file under two names, a link and a FIFO.
inline void AddPrivateFiles(ProcessImageT* image) {
  AddPrivateFile(image, "/tmp", S_IFDIR | 01777);
  AddPrivateFile(image, "/tmp/folder", S_IFDIR | 0700).uid = 1000;
  PrivateFileT& file = AddPrivateFile(image, "/tmp/folder/file", S_IFREG | 0640);
  file.gid = 1000;
  file.size = 4097;
  file.runs = {PageRun(0, kPageSize, 0)};
  AddPrivateFile(image, "/tmp/folder/other", S_IFREG | 0640).same_as = 2;
  AddPrivateFile(image, "/tmp/link", S_IFLNK | 0777).target = "folder/file";
  AddPrivateFile(image, "/dev/shm", S_IFDIR | 01777);
  AddPrivateFile(image, "/dev/shm/fifo", S_IFIFO | 0600);
}

// The same, and what it lacks.
inline ProcessImageT FullImage() {
  ProcessImageT image = Image();
  const auto first = static_cast<uint32_t>(image.open_files.size());
  AddMoreOpenFiles(&image);
  for (uint32_t i = first; i < image.open_files.size(); ++i) AddFd(&image, i);
  ProcessT& process = *image.processes[0];
  SeccompFilterT* filter = Add(&process.seccomp_filters);
  filter->program.assign(16, 6);
  filter->flags = 2;
  ThreadT& thread = *process.threads[1];
  thread.seccomp_mode = 2;
  thread.seccomp = {0};
  thread.altstack = std::make_unique<AltStack>(0x510000, 8192, 1u << 31);
  thread.robust_list = std::make_unique<RobustList>(0x500100, 24);
  thread.rseq = std::make_unique<Rseq>(0x500200, 32, 0x53053053, 0);
  thread.tid_address = 0x500300;
  thread.sleep_remaining_ns = 123456789;
  thread.parent_death_signal = 15;
  thread.keep_caps = true;
  thread.tsc_mode = 1;
  thread.scheduling->util_min = 100;
  thread.scheduling->util_max = 700;
  thread.scheduling->policy = 1;
  thread.scheduling->priority = 5;
  thread.credentials->groups = {1000, 1001};
  thread.credentials->cap_permitted = thread.credentials->cap_effective = 0x400;
  thread.credentials->no_new_privs = true;
  VmaT& heap = *process.memory->vmas[1];
  heap.guards = {PageRun(0x570000, 0x2000, 0)};
  heap.locked = 1;
  heap.advice = {14};
  heap.name = "sample heap";
  process.memory->lock_future = 2;
  process.memory->membarrier = 16;
  process.memory->coredump_filter = 0x33;
  process.umask = 022;
  process.personality = 0x40000;
  process.dumpable = 1;
  process.child_subreaper = true;
  process.oom_score_adj = 500;
  process.stopped = true;
  image.sandboxed = true;
  AddPrivateFiles(&image);
  return image;
}

inline ManifestT Manifest() {
  ManifestT manifest;
  manifest.tool_version = "0.1.0";
  manifest.name = "sample";
  manifest.created_realtime_ns = 1700000000000000000;
  manifest.boot_id = "00000000-0000-0000-0000-000000000000";
  manifest.requirements = std::make_unique<RequirementsT>();
  manifest.requirements->arch = "x86_64";
  manifest.requirements->page_size = 4096;
  manifest.requirements->kernel_release = "6.1.0-test";
  manifest.requirements->vdso_digest.assign(32, 0x11);
  manifest.requirements->vvar_pages = 4;
  manifest.requirements->xsave_features = 7;
  manifest.requirements->xsave_size = 832;
  manifest.requirements->cpu_flags = {"avx", "sse2"};
  for (auto* digest : {&manifest.image, &manifest.pages}) {
    *digest = std::make_unique<ContentDigestT>();
    (*digest)->sha256.assign(32, 0x22);
  }
  return manifest;
}

}  // namespace moult::image::sample

#endif  // MOULT_TESTS_UNIT_PROTOCOL_SAMPLE_IMAGE_H_
