// SPDX-License-Identifier: Apache-2.0
#include "pools.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "command.h"
#include "functions.h"
#include "guest.h"
#include "moult/base/unique_fd.h"

namespace moult::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr int kRequests = 5;  // the first answer, and those by which the working set was touched
constexpr std::chrono::milliseconds kPoll{20};
constexpr std::chrono::seconds kMostWait{120};
constexpr uint64_t kDaxMib = 1024;  // of a file that is made

double MicrosSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

struct Pool {
  std::string kind, uri;
  std::vector<std::string> modes;
};

struct Moved {
  double pool = 0;   // bytes that came from it
  double cache = 0;  // bytes that the host had, mapped
};

// Folders and pools of one run, and the VM.
class Bench {
 public:
  explicit Bench(const PoolArguments& arguments) : arguments_(arguments), guest_(arguments.bin, "") {}
  ~Bench() {
    for (const Pool& pool : pools_) {
      for (const std::string& name : pushed_) (void)OnPool(pool, {"rm", pool.uri, name});
    }
    std::error_code ignored;
    if (!cache_.empty()) fs::remove_all(cache_, ignored);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  absl::StatusOr<PoolReport> Measure(const std::string& folder) {
    MOULT_RETURN_IF_ERROR(Prepare(folder));
    report_.rounds = arguments_.rounds;
    report_.prefetch_mib = arguments_.prefetch_mib;
    report_.accel = guest_.accel();
    MOULT_ASSIGN_OR_RETURN(const json hello, guest_.Ask({"hello"}));
    report_.guest_kernel = hello.at("hello").at("kernel_release");
    for (const std::string& function : functions_) MOULT_RETURN_IF_ERROR(MeasureFunction(function));
    return report_;
  }

 private:
  absl::Status Prepare(const std::string& folder) {
    folder_ = folder;
    cache_ = "/dev/shm/moult-bench-XXXXXX";
    if (mkdtemp(cache_.data()) == nullptr) return ErrnoStatus("make a folder in /dev/shm");
    std::vector<std::string> words{"--dir", folder + "/vm", "--store", folder + "/store",
                                   "--kernel", arguments_.kernel, "--memory", "1024", "--cpus", "2", "--qemu", arguments_.qemu,
                                   "--set", "cache=" + cache_,
                                   "--set", absl::StrCat("prefetch_mib=", arguments_.prefetch_mib)};
    if (!arguments_.key.empty()) words.insert(words.end(), {"--set", "pool_key=" + arguments_.key});
    for (const std::string& function : arguments_.functions) {
      MOULT_RETURN_IF_ERROR(CommandOf(function).status());
      const absl::Status there = AddFunction(function, arguments_.sources, folder_, &words);
      if (there.ok()) {
        functions_.push_back(function);
      } else {
        report_.skipped.emplace_back(function, there.message());
      }
    }
    MOULT_RETURN_IF_ERROR(guest_.Boot(words));
    return MakePools();
  }

  absl::Status MakePools() {
    const std::string folder = folder_ + "/pool";
    fs::create_directory(folder);
    const std::vector<std::string> fetched{"cold", "warm", "cold_set"};
    pools_.push_back({"file", "file:" + folder, fetched});
    if (!arguments_.dax.empty()) {
      const Pool dax{"dax", "dax:" + fs::absolute(arguments_.dax).string(), {"cold", "warm"}};
      if (!OnPool(dax, {"stat", dax.uri}).ok()) {
        std::vector<std::string> format{"format", dax.uri};
        if (!fs::exists(arguments_.dax)) format.insert(format.end(), {"--size", std::to_string(kDaxMib)});
        MOULT_RETURN_IF_ERROR(OnPool(dax, format));
      }
      pools_.push_back(dax);
    }
    if (!arguments_.rdma.empty()) pools_.push_back({"rdma", arguments_.rdma, fetched});
    return absl::OkStatus();
  }

  absl::Status OnPool(const Pool& pool, std::vector<std::string> words) const {
    words.insert(words.begin(), {guest_.Program("moultctl"), "--json", "--store", folder_ + "/store", "pool"});
    if (pool.kind == "rdma" && !arguments_.key.empty()) words.insert(words.end(), {"--key", arguments_.key});
    return RunForJson(words).status();
  }

  absl::Status MeasureFunction(const std::string& function) {
    PoolFunction measured{function, 0, {}};
    name_ = absl::StrCat("bench-", getpid(), "-", function);
    MOULT_ASSIGN_OR_RETURN(const std::string started, StartFunction(guest_, function));
    answers_.clear();
    double unused = 0;
    for (int seed = 0; seed < kRequests; ++seed) {
      MOULT_ASSIGN_OR_RETURN(std::string answer, Answer(guest_, started, seed, &unused));
      answers_.push_back(std::move(answer));
    }
    MOULT_ASSIGN_OR_RETURN(const json captured, guest_.Ask({"capture", "--end", started, name_}));
    measured.pages_bytes = captured.at("template").at("pages_bytes");
    MOULT_RETURN_IF_ERROR(guest_.Ask({"forget", started}).status());
    pushed_.push_back(name_);
    for (const Pool& pool : pools_) MOULT_RETURN_IF_ERROR(OnPool(pool, {"push", pool.uri, name_}));

    measured.ways.push_back({"store", "plain", {}});
    for (const Pool& pool : pools_) {
      for (const std::string& mode : pool.modes) measured.ways.push_back({pool.kind, mode, {}});
    }
    // One more than is counted: the first checks digests, and fills the guest's page cache.
    for (int round = 0; round <= arguments_.rounds; ++round) {
      if (round == 1) {
        for (PoolWay& way : measured.ways) way.samples = {};
      }
      MOULT_RETURN_IF_ERROR(MeasureWay(nullptr, measured.pages_bytes, &measured.ways[0]));
      size_t i = 1;
      for (const Pool& pool : pools_) {
        for (size_t mode = 0; mode < pool.modes.size(); ++mode)
          MOULT_RETURN_IF_ERROR(MeasureWay(&pool, measured.pages_bytes, &measured.ways[i++]));
      }
    }
    report_.functions.push_back(std::move(measured));
    return absl::OkStatus();
  }

  // Nothing of the pool's template is on the host; of cold_set, which pages were touched first is.
  absl::Status MakeCold(const Pool& pool, const std::string& mode) const {
    std::error_code error;
    for (fs::recursive_directory_iterator file(cache_, error), end; !error && file != end; file.increment(error)) {
      const std::string kind = file->path().extension();
      std::error_code ignored;
      if (kind == ".pages" || (kind == ".set" && mode == "cold")) fs::remove(file->path(), ignored);
    }
    if (pool.kind == "dax") {
      // What a VM has checked it does not check again: so another one of the same content.
      MOULT_RETURN_IF_ERROR(OnPool(pool, {"rm", pool.uri, name_}));
      return OnPool(pool, {"push", pool.uri, name_});
    }
    if (pool.kind != "file") return absl::OkStatus();
    const std::string path = folder_ + "/pool/" + name_ + "/pages";
    const UniqueFd pages(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!pages.valid()) return ErrnoStatus(absl::StrCat("open ", path));
    const int failed = posix_fadvise(pages.get(), 0, 0, POSIX_FADV_DONTNEED);
    return failed == 0 ? absl::OkStatus() : ErrnoStatus(failed, absl::StrCat("drop ", path, " from the page cache"));
  }

  absl::StatusOr<Moved> MovedSoFar() const {
    MOULT_ASSIGN_OR_RETURN(const json status, guest_.Ask({"status"}));
    const json& remote = status.at("vm").at("remote");
    return Moved{remote.at("fetched_bytes").get<double>() + remote.at("prefetched_bytes").get<double>(),
                 remote.at("hit_bytes").get<double>()};
  }

  absl::Status CheckedAnswer(const std::string& function, int seed, double* us) const {
    MOULT_ASSIGN_OR_RETURN(const std::string answer, Answer(guest_, function, seed, us));
    if (answer == answers_[static_cast<size_t>(seed)]) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(name_, ": another answer to /?seed=", seed, " than before the capture"));
  }

