// SPDX-License-Identifier: Apache-2.0
#include "raw.h"

#include <poll.h>

#include <algorithm>

#include "moult/base/status.h"

namespace moult::probe {

namespace rdma = host::rdma;

namespace {

constexpr size_t kTried = 4096;   // bytes of the reads by which it is found out how to wait
constexpr int kTries = 64;

}  // namespace

absl::StatusOr<Raw> Raw::Open(const Target& target, const std::string& name) {
  Raw raw;
  MOULT_ASSIGN_OR_RETURN(const auto uri, host::ParsePoolUri(target.uri));
  MOULT_ASSIGN_OR_RETURN(raw.connection_, rdma::Connection::Open(uri.nodes[0], target.key, target.deadline()));
  MOULT_ASSIGN_OR_RETURN(const rdma::Opened opened, raw.connection_->Ask<rdma::Opened>(rdma::Open{name}, target.deadline()));
  raw.remote_ = opened.region;
  raw.timeout_ = target.timeout;
  MOULT_ASSIGN_OR_RETURN(raw.memory_, rdma::Memory::Map(kUnderWay * kRead, "bare reads"));
  MOULT_ASSIGN_OR_RETURN(raw.region_, rdma::RegisterLocal(raw.connection_->queue().queue_pair()->pd, raw.memory_.bytes()));
  // A processor that only polls may keep from the work who has to do it: Soft-RoCE is kernel threads.
  for (int i = 0; raw.remote_.layout.pages >= kTried && i < 2; ++i) {
    raw.sleeps_ = i == 1;
    const auto start = rdma::Clock::now();
    for (int n = 0; n < kTries; ++n) MOULT_RETURN_IF_ERROR(raw.Read(0, kTried, kTried));
    (i == 0 ? raw.polled_ : raw.slept_) = rdma::Clock::now() - start;
  }
  raw.sleeps_ = raw.slept_ < raw.polled_;
  return raw;
}

absl::Status Raw::Sleep(rdma::Clock::time_point deadline) {
  ibv_comp_channel* const channel = connection_->queue().queue_pair()->send_cq->channel;
  pollfd ready{channel->fd, POLLIN, 0};
  if (poll(&ready, 1, rdma::MillisecondsTo(deadline)) < 0 && errno != EINTR) return ErrnoStatus("poll");
  MOULT_ASSIGN_OR_RETURN(const rdma::Api* api, rdma::LoadApi());
  ibv_cq* of = nullptr;
  void* context = nullptr;
  if (api->get_cq_event(channel, &of, &context) == 0) api->ack_cq_events(of, 1);
  return absl::OkStatus();
}

absl::Status Raw::Read(uint64_t offset, uint64_t size, size_t step) {
  // A queue pair whose other end is gone may try for ever.
  const auto deadline = rdma::Clock::now() + timeout_;
  uint64_t posted = 0, done = 0;
  uint32_t under_way = 0;
  bool armed = false;
  while (done < size) {
    for (; posted < size && under_way < kUnderWay; ++under_way) {
      const size_t part = std::min<uint64_t>(step, size - posted);
      const auto slot = static_cast<uint32_t>(posted / step % kUnderWay);
      MOULT_RETURN_IF_ERROR(connection_->queue().Post(IBV_WR_RDMA_READ, slot, memory().subspan(slot * kRead, part),
                                                      region_->lkey, remote_.address + offset + posted, remote_.key));
      posted += part;
    }
    ibv_cq* const queue = connection_->queue().queue_pair()->send_cq;
    ibv_wc completion{};
    const int got = ibv_poll_cq(queue, 1, &completion);
    if (got == 0) {
      if (rdma::Clock::now() >= deadline) return absl::DeadlineExceededError("a bare read was not done in time");
      if (!sleeps_) continue;
      if (armed) MOULT_RETURN_IF_ERROR(Sleep(deadline));
      // What came before this raises no event: once more around.
      armed = !armed;
      if (armed && ibv_req_notify_cq(queue, 0) != 0) {
        return absl::InternalError("a bare read: completions cannot be asked for");
      }
      continue;
    }
    armed = false;
    if (got < 0 || completion.status != IBV_WC_SUCCESS) return absl::UnavailableError("a bare read failed");
    done += completion.byte_len != 0 ? completion.byte_len : step;
    --under_way;
  }
  return absl::OkStatus();
}

}  // namespace moult::probe
