// SPDX-License-Identifier: Apache-2.0
//
// A file: pool by the C API: templates in and out, and attached while they stay there.
#include <fcntl.h>

#include <condition_variable>
#include <fstream>
#include <future>
#include <thread>

#include "host_test.h"
#include "moult/pager.h"
#include "moult/pool.h"
#include "push_progress.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PoolApiTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    OfferWindow();
    std::string pattern = "/dev/shm/moult-test-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    cache_ = pattern;
    pool_path_ = root_ + "/pool";
    ASSERT_EQ(mkdir(pool_path_.c_str(), 0700), 0);
    uri_ = "file:" + pool_path_;
    vm_ = CreateVm(&guest_);
    MakeTemplate();
    ScriptAttach();
    ASSERT_EQ(moult_pool_open(uri_.c_str(), nullptr, &pool_), 0) << moult_last_error();
  }
  void TearDown() override {
    StopServing(vm_);
    moult_pool_close(pool_);
    std::filesystem::remove_all(cache_);
    HostTest::TearDown();
  }
  moult_vm* CreateVm(FakeGuest* guest) {
    Options options = DefaultOptions(guest);
    options.vm.cache = cache_.c_str();
    options.vm.cache_bytes = cache_bytes_;
    options.vm.fault_timeout_ms = 200;
    options.vm.user = this;
    options.vm.page_lost = [](void* user, uint64_t function, uint64_t, const char* why) {
      auto* const self = static_cast<PoolApiTest*>(user);
      const std::lock_guard<std::mutex> lock(self->mutex_);
      self->lost_ = {function, why};
      self->changed_.notify_all();
    };
    return Create(options);
  }
  void Serve(moult_vm* vm) {
    // Of which one may wait for the file.
    for (int i = 0; i < 2; ++i)
      serving_.emplace_back([vm] { EXPECT_EQ(moult_pager_run(vm), 0) << moult_last_error(); });
    // Until they say that they serve, an attach goes by copy.
    while (true) {
      nlohmann::json json;
      if (AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json, nullptr, vm) == 0) return;
      ASSERT_THAT(json["error"]["message"].get<std::string>(), HasSubstr("serves faults of this vm"));
    }
  }
  void StopServing(moult_vm* vm) {
    if (serving_.empty()) return;
    EXPECT_EQ(moult_pager_stop(vm), 0);
    for (std::thread& thread : serving_) thread.join();
    serving_.clear();
  }
  int AttachFrom(const char* name, uint32_t pages, nlohmann::json* json, const char* digest = nullptr,
                 moult_vm* vm = nullptr) {
    moult_attach_options attach = MOULT_INIT(attach);
    attach.name = name;
    attach.pages = pages;
    attach.from = uri_.c_str();
    attach.digest = digest;
    return Attach(attach, json, vm);
  }
  int Push() { return moult_pool_push(pool_, store_, "sample"); }
  nlohmann::json List() {
    char* text = nullptr;
    EXPECT_EQ(moult_pool_list_json(pool_, &text), 0) << moult_last_error();
    const auto json = nlohmann::json::parse(text);
    moult_free(text);
    return json;
  }
  std::string PagesOf(const std::string& folder) {
    std::ifstream in(folder + "/sample/pages", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static std::string Shown(const FakeGuest& guest, size_t bytes) {
    return {reinterpret_cast<const char*>(guest.window), bytes};
  }
  void FlipBit(const std::string& file, off_t at) {
    ASSERT_EQ(chmod(file.c_str(), 0600), 0);
    const UniqueFd fd(open(file.c_str(), O_RDWR));
    char byte;
    ASSERT_EQ(pread(fd.get(), &byte, 1, at), 1);
    byte = static_cast<char>(byte ^ 4);
    ASSERT_EQ(pwrite(fd.get(), &byte, 1, at), 1);
  }

  std::string cache_, pool_path_, uri_;
  uint64_t cache_bytes_ = 64 << 20;
  moult_pool* pool_ = nullptr;
  std::vector<std::thread> serving_;
  std::mutex mutex_;  // guards lost_
  std::condition_variable changed_;
  std::pair<uint64_t, std::string> lost_;
};

TEST_F(PoolApiTest, Template_GoesInAndComesOut) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  EXPECT_EQ(Push(), -EEXIST);
  EXPECT_THAT(moult_last_error(), HasSubstr("push sample to file:"));
  const auto list = List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0]["name"], "sample");
  EXPECT_EQ(list[0]["tenant"], "red");
  EXPECT_EQ(moult_pool_verify(pool_, "sample"), 0) << moult_last_error();
  // The content has one name, wherever it is.
  char* text = nullptr;
  ASSERT_EQ(moult_store_show_json(store_, "sample", &text), 0);
  EXPECT_EQ(nlohmann::json::parse(text)["digest"], list[0]["digest"]);
  moult_free(text);
  const std::string pages = PagesOf(store_path_);
  ASSERT_EQ(moult_store_remove(store_, "sample"), 0);
  ASSERT_EQ(moult_pool_pull(pool_, "sample", store_), 0) << moult_last_error();
  EXPECT_EQ(moult_store_verify(store_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(PagesOf(store_path_), pages);
  ASSERT_EQ(moult_pool_stat_json(pool_, &text), 0) << moult_last_error();
  EXPECT_EQ(nlohmann::json::parse(text)["templates"], 1);
  EXPECT_EQ(nlohmann::json::parse(text)["used_bytes"], list[0]["bytes"]);
  moult_free(text);
  EXPECT_EQ(moult_pool_remove(pool_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(moult_pool_remove(pool_, "sample"), -ENOENT);
  EXPECT_EQ(moult_pool_pull(pool_, "sample", store_), -ENOENT);
  EXPECT_TRUE(List().empty());
}

TEST_F(PoolApiTest, Push_TellsHowFarItIs) { ExpectPushTells(store_, root_ + "/big", uri_); }

TEST_F(PoolApiTest, DamagedTemplate_IsNotPulled) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  FlipBit(pool_path_ + "/sample/pages", 270000);
  ASSERT_EQ(moult_store_remove(store_, "sample"), 0);
  EXPECT_EQ(moult_pool_verify(pool_, "sample"), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("pages: chunk 1 (offset 262144) does not match its digest"));
  EXPECT_EQ(moult_pool_pull(pool_, "sample", store_), -EBADMSG);
  EXPECT_EQ(moult_store_verify(store_, "sample"), -ENOENT);
}

TEST_F(PoolApiTest, Uri_ThatIsNoneIsRefused) {
  moult_pool* pool = nullptr;
  EXPECT_EQ(moult_pool_open("nfs:/a", nullptr, &pool), -EINVAL);
  EXPECT_EQ(moult_pool_open("file:/no/such/folder", nullptr, &pool), -ENOENT);
  EXPECT_THAT(moult_last_error(), HasSubstr("pool file:/no/such/folder"));
  EXPECT_EQ(pool, nullptr);
  EXPECT_EQ(moult_pool_list_json(nullptr, nullptr), -EINVAL);
  moult_attach_options attach = MOULT_INIT(attach);
  attach.name = "sample";
  attach.from = "nfs:/a";
  OpHandle op;
  EXPECT_EQ(moult_vm_attach(vm_, &attach, nullptr, op.out()), -EINVAL);
  attach.from = nullptr;
  attach.digest = "aa";
  EXPECT_EQ(moult_vm_attach(vm_, &attach, nullptr, op.out()), -EINVAL);
}

TEST_F(PoolApiTest, Attach_InPlaceFetchesWhatIsTouched) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  Serve(vm_);
  nlohmann::json json;
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
  EXPECT_EQ(json["pages"], "in_place");
  EXPECT_EQ(json["bytes_by_source"]["pool"], 0);
  EXPECT_EQ(Info()["remote"]["fetched_bytes"], 0);
  const std::string pages = PagesOf(store_path_);
  EXPECT_EQ(Shown(guest_, pages.size()), pages);
  EXPECT_EQ(Info()["remote"]["fetched_bytes"], pages.size());
  EXPECT_TRUE(Info()["windows"][0]["slots"][0]["remote"]);
  EXPECT_EQ(Info()["cache"]["templates"], 1);

  // Another VM of this host has the pages already.
  FakeGuest other;
  moult_vm* const second = CreateVm(&other);
  std::vector<std::thread> serving;
  for (int i = 0; i < 2; ++i) serving.emplace_back([second] { EXPECT_EQ(moult_pager_run(second), 0); });
  while (AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json, nullptr, second) != 0) usleep(1000);
  EXPECT_EQ(Shown(other, pages.size()), pages);
  char* text = nullptr;
  ASSERT_EQ(moult_vm_info_json(second, &text), 0);
  EXPECT_EQ(nlohmann::json::parse(text)["remote"]["fetched_bytes"], 0);
  EXPECT_EQ(nlohmann::json::parse(text)["remote"]["hit_bytes"], pages.size());
  moult_free(text);
  EXPECT_EQ(moult_pager_stop(second), 0);
  for (std::thread& one : serving) one.join();
  moult_vm_close(second);
}

