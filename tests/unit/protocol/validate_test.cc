// SPDX-License-Identifier: Apache-2.0
//
// Each rule of ValidateImage and ValidateManifest: the sample breaks none; one change breaks exactly one.
#include "moult/protocol/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "sample_image.h"

namespace moult::image {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct ImageRule {
  const char* message;  // how the message starts
  std::function<void(ProcessImageT*)> damage;
};

ProcessT& P(ProcessImageT* image) { return *image->processes[0]; }
MemoryMapT& M(ProcessImageT* image) { return *P(image).memory; }
VmaT& V(ProcessImageT* image, size_t i) { return *M(image).vmas[i]; }
ThreadT& T(ProcessImageT* image, size_t i) { return *P(image).threads[i]; }
ResourceUnion& R(ProcessImageT* image, uint32_t i) { return image->open_files[i]->resource; }
using I = ProcessImageT*;

void ExpectEachIsRefused(const std::vector<ImageRule>& rules) {
  for (const ImageRule& rule : rules) {
    ProcessImageT image = sample::Image();
    rule.damage(&image);
    const absl::Status status = ValidateImage(image, sample::kPagesSize);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << rule.message;
    EXPECT_THAT(std::string(status.message()), StartsWith(rule.message));
  }
}

TEST(ValidateImage, Sample_Passes_WhenUntouched) {
  EXPECT_EQ(ValidateImage(sample::Image(), sample::kPagesSize), absl::OkStatus());
}

TEST(ValidateImage, Root_IsRefused_WhenARuleIsBroken) {
  ExpectEachIsRefused({
      {"image: processes: 0 elements; format 1 holds exactly one", [](I i) { i->processes.clear(); }},
      {"image: processes: 2 elements", [](I i) { i->processes.push_back(std::make_unique<ProcessT>()); }},
      {"image: processes[0]: missing", [](I i) { i->processes[0].reset(); }},
      {"image: monotonic_ns: -1 is negative", [](I i) { i->monotonic_ns = -1; }},
      {"image: notes: has a NUL byte", [](I i) { i->notes = {std::string(1, '\0')}; }},
      {"image: notes: 1025 elements", [](I i) { i->notes.resize(1025); }},
      {"image: files[1]: missing", [](I i) { i->files[1].reset(); }},
      {"image: files[0].path: not absolute: usr", [](I i) { i->files[0]->path = "usr"; }},
      {"image: files[0].path: has a NUL byte", [](I i) { i->files[0]->path = std::string("/a\0b", 4); }},
      {"image: files[0].path: 4097 bytes", [](I i) { i->files[0]->path.assign(4097, '/'); }},
      {"image: files[0].mode: 493 is no file's", [](I i) { i->files[0]->mode = 0755; }},
      {"image: files[0].digest: 31 bytes, not 32", [](I i) { i->files[0]->digest.resize(31); }},
      {"image: files[0].content: 3 is unknown", [](I i) { i->files[0]->content = FileContent(3); }},
      {"image: objects[0].kind: 3 is unknown", [](I i) { i->objects[0]->kind = ObjectKind(3); }},
      {"image: objects[0].size: 9223372036854775807 is over", [](I i) { i->objects[0]->size = INT64_MAX; }},
      {"image: objects[0]: has seals",
       [](I i) { i->objects[0]->kind = ObjectKind::UnlinkedFile, i->objects[0]->seals = 1; }},
      {"image: objects[0].memfd_flags: has MFD_CLOEXEC", [](I i) { i->objects[0]->memfd_flags = 1; }},
      {"image: objects[0].runs[0]: ends past 0x1000", [](I i) { i->objects[0]->size = 0x1000; }},
      {"image: objects[0].mode: 4096 has bits", [](I i) { i->objects[0]->mode = 010000; }},
      {"image: pipes[0].capacity: 4097 is no pipe's", [](I i) { i->pipes[0]->capacity = 4097; }},
      {"image: pipes[0].packets: 65537 bytes are over the capacity of 65536",
       [](I i) { i->pipes[0]->packets[0]->data.resize(65537); }},
      {"image: pipes[0].fifo: 0 is not a FIFO: /usr/bin/sample",
       [](I i) { i->pipes[0]->fifo = sample::kExe; }},
  });
}

TEST(ValidateImage, PrivateFiles_AreRefused_WhenARuleIsBroken) {
  const auto F = [](I i, size_t at) -> PrivateFileT& {
    sample::AddPrivateFiles(i);
    return *i->private_files[at];
  };
#define FILES "image: private_files"
  ExpectEachIsRefused({
      {FILES "[1].path: not absolute: ", [&](I i) { F(i, 1).path = ""; }},
      {FILES "[1].path: not a plain path: /tmp/../etc", [&](I i) { F(i, 1).path = "/tmp/../etc"; }},
      {FILES "[1].path: not a plain path: /tmp/", [&](I i) { F(i, 1).path = "/tmp/"; }},
      {FILES "[1].path: not a plain path: /tmp/.", [&](I i) { F(i, 1).path = "/tmp/."; }},
      {FILES "[1].path: has a NUL byte", [&](I i) { F(i, 1).path = std::string("/tmp/a\0b", 8); }},
      {FILES "[1].path: its folder is not listed before it: /etc/passwd", [&](I i) { F(i, 1).path = "/etc/passwd"; }},
      {FILES "[1].path: its folder is not listed before it: /dev/shm/a", [&](I i) { F(i, 1).path = "/dev/shm/a"; }},
      {FILES "[2].path: its folder is not listed before it: /tmp/folder/file", [&](I i) { F(i, 1).mode = S_IFIFO; }},
      {FILES "[4].path: is there twice: /tmp/folder", [&](I i) { F(i, 4).path = "/tmp/folder"; }},
      {FILES "[0].mode: 32768 is no folder's", [&](I i) { F(i, 0).mode = S_IFREG; }},
      {FILES "[1].mode: 8192 is not that of", [&](I i) { F(i, 1).mode = S_IFCHR; }},
      {FILES "[1].mode: 82368 is not that of", [&](I i) { F(i, 1).mode |= 0200000; }},
      {FILES "[1]: has content", [&](I i) { F(i, 1).size = 1; }},
      {FILES "[3]: has content", [&](I i) { F(i, 3).runs = {PageRun(0, kPageSize, 0)}; }},
      {FILES "[2].size: 9223372036854775807 is over", [&](I i) { F(i, 2).size = INT64_MAX; }},
      {FILES "[2].runs[0]: ends past 0x0", [&](I i) { F(i, 2).size = 0; }},
      {FILES "[2].path: 4096 bytes", [&](I i) { F(i, 2).path.assign(4096, 'x'), i->private_files[2]->path[0] = '/'; }},
      {FILES "[2].target: of what is no link", [&](I i) { F(i, 2).target = "x"; }},
      {FILES "[4].target: missing", [&](I i) { F(i, 4).target = ""; }},
      {FILES "[3].same_as: 3 is not an earlier", [&](I i) { F(i, 3).same_as = 3; }},
      {FILES "[3].same_as: 1 can have no such", [&](I i) { F(i, 3).same_as = 1; }},
      {FILES "[6].same_as: 3 can have no such",
       [&](I i) {
         F(i, 6).mode = S_IFREG;
         i->private_files[6]->same_as = 3;
       }},
      {FILES "[1]: missing", [&](I i) { F(i, 0), i->private_files[1].reset(); }},
  });
#undef FILES
  ExpectEachIsRefused({{"image: all runs together have more than the", [&](I i) {
                          PrivateFileT& file = F(i, 2);
                          file.size = sample::kPagesSize;
                          file.runs = {PageRun(0, sample::kPagesSize, 0)};
                        }}});
}

TEST(ValidateImage, Memory_IsRefused_WhenARuleIsBroken) {
#define MEMORY "image: processes[0].memory"
  ExpectEachIsRefused({
      {MEMORY ": missing", [](I i) { P(i).memory.reset(); }},
      {MEMORY ".exe: 4294967295 names nothing in files", [](I i) { M(i).exe = kNone; }},
      {MEMORY ".exe: 1 is not a regular file: /tmp", [](I i) { M(i).exe = sample::kFolder; }},
      {MEMORY ".brk: 0x4ff000 is below its start", [](I i) { M(i).brk = 0x4ff000; }},
      {MEMORY ".env_end: 0x8000000000000000 is above", [](I i) { M(i).env_end = 1ull << 63; }},
      {MEMORY ".auxv: 31 bytes are not", [](I i) { M(i).auxv.resize(31); }},
      {MEMORY ".vmas: empty", [](I i) { M(i).vmas.clear(); }},
      {MEMORY ".vmas[3]: missing", [](I i) { M(i).vmas[3].reset(); }},
      {MEMORY ".vmas[1].start: not page aligned: 0x500001", [](I i) { V(i, 1).start++; }},
      {MEMORY ".vmas[1].end: not page aligned: 0x580001", [](I i) { V(i, 1).end++; }},
      {MEMORY ".vmas[1]: 0x500000-0x500000 is empty", [](I i) { V(i, 1).end = V(i, 1).start; }},
      {MEMORY ".vmas[4].end: 0x7ffffffff000000 is above", [](I i) { V(i, 4).end = 0x7ffffffff000000; }},
      {MEMORY ".vmas[1]: 0x401000-0x580000 starts below 0x402000", [](I i) { V(i, 1).start = 0x401000; }},
      {MEMORY ".vmas[1].prot: 8 has unknown bits", [](I i) { V(i, 1).prot = 8; }},
      {MEMORY ".vmas[1].kind: 8 is unknown", [](I i) { V(i, 1).kind = VmaKind(8); }},
      {MEMORY ".vmas[1].locked: 3 is unknown", [](I i) { V(i, 1).locked = 3; }},
      {MEMORY ".vmas[1].name: 80 bytes", [](I i) { V(i, 1).name.assign(80, 'x'); }},
      {MEMORY ".vmas[1].file: 0, but the kind has none", [](I i) { V(i, 1).file = 0; }},
      {MEMORY ".vmas[1].object: 0, but the kind has none", [](I i) { V(i, 1).object = 0; }},
      {MEMORY ".vmas[0].file: 9 names nothing", [](I i) { V(i, 0).file = 9; }},
      {MEMORY ".vmas[0].file: 2 is not a regular file", [](I i) { V(i, 0).file = sample::kNull; }},
      {MEMORY ".vmas[0].offset: not page aligned: 5", [](I i) { V(i, 0).offset = 5; }},
      {MEMORY ".vmas[0].offset: 9223372036854771712 is over", [](I i) { V(i, 0).offset = INT64_MAX - 4095; }},
      {MEMORY ".vmas[2].object: 4294967295 names nothing in objects", [](I i) { V(i, 2).object = kNone; }},
      {MEMORY ".vmas[1].huge_page_size: 2097152, but huge_tlb",
       [](I i) { V(i, 1).huge_page_size = 1 << 21; }},
      {MEMORY ".vmas[1].huge_page_size: 4096 is not a huge",
       [](I i) { V(i, 1).huge_tlb = true, V(i, 1).huge_page_size = 4096; }},
      {MEMORY ".vmas[1]: 0x500000-0x580000 is not aligned",
       [](I i) { V(i, 1).huge_tlb = true, V(i, 1).huge_page_size = 1 << 21; }},
      {MEMORY ".vmas[1].guards[0]: not whole pages", [](I i) { V(i, 1).guards = {PageRun(0x500000, 1, 0)}; }},
      {MEMORY ".vmas[1].guards[0]: not inside", [](I i) { V(i, 1).guards = {PageRun(0x57f000, 0x2000, 0)}; }},
      {MEMORY ".vmas[4].kind: Vdso is there twice", [](I i) { V(i, 3).kind = VmaKind::Vdso; }},
      {MEMORY ".runs[0].start: not page aligned: 0x401001",
       [](I i) { M(i).runs[0] = PageRun(0x401001, 0x1000, 0); }},
      {MEMORY ".runs[0].length: 0 is not whole pages", [](I i) { M(i).runs[0] = PageRun(0x401000, 0, 0); }},
      {MEMORY ".runs[0].pages_offset: not page aligned: 8",
       [](I i) { M(i).runs[0] = PageRun(0x401000, 4096, 8); }},
      {MEMORY ".runs[0].pages_offset: 286720 + 4096 is past",
       [](I i) { M(i).runs[0] = PageRun(0x401000, 4096, 286720); }},
      {MEMORY ".runs[0].pages_offset: 18446744073709547520 + 4096 is past",
       [](I i) { M(i).runs[0] = PageRun(0x401000, 4096, ~4095ull); }},
      {MEMORY ".runs[0]: ends past 0x7ffffffff000",
       [](I i) { M(i).runs[0] = PageRun(0x401000, ~4095ull, 0); }},
      {MEMORY ".runs[1].start: 0x401000 is not rising",
       [](I i) { M(i).runs[1] = PageRun(0x401000, 4096, 0); }},
      {MEMORY ".runs[0]: 0x401000-0x403000 is not inside one vma",
       [](I i) { M(i).runs[0] = PageRun(0x401000, 8192, 0); }},
      {MEMORY ".runs[1]: 0x600000-0x601000 is in vmas[2], which",
       [](I i) { M(i).runs[1] = PageRun(0x600000, 4096, 0); }},
      {MEMORY ".runs[1]: 0x500000-0x540000 is in vmas[1], which", [](I i) { V(i, 1).droppable = true; }},
  });
#undef MEMORY
}

TEST(ValidateImage, Process_IsRefused_WhenARuleIsBroken) {
#define PROCESS "image: processes[0]"
  ExpectEachIsRefused({
      {PROCESS ".pid: 0 is out of range", [](I i) { P(i).pid = 0; }},
      {PROCESS ".session: -1 is out of range", [](I i) { P(i).session = -1; }},
      {PROCESS ".umask: 512 has bits", [](I i) { P(i).umask = 01000; }},
      {PROCESS ".oom_score_adj: 1001 is not", [](I i) { P(i).oom_score_adj = 1001; }},
      {PROCESS ".signal_actions: 63 elements, not 64", [](I i) { P(i).signal_actions.pop_back(); }},
      {PROCESS ".signal_actions[8].handler: signal 9 cannot",
       [](I i) { P(i).signal_actions[8] = SigAction(1, 0, 0, 0); }},
      {PROCESS ".pending[0].siginfo: 127 bytes, not 128", [](I i) { P(i).pending[0]->siginfo.resize(127); }},
      {PROCESS ".pending[0].siginfo: si_signo 65 is no", [](I i) { P(i).pending[0]->siginfo[0] = 65; }},
      {PROCESS ".limits: 15 elements, not 16", [](I i) { P(i).limits.pop_back(); }},
      {PROCESS ".limits[7]: soft is over hard", [](I i) { P(i).limits[7] = Limit(2, 1); }},
      {PROCESS ".cwd: 0 is not a folder: /usr/bin/sample", [](I i) { P(i).cwd = sample::kExe; }},
      {PROCESS ".root: 7 names nothing in files", [](I i) { P(i).root = 7; }},
      {PROCESS ".interval_timers: 2 elements, not 3", [](I i) { P(i).interval_timers.pop_back(); }},
      {PROCESS ".posix_timers[0].tid: 4244 is no thread", [](I i) { P(i).posix_timers[0]->tid = 4244; }},
      {PROCESS ".posix_timers[0].notify: 3 is unknown", [](I i) { P(i).posix_timers[0]->notify = 3; }},
      {PROCESS ".posix_timers: id 0 is there twice",
       [](I i) { P(i).posix_timers.push_back(std::make_unique<PosixTimerT>(*P(i).posix_timers[0])); }},
      {PROCESS ".seccomp_filters[0].program: 7 bytes",
       [](I i) { sample::Add(&P(i).seccomp_filters)->program.resize(7); }},
      {PROCESS ".threads: empty", [](I i) { P(i).threads.clear(); }},
      {PROCESS ".threads[0].tid: 4241 is not the pid, 4242", [](I i) { T(i, 0).tid = 4241; }},
      {PROCESS ".threads: tid 4242 is there twice", [](I i) { T(i, 1).tid = 4242; }},
      {PROCESS ".threads: 32769 elements", [](I i) { P(i).threads.resize(32769); }},
      {PROCESS ".threads[1].comm: 16 bytes", [](I i) { T(i, 1).comm.resize(16, 'x'); }},
      {PROCESS ".threads[1].comm: has a NUL byte", [](I i) { T(i, 1).comm = {0}; }},
      {PROCESS ".threads[1].regs: missing", [](I i) { T(i, 1).regs.reset(); }},
      {PROCESS ".threads[1].regs.cs: 0 is not a user segment",
       [](I i) { T(i, 1).regs = std::make_unique<GpRegs>(); }},
      {PROCESS ".threads[1].xsave: 575 bytes, not from 576 to 16384", [](I i) { T(i, 1).xsave.resize(575); }},
      {PROCESS ".threads[1].xsave: 16385 bytes", [](I i) { T(i, 1).xsave.resize(16385); }},
      {PROCESS ".threads[1].credentials: missing", [](I i) { T(i, 1).credentials.reset(); }},
      {PROCESS ".threads[1].credentials.uids: 3 elements, not 4",
       [](I i) { T(i, 1).credentials->uids.pop_back(); }},
      {PROCESS ".threads[1].credentials.cap_effective: has",
       [](I i) { T(i, 1).credentials->cap_effective = 1; }},
      {PROCESS ".threads[1].scheduling: missing", [](I i) { T(i, 1).scheduling.reset(); }},
      {PROCESS ".threads[1].scheduling.nice: 20 is not", [](I i) { T(i, 1).scheduling->nice = 20; }},
      {PROCESS ".threads[1].scheduling.priority: 0 does not fit policy 1",
       [](I i) { T(i, 1).scheduling->policy = 1; }},
      {PROCESS ".threads[1].scheduling.affinity: names no CPU",
       [](I i) { T(i, 1).scheduling->affinity_is_default = false; }},
      {PROCESS ".threads[1].seccomp: 0 filters do not fit mode 2", [](I i) { T(i, 1).seccomp_mode = 2; }},
      {PROCESS ".threads[1].seccomp: 0 names nothing in seccomp_filters",
       [](I i) { T(i, 1).seccomp_mode = 2, T(i, 1).seccomp = {0}; }},
      {PROCESS ".threads[1].sleep_remaining_ns: -2", [](I i) { T(i, 1).sleep_remaining_ns = -2; }},
      {PROCESS ".fds[1].number: 0 is not above", [](I i) { P(i).fds[1]->number = 0; }},
      {PROCESS ".fds[0].number: -1 is out of range", [](I i) { P(i).fds[0]->number = -1; }},
      {PROCESS ".fds[10].number: 1048576 is out of range", [](I i) { P(i).fds[10]->number = 1 << 20; }},
      {PROCESS ".fds[0].open_file: 4294967295 names nothing in open_files",
       [](I i) { P(i).fds[0]->open_file = kNone; }},
  });
#undef PROCESS
}

TEST(ValidateImage, OpenFiles_AreRefused_WhenARuleIsBroken) {
  using namespace sample;  // NOLINT: the indices of the sample's open files
#define FILES "image: open_files"
  ExpectEachIsRefused({
      {FILES "[0]: missing", [](I i) { i->open_files[0].reset(); }},
      {FILES "[0].resource: missing", [](I i) { R(i, 0).Reset(); }},
      {FILES "[0].owner_signal: 65 is no signal", [](I i) { i->open_files[0]->owner_signal = 65; }},
      {FILES "[0].locks[0]: is over the limit",
       [](I i) { Add(&i->open_files[0]->locks)->start = 1ull << 63; }},
      {FILES "[0].resource.file: 0 is not a device", [](I i) { R(i, kOpenNull).AsDevice()->file = kExe; }},
      {FILES "[1].resource.pipe: 1 names nothing in pipes",
       [](I i) { R(i, kPipeRead).AsPipeEnd()->pipe = 1; }},
      {FILES "[1].resource: is neither", [](I i) { R(i, kPipeRead).AsPipeEnd()->read_end = false; }},
      {FILES "[1].resource: is both ends", [](I i) { R(i, kPipeRead).AsPipeEnd()->write_end = true; }},
      {FILES "[3].resource.peer: 0 is not a unix socket", [](I i) { R(i, kUnixA).AsUnixSocket()->peer = 0; }},
      {FILES "[3].resource.peer: 99 names nothing", [](I i) { R(i, kUnixA).AsUnixSocket()->peer = 99; }},
      {FILES "[3].resource.peer: 3 is not connected back to 3",
       [](I i) { R(i, kUnixA).AsUnixSocket()->peer = kUnixA; }},
      {FILES "[3].resource.peer: 4 is not connected back to 3",
       [](I i) { R(i, kUnixB).AsUnixSocket()->peer = kNone; }},
      {FILES "[3].resource.peer: 4 is not a unix socket of the same type",
       [](I i) { R(i, kUnixA).AsUnixSocket()->type = SOCK_SEQPACKET; }},
      {FILES "[3].resource.state: Closed, but it has a peer",
       [](I i) { R(i, kUnixA).AsUnixSocket()->state = SocketState::Closed; }},
      {FILES "[3].resource.address: empty, but it listens",
       [](I i) { R(i, kUnixA).AsUnixSocket()->state = SocketState::Listening; }},
      {FILES "[3].resource.address: 109 bytes",
       [](I i) { R(i, kUnixA).AsUnixSocket()->address.resize(109); }},
      {FILES "[4].resource.queue[0].fds: 99 names nothing",
       [](I i) { R(i, kUnixB).AsUnixSocket()->queue[0]->fds = {99}; }},
      {FILES "[5].resource.items[0].open_file: 99 names nothing",
       [](I i) { R(i, kEpoll).AsEpoll()->items[0]->open_file = 99; }},
      {FILES "[5].resource.items[0].open_file: 5 is the epoll itself",
       [](I i) { R(i, kEpoll).AsEpoll()->items[0]->open_file = kEpoll; }},
      {FILES "[5].resource.items: fd 6 of open_files[6] is there twice",
       [](I i) {
         R(i, kEpoll).AsEpoll()->items.push_back(
             std::make_unique<EpollItemT>(*R(i, kEpoll).AsEpoll()->items[0]));
       }},
      {FILES "[6].resource.count: 18446744073709551615",
       [](I i) { R(i, kEventFd).AsEventFd()->count = UINT64_MAX; }},
      {FILES "[7].resource.clock: 4 has no timerfd", [](I i) { R(i, kTimerFd).AsTimerFd()->clock = 4; }},
      {FILES "[8].resource.watches[0].wd: 0 is not positive",
       [](I i) { R(i, kInotify).AsInotify()->watches[0]->wd = 0; }},
      {FILES "[8].resource.queued: record at byte 0 is cut off",
       [](I i) { R(i, kInotify).AsInotify()->queued[12] = 17; }},
      {FILES "[9].resource.object: 0 is not a Memfd",
       [](I i) { i->objects[0]->kind = ObjectKind::UnlinkedFile; }},
      {FILES "[10].resource.address: is not an address of family 2",
       [](I i) { R(i, kListen).AsInetSocket()->address[0] = 10; }},
      {FILES "[10].resource.address: is not an address",
       [](I i) { R(i, kListen).AsInetSocket()->address.resize(1); }},
      {FILES "[10].resource.options[0].value: 0 bytes",
       [](I i) { R(i, kListen).AsInetSocket()->options[0]->value.clear(); }},
  });
#undef FILES
}

TEST(ValidateImage, Epoll_IsRefused_WhenItNestsInARing) {
  ProcessImageT image = sample::Image();
  EpollT second;
  EpollItemT* back = sample::Add(&second.items);
  back->fd = 5;
  back->open_file = sample::kEpoll;
  R(&image, sample::kEpoll).AsEpoll()->items[0]->open_file = sample::AddOpenFile(&image, std::move(second));
  const absl::Status status = ValidateImage(image, sample::kPagesSize);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("epoll nests deeper than 5, or in a ring"));
}

