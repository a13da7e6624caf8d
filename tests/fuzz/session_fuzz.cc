// SPDX-License-Identifier: Apache-2.0
//
// libmoult against a lying agent: an operation is started, and what the agent says is the fuzzer's. Whatever
// it is, the operation ends, at once since the agent hangs up; no memory but the guest's is touched; and no
// descriptor or template is left. Where pages are moved, each is afterwards what it was, or, where the agent says that
// the guest has no use for it any more, a page of zeros.
//
// The input: byte 0 the operation, byte 1 the way to the agent, then answers, each a length (one byte) and
// what Changed() takes; or, with a length of 253, the beginning of what is said on the next connection (on the ones after the
// last the same again); or, with one of 254, a data frame of the last answer: a length, and what Changed() takes to change
// good runs of pages; or, with one of 255, bytes as they are to the end.
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "../unit/protocol/sample_image.h"
#include "messages.h"
#include "moult/base/unique_fd.h"
#include "moult/moult.h"
#include "moult/pager.h"
#include "moult/pages.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/template_writer.h"

namespace {

namespace rpc = moult::rpc;
namespace fuzz = moult::fuzz;
using moult::UniqueFd;

constexpr uint64_t kRamBytes = 1 << 20;
constexpr uint64_t kWindowBytes = 2 << 20;
constexpr int kWaitMs = 5000;
constexpr int kDetachMs = 50;
constexpr uint32_t kAloneMs = 50;  // by the way on which one connection is all that there is
constexpr unsigned kOperations = 21;
constexpr unsigned kDetach = 7;
constexpr unsigned kAttach = 11;
constexpr unsigned kRepurpose = 13;
constexpr unsigned kOffload = 19;  // this and what follows need a pool
constexpr unsigned kSweep = 20;
constexpr int kPagers = 2;
constexpr int kMoveMs = 200;
constexpr size_t kNextConnection = 253;
constexpr size_t kDataFrame = 254;
constexpr size_t kRaw = 255;
constexpr char kReady[] = "ready";  // a template that is there

void Must(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::abort();
}

// What all inputs share: memory, a store in memory, a listening socket.
struct World {
  World() {
    ram_fd.Reset(memfd_create("ram", MFD_CLOEXEC));
    Must(ftruncate(ram_fd.get(), kRamBytes) == 0, "ftruncate");
    ram = Map(kRamBytes, MAP_SHARED, ram_fd.get());
    window = Map(kWindowBytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    folder = "/dev/shm/moult-fuzz-XXXXXX";
    Must(mkdtemp(folder.data()) != nullptr, "mkdtemp /dev/shm");
    std::atexit([] { std::filesystem::remove_all(folder); });
    moult_store_options options = MOULT_INIT(options);
    options.flags = MOULT_STORE_CREATE;
    Must(moult_store_open((folder + "/store").c_str(), &options, &store) == 0, "moult_store_open");
    MakeTemplate();
    pool = "file:" + folder;
    path = folder + "/agent";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    listener.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    Must(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0, "bind");
    Must(listen(listener.get(), 16) == 0, "listen");
  }
  void MakeTemplate() {
    namespace sample = moult::image::sample;
    auto writer = moult::image::TemplateWriter::Create(folder + "/dump");
    Must(writer.ok(), "TemplateWriter");
    std::vector<uint8_t> pages = sample::Pages();
    const iovec part = {pages.data(), pages.size()};
    Must((*writer)->AppendPages({&part, 1}).ok(), "AppendPages");
    Must((*writer)->Commit(sample::Image(), sample::Manifest()).ok(), "Commit");
    moult_import_options import = MOULT_INIT(import);
    import.function_json = R"({"name": "f", "argv": ["x"]})";
    Must(moult_store_import(store, kReady, (folder + "/dump").c_str(), &import) == 0, moult_last_error());
  }
  static void* Map(uint64_t size, int flags, int fd) {
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    Must(at != MAP_FAILED, "mmap");
    return at;
  }
  UniqueFd ram_fd, listener;
  void* ram = nullptr;
  void* window = nullptr;
  moult_store* store = nullptr;
  std::string path, pool;
  static inline std::string folder;
};

World& TheWorld() {
  static auto* world = new World;
  return *world;
}

std::string Frame(rpc::FrameKind kind, uint64_t id, const std::string& payload) {
  const auto header = rpc::EncodeHeader({kind, id, payload.size()});
  return std::string(header.data(), header.size()) + payload;
}

// All that the agent will ever say, on each connection: a good answer to Hello, then the input's answers to the
// calls that follow.
std::vector<std::string> Scripts(std::string_view input, const std::vector<std::string>& answers, const std::vector<std::string>& runs) {
  const std::string hello = Frame(rpc::FrameKind::kResponse, 1, fuzz::Responses()[1]);
  std::vector<std::string> scripts{hello};
  for (uint64_t id = 2; !input.empty(); ++id) {
    const size_t length = static_cast<uint8_t>(input[0]);
    input.remove_prefix(1);
    std::string& script = scripts.back();
    if (length == kRaw) {
      script.append(input);
      break;
    }
    if (length == kNextConnection) {
      scripts.push_back(hello);
      id = 1;
      continue;
    }
    if (length == kDataFrame) {
      const size_t changes = input.empty() ? 0 : static_cast<uint8_t>(input[0]);
      input.remove_prefix(std::min<size_t>(1, input.size()));
      --id;
      script += Frame(rpc::FrameKind::kData, id, fuzz::Changed(runs, input.substr(0, changes)));
      input.remove_prefix(std::min(changes, input.size()));
      continue;
    }
    script += Frame(rpc::FrameKind::kResponse, id, fuzz::Changed(answers, input.substr(0, length)));
    input.remove_prefix(std::min(length, input.size()));
  }
  return scripts;
}

struct Agent {
  std::vector<std::string> scripts;
  bool says_ok = false;  // to CONNECT
  std::vector<UniqueFd> ends;