TEST_F(PoolApiTest, Attach_ByCopyFetchesAll) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  nlohmann::json json;
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, &json), 0) << moult_last_error();
  const std::string pages = PagesOf(store_path_);
  EXPECT_EQ(json["bytes_by_source"]["pool"], pages.size());
  EXPECT_EQ(std::string(streamed_.begin(), streamed_.end()), pages);
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, &json), 0) << moult_last_error();
  EXPECT_EQ(json["bytes_by_source"]["pool"], 0);
  EXPECT_EQ(json["bytes_by_source"]["cache"], pages.size());
}

// Another user may have made it first.
TEST_F(PoolApiTest, Attach_GoesOn_WithoutACacheThatCanBeUsed) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  std::filesystem::remove_all(cache_);
  std::ofstream(cache_) << "no folder";
  nlohmann::json json;
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, &json), 0) << moult_last_error();
  EXPECT_THAT(json["notes"].dump(), HasSubstr("not cached, because: "));
  EXPECT_EQ(json["bytes_by_source"]["pool"], PagesOf(store_path_).size());
}

TEST_F(PoolApiTest, Attach_WithoutServingThreadsSaysSo) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, nullptr), -EBUSY);
  EXPECT_THAT(moult_last_error(),
              HasSubstr("no thread serves faults of this vm; let one run moult_pager_run()"));
  nlohmann::json json;
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_AUTO, &json), 0) << moult_last_error();
  EXPECT_EQ(json["pages"], "copy");
}

