// SPDX-License-Identifier: Apache-2.0
//
// A fault of an offloaded page, and one of a template, each beside what it cannot do without: a bare READ and a bare
// UFFDIO_COPY. Subject and peer take turns fault by fault, so that both see the same machine.
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <semaphore>
#include <thread>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "medians.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pager/pager.h"
#include "pool/rdma/lent_pages.h"
#include "probe.h"
#include "raw.h"
#include "remote/remote_pager.h"
#include "remote/remote_store.h"

namespace moult::probe {
namespace {

using Clock = host::RemoteTemplate::Clock;

constexpr uint64_t kOwner = 1;
constexpr uint64_t kOffloaded = 512;  // pages, in each round

double Micros(Clock::duration time) { return std::chrono::duration<double, std::micro>(time).count(); }

// Memory of a memfd, as a guest's RAM is.
class Ram {
 public:
  static absl::StatusOr<Ram> Create(uint64_t bytes) {
    Ram ram;
    ram.fd_ = UniqueFd(memfd_create("moult-pool-probe", MFD_CLOEXEC));
    if (!ram.fd_.valid() || ftruncate(ram.fd_.get(), static_cast<off_t>(bytes)) != 0) return ErrnoStatus("memfd");
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ram.fd_.get(), 0);
    if (at == MAP_FAILED) return ErrnoStatus("map a memfd");
    ram.bytes_ = {static_cast<std::byte*>(at), bytes};
    return ram;
  }
  Ram(Ram&& other) noexcept : fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}
  Ram& operator=(Ram&&) = delete;
  ~Ram() {
    if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
  }
  absl::Span<std::byte> bytes() const { return bytes_; }
  int fd() const { return fd_.get(); }

 private:
  Ram() = default;
  UniqueFd fd_;
  absl::Span<std::byte> bytes_;
};

// A thread that calls `serve` whenever `fd` is readable. How long that took is of interest where it says that it was a
// fault's: the thread that touches waits for the end before it goes on.
class Server {
 public:
  // `make` makes what serves, on its thread.
  Server(int fd, std::function<std::function<bool()>()> make) : stop_(eventfd(0, EFD_CLOEXEC)), thread_([this, fd, make = std::move(make)] {
    const std::function<bool()> serve = make();
    for (;;) {
      pollfd fds[] = {{fd, POLLIN, 0}, {stop_.get(), POLLIN, 0}};
      (void)poll(fds, 2, -1);
      if (fds[1].revents != 0) return;
      const auto start = Clock::now();
      const bool fault = serve();
      const auto end = Clock::now();
      if (!fault) continue;
      served_ = Micros(end - start);
      done_.release();
    }
  }) {}
  ~Server() { End(); }
  void End() {
    const uint64_t one = 1;
    (void)!write(stop_.get(), &one, sizeof one);
    if (thread_.joinable()) thread_.join();
  }
  // Touches a page, whose fault is this server's; µs as who touches sees it, and of the serving.
  std::pair<double, double> Touch(const std::byte* page) {
    const auto start = Clock::now();
    // SAFETY: one byte of memory that is mapped, read so that no compiler leaves it out.
    (void)__atomic_load_n(reinterpret_cast<const uint8_t*>(page), __ATOMIC_RELAXED);
    const double seen = Micros(Clock::now() - start);
    done_.acquire();
    return {seen, served_};
  }

 private:
  UniqueFd stop_;
  double served_ = 0;
  std::counting_semaphore<1 << 20> done_{0};
  std::thread thread_;
};

// Registers memory, and puts into it what `raw` reads, a step at a time.
class BareFaults {
 public:
  static absl::StatusOr<std::unique_ptr<BareFaults>> Create(Raw* raw, uint64_t bytes, size_t step) {
    MOULT_ASSIGN_OR_RETURN(Ram ram, Ram::Create(bytes));
    MOULT_ASSIGN_OR_RETURN(host::Uffd uffd, host::Uffd::Open(/*shared=*/true, /*anonymous=*/false));
    MOULT_RETURN_IF_ERROR(uffd.Register(ram.bytes()));
    return std::unique_ptr<BareFaults>(new BareFaults(raw, std::move(ram), std::move(uffd), step));
  }
  std::pair<double, double> Touch(uint64_t offset) { return server_.Touch(ram_.bytes().data() + offset); }
  double read_us() const { return read_us_; }
  double copy_us() const { return copy_us_; }
  absl::Status status() const { return status_; }