  void Speak(UniqueFd fd) {
    const int large = 4 << 20;
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &large, sizeof(large));
    const std::string all = (says_ok ? "OK 5\n" : "") + scripts[std::min(ends.size(), scripts.size() - 1)];
    (void)!send(fd.get(), all.data(), all.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    shutdown(fd.get(), SHUT_WR);
    ends.push_back(std::move(fd));  // An end with unread requests resets the stream when it is closed.
  }
};

int Connect(void* user, uint32_t) {
  auto* agent = static_cast<Agent*>(user);
  if (agent->ends.size() >= 8) return -ECONNREFUSED;
  int pair[2];
  Must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
  const int pages = 4 << 20;  // Nobody reads them: what is copied fits.
  setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &pages, sizeof(pages));
  agent->Speak(UniqueFd(pair[1]));
  return pair[0];
}

moult_vm* MakeVm(Agent* agent, bool callback, bool memory, bool pool) {
  World& world = TheWorld();
  moult_region region{1ull << 32, world.ram, kRamBytes, 0, world.ram_fd.get(), 0};
  moult_window window{1ull << 40, world.window, kWindowBytes, 0, 0};
  moult_vm_options options = MOULT_INIT(options);
  options.store = world.store;
  options.transport.kind = callback ? MOULT_TRANSPORT_CALLBACK : MOULT_TRANSPORT_CONNECT;
  options.transport.connect = Connect;
  options.transport.user = agent;
  options.transport.path = world.path.c_str();
  options.regions = &region;
  options.region_count = memory ? 1 : 0;
  options.region_size = sizeof(region);
  options.windows = &window;
  options.window_count = memory ? 1 : 0;
  options.window_size = sizeof(window);
  if (pool) options.pool = world.pool.c_str();
  moult_vm* vm = nullptr;
  Must(moult_vm_create(&options, &vm) == 0, moult_last_error());
  return vm;
}

int Start(moult_vm* vm, unsigned which, uint32_t timeout_ms, moult_op** op) {
  moult_op_options options = MOULT_INIT(options);
  options.timeout_ms = timeout_ms;
  moult_logs_options logs = MOULT_INIT(logs);
  logs.function = 7;
  moult_capture_options capture = MOULT_INIT(capture);
  capture.function = 7;
  capture.name = "t";
  capture.end = which % 2;
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = kReady;
  attach.pages = which % kOperations == kAttach ? MOULT_PAGES_IN_PLACE : MOULT_PAGES_COPY;
  if (which % kOperations == kRepurpose) attach.pages = MOULT_PAGES_AUTO;
  moult_pages_options pages = MOULT_INIT(pages);
  pages.flags = MOULT_PAGES_JSON_RUNS;
  moult_offload_options offload = MOULT_INIT(offload);
  switch (which % kOperations) {
    case 0:
      return moult_vm_hello(vm, &options, op);
    case 1:
      return moult_vm_doctor(vm, &options, op);
    case 2:
      return moult_vm_list(vm, &options, op);
    case 3:
      return moult_vm_run(vm, R"({"name": "f", "argv": ["x"]})", &options, op);
    case 4:
      return moult_vm_freeze(vm, 7, &options, op);
    case 5:
    case 6:
      return moult_vm_capture(vm, &capture, &options, op);
    case kDetach:
      return moult_vm_detach(vm, 7, &options, op);
    case 8:
      return moult_vm_tunnel(vm, 7, &options, op);
    case 9:
      return moult_vm_logs(vm, &logs, &options, op);
    case 10:
      return moult_vm_forget(vm, 7, &options, op);
    case kAttach:
    case 12:
      return moult_vm_attach(vm, &attach, &options, op);
    case kRepurpose:
      return moult_vm_repurpose(vm, 7, &attach, &options, op);
    case 14:
    case 15:
      pages.function = which % 2 != 0 ? 7 : 0;
      return moult_vm_pages(vm, &pages, &options, op);
    case 16:
      return moult_vm_why(vm, 1ull << 32, nullptr, &options, op);
    case 17:
      return moult_vm_kill(vm, 7, &options, op);
    case kOffload:
    case kSweep:
      offload.function = 7;
      return moult_vm_offload(vm, &offload, &options, op);
    default:
      return moult_vm_thaw(vm, 7, &options, op);
  }
}

// Its result.
std::string Finish(moult_op* op) {
  if (moult_op_wait(op, kWaitMs) == -ETIME) std::abort();
  std::string result = moult_op_result_json(op);
  if (result[0] != '{') std::abort();
  const UniqueFd stream(moult_op_take_fd(op));
  moult_op_free(op);
  return result;
}

// Threads that serve faults.
class Pagers {
 public:
  explicit Pagers(moult_vm* vm) : vm_(vm) {
    for (int i = 0; i < kPagers; ++i) threads_.emplace_back([vm] { Must(moult_pager_run(vm) == 0, "moult_pager_run"); });
    while (moult_pager_threads(vm) < kPagers) std::this_thread::yield();
  }
  ~Pagers() {
    Must(moult_pager_stop(vm_) == 0, "moult_pager_stop");
    for (std::thread& thread : threads_) thread.join();
  }
  Pagers(const Pagers&) = delete;
  Pagers& operator=(const Pagers&) = delete;