TEST_F(PoolApiTest, Template_OfAnotherDigestIsRefused) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  const std::string digest = List()[0]["digest"];
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr, digest.c_str()), 0) << moult_last_error();
  agent_->ForgetVerbs();
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr, "00ff"), -EBADMSG);
  EXPECT_THAT(moult_last_error(),
              HasSubstr("asked for was 00ff; name the one that you mean, or push it again"));
  FlipBit(pool_path_ + "/sample/image", 100);
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr), -EBADMSG);
  EXPECT_EQ(AttachFrom("none", MOULT_PAGES_COPY, nullptr), -ENOENT);
  EXPECT_THAT(agent_->Verbs(), ElementsAre());
}

class LostPageTest : public PoolApiTest {
 protected:
  // What is shown of the template, when somebody who touched a page that is damaged in the pool has got one.
  void Touch() {
    ASSERT_EQ(Push(), 0) << moult_last_error();
    FlipBit(pool_path_ + "/sample/pages", 270000);
    Serve(vm_);
    nlohmann::json json;
    ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
    reader_ = std::async(std::launch::async, [&] { return Shown(guest_, 270001); });
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return lost_.first != 0; });
    EXPECT_THAT(lost_.second, HasSubstr("does not match its digest"));
  }
  std::string Resolve(moult_resolution resolution) {
    // Both that were attached use it.
    for (const uint64_t function : {uint64_t{100}, uint64_t{101}}) {
      EXPECT_EQ(moult_pager_resolve(vm_, function, resolution), 0) << moult_last_error();
    }
    // Attaches of it, of which there are none, are the library's own to see to, which asks the agent.
    while (reader_.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
      if (moult_vm_process(vm_) < 0) return moult_last_error();
    }
    return reader_.get();
  }

  std::future<std::string> reader_;
};