ManifestT WholeManifest() {
  ManifestT manifest = sample::Manifest();
  manifest.format_version = kFormatVersion;
  manifest.image = std::make_unique<ContentDigestT>();
  manifest.image->sha256.assign(32, 0);
  manifest.pages = std::make_unique<ContentDigestT>();
  manifest.pages->size = kPageSize;
  manifest.pages->sha256.assign(32, 7);  // the root over one leaf is the leaf
  manifest.pages_chunk = kPagesChunk;
  manifest.pages_leaves.assign(32, 7);
  return manifest;
}

TEST(ValidateManifest, Manifest_IsRefused_WhenARuleIsBroken) {
  EXPECT_EQ(ValidateManifest(WholeManifest()), absl::OkStatus());
  using M = ManifestT*;
  const struct {
    const char* message;
    std::function<void(M)> damage;
  } rules[] = {
      {"manifest: format_version: 0, not 1 to 2", [](M m) { m->format_version = 0; }},
      {"manifest: format_version: 3, not 1 to 2", [](M m) { m->format_version = 3; }},
      {"manifest: requirements: missing", [](M m) { m->requirements.reset(); }},
      {"manifest: requirements.arch: empty", [](M m) { m->requirements->arch.clear(); }},
      {"manifest: requirements.page_size: 0 is not a power of two from 4096 to 65536", [](M m) { m->requirements->page_size = 0; }},
      {"manifest: requirements.page_size: 12288 is not", [](M m) { m->requirements->page_size = 12288; }},
      {"manifest: requirements.page_size: 131072 is not", [](M m) { m->requirements->page_size = 131072; }},
      {"manifest: requirements.vdso_digest: 0 bytes", [](M m) { m->requirements->vdso_digest.clear(); }},
      {"manifest: requirements.xsave_size: 1 is not", [](M m) { m->requirements->xsave_size = 1; }},
      {"manifest: image: missing", [](M m) { m->image.reset(); }},
      {"manifest: image.sha256: 31 bytes, not 32", [](M m) { m->image->sha256.resize(31); }},
      {"manifest: image.size: 536870913 is over", [](M m) { m->image->size = (512ull << 20) + 1; }},
      {"manifest: pages: size 1 is not whole pages", [](M m) { m->pages->size = 1; }},
      {"manifest: pages_chunk: 4096, not 262144", [](M m) { m->pages_chunk = 4096; }},
      {"manifest: pages_leaves: 32 bytes, not 32 for each of 2",
       [](M m) { m->pages->size = kPagesChunk + 4096; }},
      {"manifest: pages_leaves: do not add up", [](M m) { m->pages_leaves[0] = 8; }},
  };
  for (const auto& rule : rules) {
    ManifestT manifest = WholeManifest();
    rule.damage(&manifest);
    const absl::Status status = ValidateManifest(manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << rule.message;
    EXPECT_THAT(std::string(status.message()), StartsWith(rule.message));
  }
}

// It may be whole and yet fit no machine here: that is for who would run it to say.
TEST(ValidateManifest, Manifest_Passes_WhenItIsForAnotherPageSize) {
  for (const uint32_t size : {4096u, 16384u, 65536u}) {
    ManifestT manifest = WholeManifest();
    manifest.requirements->page_size = size;
    EXPECT_EQ(ValidateManifest(manifest), absl::OkStatus()) << size;
  }
}

TEST(ValidateMatch, Counts_AreRefused_WhenTheImageHasOthers) {
  const absl::Status status = ValidateMatch(WholeManifest(), sample::Image());
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(std::string(status.message()), "manifest: threads: 0, but the image has 2");
}

}  // namespace
}  // namespace moult::image