 private:
  moult_vm* const vm_;
  std::vector<std::thread> threads_;
};

// An offload, and what brings the pages back; the results of all steps.
std::string MovePages(std::string_view input, unsigned which) {
  Agent agent{.scripts = Scripts(input, fuzz::MoveResponses(), fuzz::MoveRuns()), .says_ok = false, .ends = {}};
  std::string results;
  constexpr size_t kWords = kRamBytes / sizeof(uint64_t), kPageWords = 4096 / sizeof(uint64_t);
  auto* const ram = static_cast<volatile uint64_t*>(TheWorld().ram);
  for (size_t i = 0; i < kWords; ++i) ram[i] = i + 1;
  moult_vm* const vm = MakeVm(&agent, /*callback=*/true, /*memory=*/true, /*pool=*/true);
  bool zeros = which == kSweep;
  {
    const Pagers pagers(vm);
    moult_recall_options recall = MOULT_INIT(recall);
    recall.function = 7;
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = kWaitMs / 2;
    const std::function<int(moult_op**)> steps[] = {
        [&](moult_op** op) { return Start(vm, which, kWaitMs / 2, op); },
        [&](moult_op** op) { return which == kSweep ? moult_vm_list(vm, &options, op) : moult_vm_recall(vm, &recall, &options, op); },
        [&](moult_op** op) { return which == kSweep ? moult_vm_sweep(vm, &options, op) : moult_vm_list(vm, &options, op); },
        [&](moult_op** op) { return moult_vm_recall_all(vm, &options, op); }};
    for (const auto& start : steps) {
      moult_op* op = nullptr;
      if (start(&op) != 0) continue;
      // What has been frozen is to run again, for which the agent is looked for. With a new guest nothing of the old is kept.
      if (moult_op_wait(op, kMoveMs) == -ETIME) {
        Must(moult_vm_guest_reset(vm) == 0, "reset");
        zeros = true;
      }
      results += Finish(op);
    }
    for (size_t i = 0; i < kWords; ++i) {
      const size_t page = i / kPageWords * kPageWords;
      if (ram[i] != i + 1 && !(zeros && ram[i] == 0 && ram[page] == 0)) std::abort();
    }
  }
  moult_vm_close(vm);
  return results;
}

// Where what is well meant moves nothing, a fuzzer would look at nothing.
void MustMove() {
  const std::string one("\1\1\1\3\1\4\376\1\0\375\1\3", 12), all("\1\1\1\3\1\4\376\1\0\375\1\2\375\1\5\376\1\1", 18);
  const bool moved = MovePages(one, kOffload).find(R"("offloaded_bytes":655360,)") != std::string::npos;
  const bool swept = MovePages(all, kSweep).find(R"("swept":[7])") != std::string::npos;
  if (moved && swept) return;
  std::fprintf(stderr, "good answers do not move a page: offload %d, sweep %d\n", moved, swept);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view input(reinterpret_cast<const char*>(data + 2), size - 2);
  const bool callback = data[1] % 3 != 0;
  const unsigned which = data[0] % kOperations;
  if (which >= kOffload) {
    static const bool moves = (MustMove(), true);
    if (moves) (void)MovePages(input, which);
    return 0;
  }
  static const std::vector<std::string> runs{fuzz::PageRuns()};
  Agent agent{.scripts = Scripts(input, fuzz::Responses(), runs), .says_ok = false, .ends = {}};
  // The answer to CONNECT is good, or the input's.
  if (!callback && data[1] % 2 == 0) agent.scripts = {std::string(input)};
  agent.says_ok = !callback && data[1] % 2 != 0;
  moult_vm* vm = MakeVm(&agent, callback, data[1] % 5 != 0, /*pool=*/false);
  moult_op* op = nullptr;
  if (Start(vm, data[0], callback ? kWaitMs / 2 : kAloneMs, &op) != 0) {  // A detach needs memory.
    moult_vm_close(vm);
    return 0;
  }
  if (!callback) {
    Must(moult_vm_process(vm) >= 0, "moult_vm_process");
    UniqueFd fd(accept4(TheWorld().listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.valid()) agent.Speak(std::move(fd));
  }
  // Only a detach goes on when the agent has hung up: what it has discarded must be killed. A reset ends
  // that, too.
  if ((which == kDetach || which == kRepurpose) && moult_op_wait(op, kDetachMs) == -ETIME)
    Must(moult_vm_guest_reset(vm) == 0, "reset");
  (void)Finish(op);
  moult_vm_close(vm);
  // Other connections that were asked for and not taken.
  while (UniqueFd(accept(TheWorld().listener.get(), nullptr, nullptr)).valid()) continue;
  (void)!moult_store_remove(TheWorld().store, "t");
  return 0;
}