TEST_F(LostPageTest, IsToldWithTheFunctionThatHasIt_AndBecomesZeros) {
  ASSERT_NO_FATAL_FAILURE(Touch());
  const std::string shown = Resolve(MOULT_RESOLVE_ZERO);
  ASSERT_EQ(shown.size(), 270001u) << shown;
  EXPECT_EQ(shown[270000], 0);
  EXPECT_EQ(shown.substr(0, 262144), PagesOf(store_path_).substr(0, 262144));
}

TEST_F(LostPageTest, ComesAsItIs_WhenThePoolIsWellAgain) {
  ASSERT_NO_FATAL_FAILURE(Touch());
  FlipBit(pool_path_ + "/sample/pages", 270000);
  EXPECT_EQ(Resolve(MOULT_RESOLVE_RETRY), PagesOf(store_path_).substr(0, 270001));
}

// Its cache may not take as much as the template has.
class CacheWithoutRoomTest : public PoolApiTest {
 protected:
  CacheWithoutRoomTest() { cache_bytes_ = kPageBytes; }
  void SetUp() override {
    PoolApiTest::SetUp();
    ASSERT_EQ(Push(), 0) << moult_last_error();
    pages_ = PagesOf(store_path_);
    ASSERT_GT(pages_.size(), kPageBytes);
  }
  void ExpectNotCached(const nlohmann::json& attached) {
    const std::string notes = attached.value("notes", nlohmann::json::array()).dump();
    EXPECT_THAT(notes, HasSubstr("not cached, because: cache " + cache_));
    EXPECT_THAT(notes, HasSubstr("0 of 4096 bytes are templates in use, and this one has " +
                                 std::to_string(pages_.size()) + "; detach functions, or give it more room"));
    nlohmann::json cache = Info()["cache"];
    EXPECT_EQ(cache["limit_bytes"], kPageBytes);
    EXPECT_EQ(cache["used_bytes"], 0);
    EXPECT_EQ(cache["templates"], 0);
  }

  std::string pages_;
};

TEST_F(CacheWithoutRoomTest, Attach_ByCopyIsRight_AndSaysThatNothingIsCached) {
  // The second finds nothing of the first.
  for (int i = 0; i < 2; ++i) {
    nlohmann::json json;
    ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, &json), 0) << moult_last_error();
    EXPECT_TRUE(std::string(streamed_.begin(), streamed_.end()) == pages_);
    EXPECT_EQ(json["bytes_by_source"]["pool"], pages_.size());
    EXPECT_EQ(json["bytes_by_source"]["cache"], 0);
    ExpectNotCached(json);
  }
}

TEST_F(CacheWithoutRoomTest, Attach_InPlaceIsRight_AndSaysThatNothingIsCached) {
  Serve(vm_);
  nlohmann::json json;
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
  EXPECT_EQ(json["pages"], "in_place");
  EXPECT_EQ(Shown(guest_, pages_.size()), pages_);
  ExpectNotCached(json);
  const nlohmann::json remote = Info()["remote"];
  EXPECT_EQ(remote["fetched_bytes"], pages_.size());
  EXPECT_EQ(remote["hit_bytes"], 0);
  // Memory of this vm alone takes all.
  EXPECT_EQ(remote["unkept_bytes"], 0);
}

}  // namespace
}  // namespace moult::host::testing
