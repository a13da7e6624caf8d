// SPDX-License-Identifier: Apache-2.0
//
// What `moult-bench pool` measures in a VM, without one: a template is shown in plain memory, by the code that shows it
// in a window, and this process touches pages of it as a function would.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "medians.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pool/transfer.h"
#include "pool/uri.h"
#include "probe.h"
#include "remote/remote_pager.h"
#include "remote/remote_store.h"

namespace moult::probe {
namespace {

namespace fs = std::filesystem;
using Clock = host::RemoteTemplate::Clock;

constexpr uint64_t kTouchedOf = 8;  // of so many chunks one is touched by the first answer, and one by those after it
constexpr uint64_t kTouchStep = 4;  // pages
constexpr int kServing = 2;         // threads
constexpr std::chrono::milliseconds kPoll{20};
constexpr std::chrono::seconds kMostWait{120};
constexpr uint64_t kFunction = 1;

// How one way to attach did, round by round; µs and bytes.
struct Way {
  std::string pool, uri, mode;
  std::vector<double> first{}, set{}, all{}, first_bytes{}, set_bytes{}, all_bytes{}, cache_bytes{};
  nlohmann::json Json(const Way& plain) const {
    return {{"pool", pool},
            {"mode", mode},
            {"first_answer_us", Median(first)},
            {"working_set_us", Median(set)},
            {"all_pages_us", Median(all)},
            {"of_plain",
             {{"first_answer", MedianRatio(first, plain.first)},
              {"working_set", MedianRatio(set, plain.set)},
              {"all_pages", MedianRatio(all, plain.all)}}},
            {"bytes_from_pool",
             {{"first_answer", Median(first_bytes)}, {"working_set", Median(set_bytes)}, {"all_pages", Median(all_bytes)}}},
            {"bytes_from_cache", Median(cache_bytes)}};
  }
};

// Addresses where templates are shown one after the other.
class Slot {
 public:
  static absl::StatusOr<std::unique_ptr<Slot>> Create(uint64_t bytes) {
    void* const at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return ErrnoStatus("map a slot");
    return std::unique_ptr<Slot>(new Slot(static_cast<std::byte*>(at), bytes));
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() { munmap(at_, bytes_); }
  std::byte* at() const { return at_; }
  uint64_t bytes() const { return bytes_; }
  absl::Status Clear() const {
    // SAFETY: addresses of our own.
    void* const cleared = mmap(at_, bytes_, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return cleared != MAP_FAILED ? absl::OkStatus() : ErrnoStatus("clear a slot");
  }

 private:
  Slot(std::byte* at, uint64_t bytes) : at_(at), bytes_(bytes) {}
  std::byte* const at_;
  const uint64_t bytes_;
};

class AttachBench {
 public:
  static absl::StatusOr<std::unique_ptr<AttachBench>> Create(const Target& target, const std::string& name,
                                                             const AttachOptions& options) {
    std::unique_ptr<AttachBench> bench(new AttachBench(target, name, options));
    MOULT_RETURN_IF_ERROR(bench->Prepare());
    return bench;
  }
  ~AttachBench() {
    if (pager_ != nullptr) pager_->Stop();
    for (std::thread& thread : serving_) thread.join();
    std::error_code ignored;
    if (!cache_.empty()) fs::remove_all(cache_, ignored);
  }

  absl::Status Round() {
    MOULT_RETURN_IF_ERROR(Plain(&ways_[0]));
    for (size_t i = 1; i < ways_.size(); ++i) MOULT_RETURN_IF_ERROR(From(&ways_[i]));
    return absl::OkStatus();
  }
  void Forget() {
    for (Way& way : ways_) way = {.pool = way.pool, .uri = way.uri, .mode = way.mode};
  }
  nlohmann::json Json() const {
    nlohmann::json ways = nlohmann::json::array();
    for (const Way& way : ways_) ways.push_back(way.Json(ways_[0]));
    return {{"template", name_},
            {"pages_bytes", content_->reader->pages_size()},
            {"touched_bytes", (first_.size() + rest_.size()) * kPage},
            {"prefetch_mib", options_.prefetch_mib},
            {"ways", std::move(ways)}};
  }

 private:
  AttachBench(const Target& target, const std::string& name, const AttachOptions& options)
      : target_(target), name_(name), options_(options) {}

  absl::Status Prepare() {
    MOULT_ASSIGN_OR_RETURN(const auto store, host::Store::Open(options_.store, /*create=*/true));
    auto content = store->Get(name_);
    if (absl::IsNotFound(content.status())) {
      MOULT_ASSIGN_OR_RETURN(const auto pool, host::OpenTemplatePool(target_.uri, Access()));
      MOULT_RETURN_IF_ERROR(host::Pull(*pool, name_, store.get(), Clock::now() + kMostWait, {}));
      content = store->Get(name_);
    }
    MOULT_RETURN_IF_ERROR(content.status());
    content_ = *std::move(content);
    if (content_->reader->pages_size() == 0) {
      return absl::FailedPreconditionError(absl::StrCat("template ", name_, " has no pages"));
    }
    PlanTouches();
    cache_ = options_.cache + "/moult-pool-probe-XXXXXX";
    if (mkdtemp(cache_.data()) == nullptr) return ErrnoStatus(absl::StrCat("make a folder in ", options_.cache));
    MOULT_ASSIGN_OR_RETURN(slot_, Slot::Create(content_->reader->pages_size()));
    host::RemoteConfig config;
    config.prefetch_bytes_per_s = options_.prefetch_mib << 20;
    config.working_set_window = std::chrono::milliseconds(0);  // It is recorded until we say that a function uses it.
    MOULT_ASSIGN_OR_RETURN(pager_, host::RemotePager::Create(std::move(config)));
    for (int i = 0; i < kServing; ++i) serving_.emplace_back([pager = pager_.get()] { pager->Serve(); });
    ways_.push_back({.pool = "store", .uri = "", .mode = "plain"});
    for (const std::string& uri : Uris()) {
      MOULT_ASSIGN_OR_RETURN(const auto parsed, host::ParsePoolUri(uri));
      ways_.push_back({.pool = parsed.scheme, .uri = uri, .mode = "cold"});
      if (parsed.scheme != "dax") ways_.push_back({.pool = parsed.scheme, .uri = uri, .mode = "cold_set"});
      ways_.push_back({.pool = parsed.scheme, .uri = uri, .mode = "warm"});
    }
    return absl::OkStatus();
  }

  host::PoolAccess Access() const { return {target_.key.tenant, target_.key_file}; }
  std::vector<std::string> Uris() const {
    std::vector<std::string> uris{target_.uri};
    uris.insert(uris.end(), options_.also.begin(), options_.also.end());
    return uris;
  }

  void PlanTouches() {
    std::vector<uint64_t> chunks((content_->reader->pages_size() + image::kPagesChunk - 1) / image::kPagesChunk);
    for (uint64_t i = 0; i < chunks.size(); ++i) chunks[i] = i;
    std::shuffle(chunks.begin(), chunks.end(), std::minstd_rand(1));
    const uint64_t some = std::max<uint64_t>(chunks.size() / kTouchedOf, 1);
    for (uint64_t i = 0; i < std::min<uint64_t>(2 * some, chunks.size()); ++i) {
      const uint64_t start = chunks[i] * image::kPagesChunk;
      const uint64_t end = std::min(start + image::kPagesChunk, content_->reader->pages_size());
      for (uint64_t at = start; at < end; at += kTouchStep * kPage) (i < some ? first_ : rest_).push_back(at);
    }
  }

  uint64_t Touch(const std::vector<uint64_t>& places) const {
    uint64_t sum = 0;
    for (const uint64_t at : places) {
      uint64_t word;
      std::memcpy(&word, slot_->at() + at, sizeof word);
      sum = sum * 31 + word;
    }
    return sum;
  }

  // The answers of one way; the first way's are right.
  absl::Status Answers(Clock::time_point start, const std::function<double()>& moved, Way* way) {
    const auto since = [&] { return std::chrono::duration<double, std::micro>(Clock::now() - start).count(); };
    const uint64_t first = Touch(first_);
    way->first.push_back(since());
    way->first_bytes.push_back(moved());
    const uint64_t rest = Touch(rest_);
    way->set.push_back(since());
    way->set_bytes.push_back(moved());
    if (!sums_) sums_ = std::pair(first, rest);
    if (*sums_ == std::pair(first, rest)) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(name_, " from ", way->uri, " ", way->mode, ": other bytes than in the store"));
  }

  absl::Status Plain(Way* way) {
    const auto start = Clock::now();
    const uint64_t size = content_->reader->pages_size();
    // SAFETY: within the slot, which is as long.
    void* const shown =
        mmap(slot_->at(), size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, content_->pages_fd(), 0);
    if (shown == MAP_FAILED) return ErrnoStatus("map a template");
    way->all.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    MOULT_RETURN_IF_ERROR(Answers(start, [] { return 0.0; }, way));
    way->all_bytes.push_back(0);
    way->cache_bytes.push_back(0);
    return slot_->Clear();
  }

  void MakeCold(const std::string& mode) {
    std::error_code error;
    for (fs::recursive_directory_iterator file(cache_, error), end; !error && file != end; file.increment(error)) {
      const std::string kind = file->path().extension();
      std::error_code ignored;
      if (kind == ".pages" || (kind == ".set" && mode == "cold")) fs::remove(file->path(), ignored);
    }
    // What was checked in a pool of this host's memory is checked again by another.
    if (mode == "cold") store_.reset();
  }

  absl::Status From(Way* way) {
    if (way->mode != "warm") MakeCold(way->mode);
    if (store_ == nullptr) store_ = std::make_unique<host::RemoteStore>(host::RemoteStoreConfig{Access(), cache_, 0});
    const auto fetched = [this] {
      const host::RemoteStats stats = pager_->stats();
      return static_cast<double>(stats.fetched_bytes + stats.prefetched_bytes);
    };
    const double before = fetched();
    const auto hit = static_cast<double>(pager_->stats().hit_bytes);
    const auto moved = [&] { return fetched() - before; };
    const auto start = Clock::now();
    std::vector<std::string> notes;
    MOULT_ASSIGN_OR_RETURN(const auto content,
                           store_->Open({way->uri, name_, content_->digest}, target_.deadline(), &notes));
    if (!notes.empty()) return absl::FailedPreconditionError(notes.front());
    if (content->direct != nullptr) {
      MOULT_RETURN_IF_ERROR(content->direct->MapOver(slot_->at(), slot_->bytes()));
    } else {
      MOULT_RETURN_IF_ERROR(pager_->Show(slot_->at(), content->remote));
    }
    const absl::Cleanup gone = [this] { pager_->Forget(slot_->at()); };
    const double attached = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    MOULT_RETURN_IF_ERROR(Answers(start, moved, way));
    if (content->direct != nullptr || way->mode == "warm") {
      way->all.push_back(attached);
    } else {
      pager_->SetUsers(slot_->at(), {kFunction});
      while (content->remote->PresentBytes() < content->remote->size()) {
        if (Clock::now() - start > kMostWait) {
          return absl::DeadlineExceededError(
              absl::StrCat(name_, " from ", way->uri, ": ", content->remote->PresentBytes(), " of ", slot_->bytes(), " bytes have come"));
        }
        std::this_thread::sleep_for(kPoll);
      }
      way->all.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    way->all_bytes.push_back(moved());
    way->cache_bytes.push_back(static_cast<double>(pager_->stats().hit_bytes) - hit);
    std::vector<std::byte> whole(slot_->bytes());
    MOULT_RETURN_IF_ERROR(content_->reader->ReadPages(0, absl::MakeSpan(whole)));
    if (std::memcmp(whole.data(), slot_->at(), whole.size()) != 0) {
      return absl::DataLossError(absl::StrCat(name_, " from ", way->uri, " ", way->mode, ": other bytes than in the store"));
    }
    pager_->Forget(slot_->at());
    return slot_->Clear();
  }

  const Target& target_;
  const std::string name_;
  const AttachOptions& options_;
  std::string cache_;
  std::shared_ptr<const host::Template> content_;  // the peer's
  std::vector<uint64_t> first_, rest_;             // what is touched, by its place in the template
  std::optional<std::pair<uint64_t, uint64_t>> sums_;
  std::unique_ptr<Slot> slot_;
  std::unique_ptr<host::RemoteStore> store_;
  std::unique_ptr<host::RemotePager> pager_;
  std::vector<std::thread> serving_;
  std::vector<Way> ways_;  // first the peer
};

}  // namespace

absl::Status Attach(const Target& target, const std::string& name, const AttachOptions& options) {
  MOULT_ASSIGN_OR_RETURN(const auto bench, AttachBench::Create(target, name, options));
  // The first round is not counted: it makes connections, and fills page caches.
  for (unsigned round = 0; round <= options.rounds; ++round) {
    if (round == 1) bench->Forget();
    MOULT_RETURN_IF_ERROR(bench->Round());
  }
  nlohmann::json report = bench->Json();
  report["rounds"] = options.rounds;
  std::printf("%s\n", report.dump().c_str());
  return absl::OkStatus();
}

}  // namespace moult::probe