 private:
  BareFaults(Raw* raw, Ram ram, host::Uffd uffd, size_t step)
      : raw_(raw), ram_(std::move(ram)), uffd_(std::move(uffd)), step_(step), server_(uffd_.fd(), [this] { return [this] { return Serve(); }; }) {}
  bool Serve() {
    uffd_msg message;
    if (read(uffd_.fd(), &message, sizeof message) != static_cast<ssize_t>(sizeof message)) return false;
    // SAFETY: as a number, an address that the kernel tells of memory that is ours.
    const uint64_t base = reinterpret_cast<uint64_t>(ram_.bytes().data());
    const uint64_t offset = (message.arg.pagefault.address - base) / step_ * step_;
    const size_t bytes = std::min<uint64_t>(step_, ram_.bytes().size() - offset);
    const auto start = Clock::now();
    status_.Update(raw_->Read(offset, bytes, std::min<size_t>(step_, Raw::kRead)));
    const auto got = Clock::now();
    // SAFETY: likewise; the range is `ram_`'s, and the bytes are raw_'s memory.
    uffdio_copy copy = {base + offset, reinterpret_cast<uint64_t>(raw_->memory().data()), bytes, 0, 0};
    if (ioctl(uffd_.fd(), UFFDIO_COPY, &copy) != 0) status_.Update(ErrnoStatus("UFFDIO_COPY"));
    read_us_ = Micros(got - start);
    copy_us_ = Micros(Clock::now() - got);
    return true;
  }
  Raw* const raw_;
  const Ram ram_;
  const host::Uffd uffd_;
  const size_t step_;
  absl::Status status_;
  double read_us_ = 0, copy_us_ = 0;
  Server server_;
};

struct Series {
  std::vector<double> seen, served, bare_seen, bare_read, bare_copy;
  void Add(std::pair<double, double> ours, std::pair<double, double> bare, const BareFaults& peer) {
    seen.push_back(ours.first);
    served.push_back(ours.second);
    bare_seen.push_back(bare.first);
    bare_read.push_back(peer.read_us());
    bare_copy.push_back(peer.copy_us());
  }
  nlohmann::json Json() const {
    std::vector<double> bare(bare_read.size());
    for (size_t i = 0; i < bare.size(); ++i) bare[i] = bare_read[i] + bare_copy[i];
    return {{"faults", served.size()},
            {"served_us", Median(served)},
            {"seen_us", Median(seen)},
            {"bare_read_us", Median(bare_read)},
            {"bare_copy_us", Median(bare_copy)},
            {"bare_seen_us", Median(bare_seen)},
            {"served_ratio", MedianRatio(served, bare)},
            {"seen_ratio", MedianRatio(seen, bare_seen)}};
  }
};

// No neighbour after the other.
std::vector<uint64_t> Shuffled(uint64_t count, unsigned seed) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::shuffle(order.begin(), order.end(), std::minstd_rand(seed));
  return order;
}

absl::Status OffloadedFaults(const Target& target, Raw* raw, uint64_t pages, unsigned seed, Series* series) {
  const uint64_t bytes = pages * kPage;
  MOULT_ASSIGN_OR_RETURN(const Ram ram, Ram::Create(bytes));
  std::mt19937_64 random(seed);
  for (uint64_t at = 0; at < bytes; at += sizeof(uint64_t)) {
    const uint64_t word = random() | 1;
    std::memcpy(ram.bytes().data() + at, &word, sizeof word);
  }
  const std::vector<std::byte> before(ram.bytes().begin(), ram.bytes().end());
  const host::RegionConfig region = {{host::GuestPhys(0), bytes}, ram.bytes().data(), ram.fd(), 0};
  MOULT_ASSIGN_OR_RETURN(const host::GuestMemory memory, host::GuestMemory::Create({&region, 1}));
  MOULT_ASSIGN_OR_RETURN(const auto uri, host::ParsePoolUri(target.uri));
  host::PagerConfig config;
  config.neighbours = 0;
  MOULT_ASSIGN_OR_RETURN(config.pool, host::OpenLentPages(uri, target.key, bytes, {.timeout = target.timeout}));
  MOULT_ASSIGN_OR_RETURN(const auto pager, host::Pager::Create(&memory, std::move(config)));
  MOULT_ASSIGN_OR_RETURN(const auto bare, BareFaults::Create(raw, bytes, kPage));
  const host::OffloadRun run = {{host::GuestPhys(0), bytes}, 0, 1};
  MOULT_ASSIGN_OR_RETURN(const host::OffloadResult out, pager->Offload(kOwner, {&run, 1}));
  if (out.moved_bytes != bytes) return absl::InternalError("not all pages were offloaded");
  {
    Server server(pager->fd(), [&] {
      return [&, serving = std::make_shared<host::Pager::Serving>(pager.get())] {
        pager->ServeReady(serving.get());
        return true;
      };
    });
    for (const uint64_t page : Shuffled(pages, seed)) {
      const auto theirs = bare->Touch(page * kPage);
      MOULT_RETURN_IF_ERROR(bare->status());
      series->Add(server.Touch(ram.bytes().data() + page * kPage), theirs, *bare);
    }
  }
  pager->Stop();
  if (std::equal(before.begin(), before.end(), ram.bytes().begin())) return absl::OkStatus();
  return absl::DataLossError("other bytes came back than were offloaded");
}

