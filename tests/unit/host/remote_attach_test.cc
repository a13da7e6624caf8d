// SPDX-License-Identifier: Apache-2.0
//
// Attaches from a pool by the C API, where the cache may not take as much as the template has.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "host_test.h"
#include "moult/pager.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

class CacheWithoutRoomTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    OfferWindow();
    std::string pattern = "/dev/shm/moult-test-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    cache_ = pattern;
    Options options = DefaultOptions(&guest_);
    options.vm.cache = cache_.c_str();
    options.vm.cache_bytes = kPageBytes;
    vm_ = Create(options);
    MakeTemplate();
    ScriptAttach();
    std::ifstream in(store_path_ + "/sample/pages", std::ios::binary);
    pages_.assign(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    ASSERT_GT(pages_.size(), kPageBytes);
  }
  void TearDown() override {
    HostTest::TearDown();
    std::error_code ignored;
    std::filesystem::remove_all(cache_, ignored);
  }
  // A store's folder is a pool, too.
  int AttachFromPool(uint32_t pages, nlohmann::json* json) {
    const std::string uri = "file:" + store_path_;
    moult_attach_options attach = MOULT_INIT(attach);
    attach.name = "sample";
    attach.pages = pages;
    attach.from = uri.c_str();
    return Attach(attach, json, nullptr);
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

  std::string cache_, pages_;
};

TEST_F(CacheWithoutRoomTest, Attach_ByCopyIsRight_AndSaysThatNothingIsCached) {
  // The second finds nothing of the first.
  for (int i = 0; i < 2; ++i) {
    nlohmann::json json;
    ASSERT_EQ(AttachFromPool(MOULT_PAGES_COPY, &json), 0) << moult_last_error();
    EXPECT_TRUE(std::string(streamed_.begin(), streamed_.end()) == pages_);
    EXPECT_EQ(json["bytes_by_source"]["pool"], pages_.size());
    EXPECT_EQ(json["bytes_by_source"]["cache"], 0);
    ExpectNotCached(json);
  }
}

TEST_F(CacheWithoutRoomTest, Attach_InPlaceIsRight_AndSaysThatNothingIsCached) {
  std::vector<std::thread> serving;
  for (int i = 0; i < 2; ++i) {
    serving.emplace_back([this] { EXPECT_EQ(moult_pager_run(vm_), 0) << moult_last_error(); });
  }
  nlohmann::json json;
  // Refused until they say that they serve.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (AttachFromPool(MOULT_PAGES_IN_PLACE, &json) != 0 && std::chrono::steady_clock::now() < deadline) usleep(1000);
  EXPECT_EQ(json["pages"], "in_place") << moult_last_error();
  EXPECT_EQ(std::memcmp(guest_.window, pages_.data(), pages_.size()), 0);
  ExpectNotCached(json);
  nlohmann::json remote = Info()["remote"];
  EXPECT_EQ(remote["fetched_bytes"], pages_.size());
  EXPECT_EQ(remote["hit_bytes"], 0);
  // Memory of this vm alone takes all.
  EXPECT_EQ(remote["unkept_bytes"], 0);
  EXPECT_EQ(moult_pager_stop(vm_), 0);
  for (std::thread& one : serving) one.join();
}

}  // namespace
}  // namespace moult::host::testing
