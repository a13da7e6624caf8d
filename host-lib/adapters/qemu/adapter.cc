// SPDX-License-Identifier: Apache-2.0
#include "adapter.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "control/listener.h"
#include "lost_page.h"
#include "moult/base/status.h"
#include "moult/pager.h"

namespace moult::qemu {
namespace {

constexpr std::chrono::seconds kDropWithin{10};
constexpr std::chrono::seconds kDescribeWithin{1};
// Between two threads that serve faults which are started in the stead of others; one that lives so long is well.
constexpr std::chrono::seconds kFirstPagerPause{1};
constexpr std::chrono::seconds kLongestPagerPause{8};
constexpr std::chrono::seconds kPagerLives{30};

Adapter& Self(void* user) { return *static_cast<Adapter*>(user); }

}  // namespace

Adapter::Adapter(Settings settings, absl::Status fault)
    : settings_(std::move(settings)), fault_(std::move(fault)), log_(settings_.log, settings_.debug) {}

void Adapter::Start() {
  if (fault_.ok()) fault_ = Prepare();
  if (!fault_.ok()) {
    log_.Write(0, absl::StrCat(fault_.message(), "; the VM runs without Moult"));
    if (settings_.control.empty()) return;
  }
  absl::StatusOr<UniqueFd> listener = control::Listen(settings_.control);
  if (!listener.ok()) return log_.Write(0, std::string(listener.status().message()));
  Serve(*std::move(listener));
}

absl::Status Adapter::Prepare() {
  MOULT_ASSIGN_OR_RETURN(api_, FindApi());
  MOULT_ASSIGN_OR_RETURN(version_, AskVersion(api_));
  MOULT_RETURN_IF_ERROR(FindMemory());
  MOULT_RETURN_IF_ERROR(FindAcceleration());
  return MakeVm();
}

absl::Status Adapter::FindMemory() {
  // A device that has pinned guest memory would go on using pages that the guest no longer has.
  if (api_.ram_block_discard_is_disabled()) {
    return absl::FailedPreconditionError(
        "a device of this VM forbids that guest memory is discarded (VFIO, for one); remove the device");
  }
  for (const std::string& id : settings_.ram) {
    MOULT_ASSIGN_OR_RETURN(Backend ram, FindRam(api_, id));
    ram_.push_back(std::move(ram));
  }
  for (const std::string& id : settings_.windows) {
    MOULT_ASSIGN_OR_RETURN(Backend window, FindWindow(api_, id));
    windows_.push_back(std::move(window));
  }
  ram_map_ = Locate(api_, ram_);
  if (ram_map_.empty()) {
    return absl::FailedPreconditionError(
        "the memory backends named by ram= are not the guest's RAM; add memory-backend=ID to -machine");
  }
  return absl::OkStatus();
}

absl::Status Adapter::FindAcceleration() {
  accelerator_ = api_.current_accel_name();
  tcg_ = accelerator_ == "tcg";
  if (!tcg_ || windows_.empty()) return absl::OkStatus();
  const absl::StatusOr<TbRange> range = TbRangeOf(api_, version_);
  if (!range.ok()) {
    log_.Write(1, absl::StrCat(range.status().message(), "; windows are not used"));
    windows_.clear();
    return absl::OkStatus();
  }
  tb_range_ = *range;
  return absl::OkStatus();
}

absl::Status Adapter::Transport(moult_transport* transport) const {
  *transport = {};
  transport->port = settings_.port;
  absl::string_view way = settings_.vsock;
  uint32_t cid = 0;
  if (absl::ConsumePrefix(&way, "uds:")) {
    transport->kind = MOULT_TRANSPORT_CONNECT;
  } else if (absl::ConsumePrefix(&way, "unix:")) {
    transport->kind = MOULT_TRANSPORT_UNIX;
  } else if (absl::ConsumePrefix(&way, "vsock:"), absl::SimpleAtoi(way, &cid)) {
    transport->kind = MOULT_TRANSPORT_VSOCK;
    transport->cid = cid;
    return absl::OkStatus();
  } else {
    return absl::InvalidArgumentError("MOULT_QEMU: vsock must be CID, uds:PATH or unix:PATH");
  }
  // The end of settings_.vsock, so it ends with its NUL.
  transport->path = way.data();
  return absl::OkStatus();
}

absl::Status Adapter::MakeVm() {
  const std::vector<moult_region> regions = Regions(ram_map_);
  const std::vector<moult_window> windows = Windows(windows_);
  moult_vm_options options = MOULT_INIT(options);
  MOULT_RETURN_IF_ERROR(Transport(&options.transport));
  if (!settings_.store.empty()) {
    moult_store_options store = MOULT_INIT(store);
    store.flags = MOULT_STORE_CREATE;
    if (moult_store_open(settings_.store.c_str(), &store, &store_) < 0) return control::LastError();
  }
  options.name = settings_.name.c_str();
  options.tenant = settings_.tenant.c_str();
  options.flags = settings_.cross_tenant ? MOULT_VM_CROSS_TENANT : 0;
  options.store = store_;
  options.regions = regions.data();
  options.region_count = regions.size();
  options.region_size = sizeof(moult_region);
  options.windows = windows.data();
  options.window_count = windows.size();
  options.window_size = sizeof(moult_window);
  options.user = this;
  options.pool = settings_.pool.empty() ? nullptr : settings_.pool.c_str();
  options.pool_bytes = settings_.pool_mib << 20;
  options.cache = settings_.cache == "none" ? nullptr : settings_.cache.c_str();
  options.cache_bytes = settings_.cache_mib << 20;
  options.prefetch_bytes_per_s = uint64_t{settings_.prefetch_mib} << 20;
  options.fault_timeout_ms = settings_.fault_ms;
  options.pool_key = settings_.pool_key.empty() ? nullptr : settings_.pool_key.c_str();
  options.page_lost = [](void* user, uint64_t function, uint64_t gpa, const char* why) {
    Self(user).PageLost(function, gpa, why);
  };
  options.work = [](void* user, moult_op* op) { Self(user).server_->Work(op); };
  options.log = [](void* user, int level, const char* text) { Self(user).log_.Write(level, text); };
  if (tcg_) {
    options.memory_changed = [](void* user, uint32_t window, uint64_t offset, uint64_t length) {
      Self(user).MemoryChanged(window, offset, length);
    };
  }
  if (moult_vm_create(&options, &vm_) < 0) return control::LastError();
  api_.qemu_register_reset(
      [](void* user) {
        Adapter& self = Self(user);
        if (self.server_ == nullptr) return;
        self.server_->Post([&self] {
          if (moult_vm_guest_reset(self.vm_) < 0)
            self.log_.Write(0, absl::StrCat("reset: ", moult_last_error()));
        });
      },
      this);
  return absl::OkStatus();
}

void Adapter::Serve(UniqueFd listener) {
  control::ServerOptions options;
  options.target = {.vm = vm_, .store = store_, .fault = fault_};
  options.describe = [this] { return Describe(); };
  options.log = [this](int level, const std::string& text) { log_.Write(level, text); };
  if (vm_ != nullptr && (!settings_.pool.empty() || !windows_.empty())) {
    // One alone is not lent to what may block.
    pagers_wanted_ = static_cast<int>(std::max(settings_.pager_threads, 2u));
    options.each_second = [this] { KeepPagers(); };
  }
  absl::StatusOr<std::unique_ptr<control::Server>> server =
      control::Server::Create(std::move(listener), std::move(options));
  if (!server.ok()) return log_.Write(0, std::string(server.status().message()));
  server_ = *std::move(server);
  absl::StatusOr<std::thread> thread = control::StartThread("moult", [this] {
    for (int i = 0; i < pagers_wanted_; ++i) {
      const absl::Status started = StartPager();
      if (started.ok()) continue;
      log_.Write(0, absl::StrCat(started.message(), "; ", i == 0 ? "nothing can be offloaded" : "the others serve faults"));
      break;
    }
    server_->Run();
    thread_ended_ = true;
  });
  if (!thread.ok()) {
    // Clients get an answer, if not the one that they want.
    unlink(settings_.control.c_str());
    server_.reset();
    return log_.Write(0, absl::StrCat(thread.status().message(), "; there is no control socket"));
  }
  thread_ = *std::move(thread);
  log_.Write(2, absl::StrCat("control socket ", settings_.control));
}

absl::Status Adapter::StartPager() {
  const std::lock_guard<std::mutex> lock(pagers_mutex_);
  if (exits_) return absl::CancelledError("QEMU ends");
  const auto tid = std::make_shared<std::atomic<pid_t>>(0);
  absl::StatusOr<std::thread> pager = control::StartThread("moult-pager", [this, tid] {
    *tid = gettid();
    if (moult_pager_run(vm_) < 0) log_.Write(0, absl::StrCat("pager: ", moult_last_error()));
  });
  if (!pager.ok()) return pager.status();
  pagers_.push_back({*std::move(pager), tid, std::chrono::steady_clock::now()});
  return absl::OkStatus();
}

// Those that are no more, however they ended. What a join waits for then is over. True: one of them has lived but for a moment.
bool Adapter::JoinEndedPagers() {
  const std::lock_guard<std::mutex> lock(pagers_mutex_);
  bool short_lived = false;
  std::erase_if(pagers_, [&](PagerThread& pager) {
    const pid_t tid = *pager.tid;
    if (tid == 0 || tgkill(getpid(), tid, 0) == 0 || errno != ESRCH) return false;
    pager.thread.join();
    short_lived |= std::chrono::steady_clock::now() < pager.begun + kPagerLives;
    return true;
  });
  return short_lived;
}

// In the stead of those that have ended by themselves, or that could not be started.
void Adapter::KeepPagers() {
  const auto now = std::chrono::steady_clock::now();
  if (now >= last_pager_ + kPagerLives) {
    pager_pause_ = kFirstPagerPause;
    pager_pauses_told_ = false;
  }
  if (JoinEndedPagers()) pager_pause_ = std::min(2 * pager_pause_, kLongestPagerPause);
  const bool missing = moult_pager_threads(vm_) < pagers_wanted_;
  // One that was started a moment ago may not be there yet.
  if (!std::exchange(pagers_missing_, missing) || !missing || now < next_pager_ || !StartPager().ok()) return;
  pagers_missing_ = false;
  last_pager_ = now;
  next_pager_ = now + pager_pause_;
  if (pager_pause_ == kFirstPagerPause) {
    log_.Write(1, "pager: another thread is started");
  } else if (!std::exchange(pager_pauses_told_, true)) {
    log_.Write(1, absl::StrCat("pager: threads that serve faults end again and again; another is started, from now on every ",
                               kLongestPagerPause.count(), " s at the latest, and no more is said of it"));
  }
}

void Adapter::PageLost(uint64_t function, uint64_t gpa, const std::string& why) {
  log_.Write(0, absl::StrCat("page 0x", absl::Hex(gpa), " of function ", function, " is lost (", why,
                             "); the function is ended"));
  server_->Post([this, function] { EndFunctionOfLostPage(vm_, function, &log_); });
}

void Adapter::MemoryChanged(uint32_t window, uint64_t offset, uint64_t length) {
  const bool done =
      main_loop_.Run([this, window, offset,
                      length] { DropTranslations(api_, tb_range_, windows_.at(window), offset, length); },
                     kDropWithin);
  if (done) return;
  // What runs from here on could run old code. There is no way to say so from a callback, so all is undone
  // before the agent's answer is looked at.
  server_->CancelAll("QEMU's main loop did not drop old translations of the window in time");
}

control::Json Adapter::Describe() {
  control::Json about{
      {"vmm", "qemu"}, {"vmm_version", version_.text()}, {"accel", accelerator_}, {"pid", getpid()}, {"pager_threads", pagers_wanted_ > 0 ? moult_pager_threads(vm_) : 0}};
  const auto place = [](const std::vector<Placed>& map) {
    control::Json list = control::Json::array();
    for (const Placed& part : map) {
      list.push_back({{"backend", part.backend->id},
                      {"gpa", part.gpa},
                      {"length", part.length},
                      {"offset", part.offset}});
    }
    return list;
  };
  about["ram"] = place(ram_map_);
  if (windows_.empty()) return about;
  const auto found = std::make_shared<std::vector<Placed>>();
  // `found` is the job's as well, since it may run after we have given up on it.
  if (main_loop_.Run([this, found] { *found = Locate(api_, windows_); }, kDescribeWithin))
    about["windows"] = place(*found);
  return about;
}

void Adapter::Exit() {
  if (server_ == nullptr) return;
  unlink(settings_.control.c_str());
  main_loop_.End();
  server_->Stop();
  // The guest is over: nothing needs to come back.
  if (pagers_wanted_ > 0 && moult_pager_stop(vm_) < 0)
    log_.Write(0, absl::StrCat("pager: ", moult_last_error()));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  const auto ended = [this] { return thread_ended_ && (pagers_wanted_ == 0 || moult_pager_threads(vm_) == 0); };
  while (!ended() && std::chrono::steady_clock::now() < deadline) usleep(1000);
  const std::lock_guard<std::mutex> lock(pagers_mutex_);
  exits_ = true;
  if (!ended()) {
    // One waits for a disk, or a pool, that does not answer. The process ends; the threads go with it.
    for (PagerThread& pager : pagers_) pager.thread.detach();
    return thread_.detach();
  }
  thread_.join();
  for (PagerThread& pager : pagers_) pager.thread.join();
  moult_vm_close(vm_);
}

}  // namespace moult::qemu
