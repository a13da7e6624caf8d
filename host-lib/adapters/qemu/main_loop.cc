// SPDX-License-Identifier: Apache-2.0
#include "main_loop.h"

namespace moult::qemu {

struct MainLoop::Job {
  MainLoop* loop;
  std::function<void()> work;
  bool done = false;  // under loop->mutex_
};

bool MainLoop::Run(std::function<void()> work, std::chrono::milliseconds longest) {
  const auto job = std::make_shared<Job>(Job{.loop = this, .work = std::move(work)});
  const auto call = [](void* opaque) {
    const std::unique_ptr<std::shared_ptr<Job>> owned(static_cast<std::shared_ptr<Job>*>(opaque));
    Job& running = **owned;
    running.work();
    std::lock_guard lock(running.loop->mutex_);
    running.done = true;
    running.loop->changed_.notify_all();
  };
  api_.aio_bh_schedule_oneshot_full(api_.qemu_get_aio_context(), call, new std::shared_ptr<Job>(job),
                                    "moult");
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, longest, [&] { return job->done || ended_; });
  return job->done;
}

void MainLoop::End() {
  std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

}  // namespace moult::qemu
