// SPDX-License-Identifier: Apache-2.0
//
// libmoult inside one QEMU process. Threads:
//   QEMU's main loop   Start() and Exit(), reset handler, what is posted with MainLoop
//   "moult"            the control server; the vm belongs to it
//   "moult-disk"       disk work (control/worker.h)
//   "moult-pager"      faults on offloaded pages and on those of remote templates; several, only with a pool or a window
// None of ours takes a lock of QEMU's, and QEMU's main loop waits for none of ours but at exit, for a second.
#ifndef MOULT_ADAPTERS_QEMU_ADAPTER_H_
#define MOULT_ADAPTERS_QEMU_ADAPTER_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "control/server.h"
#include "log.h"
#include "main_loop.h"
#include "memory_map.h"
#include "qemu_api.h"
#include "settings.h"
#include "translations.h"

namespace moult::qemu {

class Adapter {
 public:
  // `fault`: what is wrong already; it is logged, and what the control socket answers.
  Adapter(Settings settings, absl::Status fault);

  // In the main loop's thread, once the machine is there. Never fails: what is wrong becomes the fault, and
  // the VM runs on without us.
  void Start();
  // QEMU is ending: removes the socket, stops the thread if it can be had in a second.
  void Exit();

 private:
  absl::Status Prepare();
  absl::Status FindMemory();
  absl::Status FindAcceleration();
  absl::Status MakeVm();
  absl::Status Transport(moult_transport* transport) const;
  void Serve(UniqueFd listener);
  absl::Status StartPager();
  bool JoinEndedPagers();
  void KeepPagers();
  void MemoryChanged(uint32_t window, uint64_t offset, uint64_t length);
  control::Json Describe();
  void PageLost(uint64_t function, uint64_t gpa, const std::string& why);

  const Settings settings_;
  absl::Status fault_;
  Log log_;
  Api api_{};
  Version version_;
  bool tcg_ = false;
  std::string accelerator_;
  TbRange tb_range_ = TbRange::kLastInclusive;
  std::vector<Backend> ram_;
  std::vector<Backend> windows_;
  std::vector<Placed> ram_map_;
  MainLoop main_loop_{api_};
  moult_store* store_ = nullptr;
  moult_vm* vm_ = nullptr;
  std::unique_ptr<control::Server> server_;
  std::thread thread_;
  int pagers_wanted_ = 0;
  bool pagers_missing_ = false;  // as it was a second ago
  bool pager_pauses_told_ = false;
  std::chrono::seconds pager_pause_{1};
  std::chrono::steady_clock::time_point last_pager_{}, next_pager_{};  // that was started in another's stead, may be started
  struct PagerThread {
    std::thread thread;
    std::shared_ptr<std::atomic<pid_t>> tid;  // 0: it has not begun
    std::chrono::steady_clock::time_point begun;
  };
  std::mutex pagers_mutex_;          // guards the two
  std::vector<PagerThread> pagers_;  // one that has ended by itself for a second at most
  bool exits_ = false;
  std::atomic<bool> thread_ended_ = false;
};

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_ADAPTER_H_