  absl::Status MeasureWay(const Pool* pool, uint64_t pages_bytes, PoolWay* way) {
    const bool fetches = way->mode == "cold" || way->mode == "cold_set";
    if (fetches) MOULT_RETURN_IF_ERROR(MakeCold(*pool, way->mode));
    const bool counts = pool != nullptr && pool->kind != "dax";  // Others move nothing that `remote` counts.
    MOULT_ASSIGN_OR_RETURN(const Moved before, MovedSoFar());
    Moved now = before;
    const auto bytes = [&](const char* what) { way->samples.Add(what, now.pool - before.pool); };
    std::vector<std::string> words{"attach", name_, "--pages", "in_place"};
    if (pool != nullptr) words.insert(words.end(), {"--from", pool->uri});
    const Clock::time_point start = Clock::now();
    MOULT_ASSIGN_OR_RETURN(const json attached, guest_.Ask(words));
    const std::string function = FunctionOf(attached);
    const double attach_us = attached.at("total_us");
    double us = attach_us;
    MOULT_RETURN_IF_ERROR(CheckedAnswer(function, 0, &us));
    way->samples.Add("first_answer", us);
    MOULT_ASSIGN_OR_RETURN(now, MovedSoFar());
    bytes("first_answer_bytes");
    for (int seed = 1; seed < kRequests; ++seed) MOULT_RETURN_IF_ERROR(CheckedAnswer(function, seed, &us));
    way->samples.Add("working_set", us);
    MOULT_ASSIGN_OR_RETURN(now, MovedSoFar());
    bytes("working_set_bytes");
    if (fetches && counts) {
      while (now.pool - before.pool < static_cast<double>(pages_bytes)) {
        if (Clock::now() - start > kMostWait) {
          return absl::DeadlineExceededError(absl::StrCat(name_, " from ", pool->uri, ": ", now.pool - before.pool,
                                                          " of ", pages_bytes, " bytes have come"));
        }
        std::this_thread::sleep_for(kPoll);
        MOULT_ASSIGN_OR_RETURN(now, MovedSoFar());
      }
      way->samples.Add("all_pages", MicrosSince(start));
    } else {
      way->samples.Add("all_pages", attach_us);
    }
    bytes("all_bytes");
    way->samples.Add("cache_bytes", now.cache - before.cache);
    if (way->mode == "cold" && counts) MOULT_RETURN_IF_ERROR(AwaitSet());
    return guest_.Ask({"detach", function}).status();
  }