// One page of each chunk. What comes behind a fault is left out: nothing is to disturb the next one. `digests`: those of
// all pages are there, as soon after an attach; else each fault brings those of its chunk.
absl::Status TemplateFaults(const Target& target, Raw* raw, const std::string& name, unsigned seed, bool digests, Series* series) {
  host::RemoteStore store({.access = {target.key.tenant, target.key_file}, .cache = "", .cache_bytes = 0});
  std::vector<std::string> notes;
  MOULT_ASSIGN_OR_RETURN(const auto content, store.Open({target.uri, name, ""}, target.deadline(), &notes));
  const auto pages = content->remote;
  if (pages == nullptr) return absl::FailedPreconditionError(absl::StrCat("template ", name, " has no pages to fetch"));
  MOULT_ASSIGN_OR_RETURN(const Ram slot, Ram::Create(pages->size()));
  host::RemoteConfig config;
  MOULT_ASSIGN_OR_RETURN(config.threads, host::ServingThreads::Create());
  host::ServingThreads* const threads = config.threads.get();
  MOULT_ASSIGN_OR_RETURN(const auto pager, host::RemotePager::Create(std::move(config)));
  MOULT_ASSIGN_OR_RETURN(const auto bare, BareFaults::Create(raw, pages->size(), kPage));
  MOULT_RETURN_IF_ERROR(pager->Show(slot.bytes().data(), pages));
  host::PageBuffer buffer(host::RemotePager::kBufferPages);
  if (!pages->by_page()) return absl::FailedPreconditionError(absl::StrCat("template ", name, " is of format 1: push one of now"));
  if (digests) MOULT_RETURN_IF_ERROR(pages->FetchDigests(0, pages->chunks(), {}));
  Server server(pager->fd(), [&] {
    return [&, serving = std::make_shared<host::ServingThreads::Serving>(threads)] {
      const uint64_t before = pager->stats().faults;
      pager->ServeReady(&buffer);
      return pager->stats().faults != before;
    };
  });
  std::minstd_rand random(seed);
  for (const uint64_t chunk : Shuffled(pages->chunks(), seed)) {
    const uint64_t at = chunk * image::kPagesChunk + random() % (pages->ChunkBytes(chunk) / kPage) * kPage;
    const auto theirs = bare->Touch(at);
    MOULT_RETURN_IF_ERROR(bare->status());
    series->Add(server.Touch(slot.bytes().data() + at), theirs, *bare);
  }
  server.End();
  pager->Stop();
  return absl::OkStatus();
}

}  // namespace

absl::Status Faults(const Target& target, const std::string& name, unsigned rounds) {
  MOULT_ASSIGN_OR_RETURN(Raw raw, Raw::Open(target, name));
  Series offloaded, shown, first;
  // The bare reads have no more to read than the template.
  const uint64_t pages = std::min(kOffloaded, raw.pages_bytes() / kPage);
  if (pages == 0) return absl::FailedPreconditionError(absl::StrCat("template ", name, " has no pages to read"));
  for (unsigned round = 0; round < rounds; ++round) {
    MOULT_RETURN_IF_ERROR(OffloadedFaults(target, &raw, pages, round + 1, &offloaded));
    MOULT_RETURN_IF_ERROR(TemplateFaults(target, &raw, name, round + 1, /*digests=*/true, &shown));
    MOULT_RETURN_IF_ERROR(TemplateFaults(target, &raw, name, round + 1, /*digests=*/false, &first));
  }
  nlohmann::json line = {{"offloaded_page", offloaded.Json()}, {"template_page", shown.Json()}, {"template_page_first", first.Json()}};
  for (auto& row : line) row["bare_waits_by"] = raw.sleeps() ? "sleeping" : "polling";
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

}  // namespace moult::probe
