// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>

#include <algorithm>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pool/rdma/verbs.h"

namespace moult::host::rdma {
namespace {

// Kinds of work, in the upper half of a work request's id.
constexpr uint64_t kWork = 0, kReceived = 1, kSent = 2;
constexpr uint64_t IdOfWork(uint64_t kind, uint64_t number) { return kind << 32 | number; }

// A device answers in microseconds, and to be woken costs about as many.
constexpr auto kSpin = std::chrono::microseconds(20);

// SAFETY: as a number alone, for the device to find memory by that the region covers.
uint64_t AddressOf(absl::Span<const std::byte> bytes) { return reinterpret_cast<uint64_t>(bytes.data()); }

}  // namespace

absl::StatusOr<std::unique_ptr<Queue>> Queue::Create(ibv_context* device, ibv_pd* domain) {
  MOULT_ASSIGN_OR_RETURN(const Api* api, LoadApi());
  std::unique_ptr<Queue> queue(new Queue(api));
  MOULT_ASSIGN_OR_RETURN(queue->buffer_, Memory::Map((kReceives + 1) * kMaxMessage, "messages"));
  MOULT_ASSIGN_OR_RETURN(queue->buffer_region_, RegisterLocal(domain, queue->buffer_.bytes()));
  queue->channel_.reset(api->create_comp_channel(device));
  if (queue->channel_ == nullptr) return ErrnoStatus("rdma: create a completion channel");
  if (fcntl(queue->channel_->fd, F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("rdma: fcntl a completion channel");
  const int entries = static_cast<int>(kReceives + kMaxWork + 1);
  queue->completions_.reset(api->create_cq(device, entries, nullptr, queue->channel_.get(), 0));
  if (queue->completions_ == nullptr) return ErrnoStatus("rdma: create a completion queue");
  return queue;
}

Queue::~Queue() {
  if (events_ != 0) api_->ack_cq_events(completions_.get(), events_);  // Else its end waits for that.
}

ibv_qp_init_attr Queue::attributes() const {
  ibv_qp_init_attr attributes{};
  attributes.send_cq = attributes.recv_cq = completions_.get();
  attributes.cap.max_send_wr = kMaxWork + 1;
  attributes.cap.max_recv_wr = kReceives;
  attributes.cap.max_send_sge = attributes.cap.max_recv_sge = 1;
  attributes.qp_type = IBV_QPT_RC;
  attributes.sq_sig_all = 1;
  return attributes;
}

absl::Span<std::byte> Queue::Slot(unsigned slot) const { return buffer_.bytes().subspan(slot * kMaxMessage, kMaxMessage); }

absl::Status Queue::PostReceive(unsigned slot) {
  ibv_sge piece{AddressOf(Slot(slot)), kMaxMessage, buffer_region_->lkey};
  ibv_recv_wr work{};
  work.wr_id = IdOfWork(kReceived, slot);
  work.sg_list = &piece;
  work.num_sge = 1;
  ibv_recv_wr* bad = nullptr;
  const int error = ibv_post_recv(queue_pair_, &work, &bad);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "rdma: post a receive");
}

absl::Status Queue::Attach(ibv_qp* queue_pair) {
  queue_pair_ = queue_pair;
  for (unsigned slot = 0; slot < kReceives; ++slot) MOULT_RETURN_IF_ERROR(PostReceive(slot));
  return absl::OkStatus();
}

absl::Status Queue::Send(std::string_view message, Clock::time_point deadline) {
  MOULT_RETURN_IF_ERROR(Flush(deadline));
  MOULT_RETURN_IF_ERROR(broken_);
  const absl::Span<std::byte> slot = Slot(kReceives);
  if (message.size() > slot.size()) return absl::InternalError("rdma: a message is too long to send");
  std::memcpy(slot.data(), message.data(), message.size());
  ibv_sge piece{AddressOf(slot), static_cast<uint32_t>(message.size()), buffer_region_->lkey};
  ibv_send_wr work{};
  work.wr_id = IdOfWork(kSent, 0);
  work.sg_list = &piece;
  work.num_sge = 1;
  work.opcode = IBV_WR_SEND;
  MOULT_RETURN_IF_ERROR(PostWork(work));
  sending_ = true;
  return absl::OkStatus();
}

absl::Status Queue::Flush(Clock::time_point deadline) {
  while (sending_) MOULT_RETURN_IF_ERROR(Pump(deadline));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Queue::Receive(Clock::time_point deadline, int stop) {
  while (received_.empty()) MOULT_RETURN_IF_ERROR(Pump(deadline, stop));
  std::string message = std::move(received_.front());
  received_.pop_front();
  return message;
}

absl::Status Queue::Post(ibv_wr_opcode operation, uint32_t id, absl::Span<std::byte> local, uint32_t local_key,
                         uint64_t remote, uint32_t remote_key) {
  ibv_sge piece{AddressOf(local), static_cast<uint32_t>(local.size()), local_key};
  ibv_send_wr work{};
  work.wr_id = IdOfWork(kWork, id);
  work.sg_list = &piece;
  work.num_sge = 1;
  work.opcode = operation;
  work.wr.rdma.remote_addr = remote;
  work.wr.rdma.rkey = remote_key;
  return PostWork(work);
}

absl::Status Queue::PostWork(ibv_send_wr work) {
  ibv_send_wr* bad = nullptr;
  const int error = ibv_post_send(queue_pair_, &work, &bad);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "rdma: post work");
}

absl::Status Queue::Probe(Clock::time_point deadline) {
  ibv_send_wr work{};
  work.wr_id = IdOfWork(kWork, 0);
  work.opcode = IBV_WR_RDMA_WRITE;  // Of no bytes: no key is looked at, and it is acknowledged all the same.
  MOULT_RETURN_IF_ERROR(PostWork(work));
  MOULT_ASSIGN_OR_RETURN(const Done done, Completion(deadline));
  if (done.status == IBV_WC_SUCCESS) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("rdma: the other side is gone: ", api_->wc_status_str(done.status)));
}

absl::StatusOr<Queue::Done> Queue::Completion(Clock::time_point deadline, int stop) {
  while (done_.empty()) MOULT_RETURN_IF_ERROR(Pump(deadline, stop));
  const Done done = done_.front();
  done_.pop_front();
  return done;
}

absl::Status Queue::Pump(Clock::time_point deadline, int stop) {
  MOULT_RETURN_IF_ERROR(broken_);
  MOULT_ASSIGN_OR_RETURN(const ibv_wc completion, Next(deadline, stop));
  const uint64_t kind = completion.wr_id >> 32;
  const auto number = static_cast<uint32_t>(completion.wr_id);
  if (kind == kWork) {
    done_.push_back({number, completion.status});
    return absl::OkStatus();
  }
  if (completion.status != IBV_WC_SUCCESS) {
    broken_ = absl::UnavailableError(absl::StrCat("rdma: the connection ended: ", api_->wc_status_str(completion.status)));
    return broken_;
  }
  if (kind == kSent) {
    sending_ = false;
    return absl::OkStatus();
  }
  if (received_.size() >= kReceives) {
    return broken_ = absl::InvalidArgumentError("rdma: the other side sends more than it was asked for");
  }
  const absl::Span<std::byte> slot = Slot(number);
  // SAFETY: bytes as bytes; the device says how many of the slot's it has written.
  received_.emplace_back(reinterpret_cast<const char*>(slot.data()), std::min<size_t>(completion.byte_len, slot.size()));
  return PostReceive(number);
}

absl::StatusOr<ibv_wc> Queue::Next(Clock::time_point deadline, int stop) {
  const auto spin_until = std::min(deadline, Clock::now() + kSpin);
  bool armed = false;
  for (;;) {
    ibv_wc completion{};
    const int got = ibv_poll_cq(completions_.get(), 1, &completion);
    if (got < 0) return absl::InternalError("rdma: polling a completion queue failed");
    if (got == 1) return completion;
    if (!armed && Clock::now() < spin_until) continue;
    if (!armed) {
      // What came before this raises no event: hence once more around.
      const int error = ibv_req_notify_cq(completions_.get(), 0);
      if (error != 0) return ErrnoStatus(error, "rdma: ask for completions");
      armed = true;
      continue;
    }
    MOULT_RETURN_IF_ERROR(Sleep(deadline, stop));
    armed = false;
  }
}

absl::Status Queue::Sleep(Clock::time_point deadline, int stop) {
  pollfd waits[] = {{channel_->fd, POLLIN, 0}, {stop, POLLIN, 0}};  // poll(2) ignores -1
  const int timeout = deadline == Clock::time_point::max() ? -1 : MillisecondsTo(deadline);
  const int ready = poll(waits, 2, timeout);
  if (ready < 0 && errno != EINTR) return ErrnoStatus("rdma: poll");
  if (ready == 0) return absl::DeadlineExceededError("rdma: no answer in time");
  // What has come counts for more than that nothing comes any more.
  if (ready > 0 && waits[0].revents == 0 && waits[1].revents != 0) return absl::CancelledError("rdma: stopped");
  ibv_cq* of = nullptr;
  void* context = nullptr;
  if (api_->get_cq_event(channel_.get(), &of, &context) == 0) ++events_;  // Else there was none: it does not block.
  return absl::OkStatus();
}

}  // namespace moult::host::rdma