  // What the next attach fetches first is written down a second after this one.
  absl::Status AwaitSet() const {
    const Clock::time_point end = Clock::now() + kMostWait;
    while (Clock::now() < end) {
      std::error_code error;
      for (fs::recursive_directory_iterator file(cache_, error), last; !error && file != last; file.increment(error)) {
        if (file->path().extension() == ".set") return absl::OkStatus();
      }
      std::this_thread::sleep_for(kPoll);
    }
    return absl::DeadlineExceededError(absl::StrCat(name_, ": no working set was recorded in ", cache_));
  }

  const PoolArguments& arguments_;
  Guest guest_;
  std::string folder_, cache_;
  std::vector<std::string> functions_;
  std::vector<Pool> pools_;
  std::vector<std::string> pushed_;
  std::string name_;                  // of the template
  std::vector<std::string> answers_;  // before it was captured
  PoolReport report_;
};

}  // namespace

absl::StatusOr<PoolReport> MeasurePools(const PoolArguments& arguments) {
  std::string folder = arguments.work + "/moult-bench-XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return ErrnoStatus(absl::StrCat("make a folder in ", arguments.work));
  absl::StatusOr<PoolReport> report = absl::InternalError("not measured");
  {
    Bench bench(arguments);
    try {
      report = bench.Measure(folder);
    } catch (const json::exception& error) {
      report = absl::DataLossError(absl::StrCat("what moultctl says is not as expected: ", error.what()));
    }
  }
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return report;
}

}  // namespace moult::bench
