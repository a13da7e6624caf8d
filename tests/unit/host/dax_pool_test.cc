// SPDX-License-Identifier: Apache-2.0
//
// A dax: pool by the C API: templates in and out, and shown in windows from where they lie. The pool is a
// file.
#include <fcntl.h>

#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "host_test.h"
#include "moult/pool.h"
#include "push_progress.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kPoolBytes = 16 << 20;

// Of the mapping that begins at `at`: its first line, and its numbers in kB.
struct Mapping {
  std::string line;
  std::map<std::string, uint64_t> kb;
};
Mapping MappingAt(const void* at) {
  std::ifstream in("/proc/self/smaps");
  const std::string start = absl::StrCat(absl::Hex(reinterpret_cast<uintptr_t>(at)), "-");
  Mapping found;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (absl::StrContains(line.substr(0, line.find(' ')), "-")) {
      inside = absl::StartsWith(line, start);
      if (inside) found.line = line;
    } else if (inside) {
      const std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
      uint64_t number = 0;
      if (fields.size() == 3 && absl::SimpleAtoi(fields[1], &number)) found.kb[fields[0]] = number;
    }
  }
  return found;
}

class DaxPoolTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    OfferWindow();
    path_ = root_ + "/pmem";
    uri_ = "dax:" + path_;
    CreateVm();
    MakeTemplate();
    ScriptAttach();
    ASSERT_EQ(Format(kPoolBytes, 0), 0) << moult_last_error();
    ASSERT_EQ(moult_pool_open(uri_.c_str(), nullptr, &pool_), 0) << moult_last_error();
  }
  void TearDown() override {
    moult_pool_close(pool_);
    HostTest::TearDown();
  }
  int Format(uint64_t bytes, uint32_t flags) {
    moult_pool_format_options options = MOULT_INIT(options);
    options.bytes = bytes;
    options.flags = flags;
    return moult_pool_format(uri_.c_str(), &options);
  }
  int Push() { return moult_pool_push(pool_, store_, "sample"); }
  int AttachFrom(const char* name, uint32_t pages, nlohmann::json* json, const char* digest = nullptr) {
    moult_attach_options attach = MOULT_INIT(attach);
    attach.name = name;
    attach.pages = pages;
    attach.from = uri_.c_str();
    attach.digest = digest;
    return Attach(attach, json, nullptr);
  }
  nlohmann::json Taken(int result, char** text) {
    EXPECT_EQ(result, 0) << moult_last_error();
    const auto json = nlohmann::json::parse(*text);
    moult_free(*text);
    return json;
  }
  nlohmann::json List() {
    char* text = nullptr;
    const int result = moult_pool_list_json(pool_, &text);
    return Taken(result, &text);
  }
  nlohmann::json Stat() {
    char* text = nullptr;
    const int result = moult_pool_stat_json(pool_, &text);
    return Taken(result, &text);
  }
  std::string Pages() const {
    std::ifstream in(store_path_ + "/sample/pages", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string Shown(size_t bytes) const { return {reinterpret_cast<const char*>(guest_.window), bytes}; }
  // Where in the file the template's pages begin.
  off_t PagesAt() const {
    std::ifstream in(path_, std::ios::binary);
    const std::string all((std::istreambuf_iterator<char>(in)), {});
    const size_t at = all.find(Pages());
    EXPECT_NE(at, std::string::npos);
    return static_cast<off_t>(at);
  }
  void FlipBit(off_t at) {
    const UniqueFd fd(open(path_.c_str(), O_RDWR));
    char byte;
    ASSERT_EQ(pread(fd.get(), &byte, 1, at), 1);
    byte = static_cast<char>(byte ^ 4);
    ASSERT_EQ(pwrite(fd.get(), &byte, 1, at), 1);
  }
  std::string path_, uri_;
  moult_pool* pool_ = nullptr;
};

TEST_F(DaxPoolTest, Template_GoesInAndComesOut) {
  const uint64_t empty = Stat()["limit_bytes"];
  EXPECT_EQ(Stat()["used_bytes"], 0);
  EXPECT_EQ(Stat()["medium"], "page cache");
  ASSERT_EQ(Push(), 0) << moult_last_error();
  EXPECT_EQ(Push(), -EEXIST);
  EXPECT_THAT(moult_last_error(), HasSubstr("push sample to dax:"));
  const auto list = List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0]["name"], "sample");
  EXPECT_EQ(list[0]["tenant"], "red");
  EXPECT_EQ(Stat()["templates"], 1);
  EXPECT_EQ(Stat()["used_bytes"], 2 << 20);
  EXPECT_EQ(Stat()["limit_bytes"], empty);
  EXPECT_EQ(moult_pool_verify(pool_, "sample"), 0) << moult_last_error();
  char* text = nullptr;
  ASSERT_EQ(moult_store_show_json(store_, "sample", &text), 0);
  EXPECT_EQ(nlohmann::json::parse(text)["digest"], list[0]["digest"]);
  moult_free(text);
  const std::string pages = Pages();
  ASSERT_EQ(moult_store_remove(store_, "sample"), 0);
  ASSERT_EQ(moult_pool_pull(pool_, "sample", store_), 0) << moult_last_error();
  EXPECT_EQ(moult_store_verify(store_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(Pages(), pages);
  EXPECT_EQ(moult_pool_remove(pool_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(moult_pool_remove(pool_, "sample"), -ENOENT);
  EXPECT_EQ(moult_pool_pull(pool_, "sample", store_), -ENOENT);
  EXPECT_EQ(Stat()["used_bytes"], 0);
}

TEST_F(DaxPoolTest, Push_TellsHowFarItIs) { ExpectPushTells(store_, root_ + "/big", uri_); }

TEST_F(DaxPoolTest, Format_IsAnActOfItsOwn) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  EXPECT_EQ(Format(0, 0), -EEXIST);
  EXPECT_THAT(moult_last_error(), HasSubstr("holds a pool of 1 templates; give --force"));
  EXPECT_EQ(List().size(), 1u);
  EXPECT_EQ(Format(0, MOULT_POOL_FORMAT_FORCE), 0) << moult_last_error();
  EXPECT_TRUE(List().empty());
  EXPECT_EQ(Format(0, 2), -EINVAL);
  moult_pool* other = nullptr;
  EXPECT_EQ(moult_pool_open(("dax:" + root_ + "/none").c_str(), nullptr, &other), -ENOENT);
  std::ofstream(root_ + "/zeros") << std::string(1 << 20, '\0');
  EXPECT_EQ(moult_pool_open(("dax:" + root_ + "/zeros").c_str(), nullptr, &other), -ENOENT);
  EXPECT_THAT(moult_last_error(), HasSubstr("is not formatted; moultctl pool format dax:"));
  EXPECT_EQ(other, nullptr);
  EXPECT_EQ(moult_pool_format(("dax:" + root_ + "/none").c_str(), nullptr), -ENOENT);
  EXPECT_THAT(moult_last_error(), HasSubstr("give --size MIB to make a file"));
  EXPECT_EQ(moult_pool_format(("file:" + root_).c_str(), nullptr), -EINVAL);
  EXPECT_THAT(moult_last_error(), HasSubstr("only dax:/PATH is"));
  uri_ = "dax:" + root_ + "/small";
  EXPECT_EQ(Format(1 << 20, 0), -EINVAL);
  EXPECT_FALSE(std::filesystem::exists(root_ + "/small"));
}

TEST_F(DaxPoolTest, Attach_MapsThePoolsPages_AndCopiesNone) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  nlohmann::json json;
  // Nobody serves faults, and nobody need.
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
  EXPECT_EQ(json["pages"], "in_place");
  EXPECT_FALSE(json.contains("bytes_by_source"));
  const std::string pages = Pages();
  EXPECT_EQ(Shown(pages.size()), pages);
  const auto slot = Info()["windows"][0]["slots"][0];
  EXPECT_TRUE(slot["direct"]);
  EXPECT_FALSE(slot["remote"]);
  EXPECT_FALSE(Info().contains("cache"));
  const Mapping mapping = MappingAt(guest_.window);
  EXPECT_THAT(mapping.line, HasSubstr(path_));
  EXPECT_EQ(mapping.kb.at("Size:"), pages.size() / 1024);
  EXPECT_EQ(mapping.kb.at("Rss:"), pages.size() / 1024);
  EXPECT_EQ(mapping.kb.at("Anonymous:"), 0u);

  // Another attach of it has the same slot.
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
  EXPECT_EQ(Info()["windows"][0]["slots"].size(), 1u);

  // A guest that writes has a page of its own then, and the template stays.
  guest_.window[5000] ^= 1;
  EXPECT_EQ(MappingAt(guest_.window).kb.at("Anonymous:"), 4u);
  EXPECT_EQ(moult_pool_verify(pool_, "sample"), 0) << moult_last_error();
}

TEST_F(DaxPoolTest, RemovedTemplate_StaysForWhoHasItMapped) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, nullptr), 0) << moult_last_error();
  ASSERT_EQ(moult_pool_remove(pool_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(Stat()["templates"], 0);
  EXPECT_EQ(Stat()["held_bytes"], 2 << 20);
  EXPECT_EQ(Stat()["used_bytes"], 2 << 20);
  EXPECT_EQ(Format(0, MOULT_POOL_FORMAT_FORCE), -EBUSY);
  EXPECT_THAT(moult_last_error(), HasSubstr("templates of it are in use"));
  // Others, of other content, are put beside it.
  guest_.ram[PageGpa(1) - kRamGpa] ^= 1;
  ASSERT_EQ(Capture("other"), 0) << moult_last_error();
  ASSERT_EQ(moult_pool_push(pool_, store_, "other"), 0) << moult_last_error();
  EXPECT_EQ(Stat()["used_bytes"], 4 << 20);
  EXPECT_EQ(Shown(Pages().size()), Pages());
  moult_vm_close(vm_);
  vm_ = nullptr;
  // The window was the VMM's, and goes with it.
  mmap(guest_.window, kWindowBytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT_EQ(Stat()["held_bytes"], 0);
  EXPECT_EQ(Stat()["used_bytes"], 2 << 20);
}

// What is remembered of a template is no reason to keep its blocks, nor to take another one for it.
TEST_F(DaxPoolTest, TemplateThatWasAttached_IsNotHeld_OnceNobodyHasIt) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr), 0) << moult_last_error();
  const std::string digest = List()[0]["digest"];
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr, digest.c_str()), 0) << moult_last_error();
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr, "00ff"), -EBADMSG);
  ASSERT_EQ(moult_pool_remove(pool_, "sample"), 0) << moult_last_error();
  EXPECT_EQ(Stat()["used_bytes"], 0);
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr), -ENOENT);
  // Another one, with its name and in its place.
  ASSERT_EQ(moult_store_remove(store_, "sample"), 0);
  guest_.ram[PageGpa(1) - kRamGpa] ^= 1;
  ASSERT_EQ(Capture("sample"), 0) << moult_last_error();
  ASSERT_EQ(Push(), 0) << moult_last_error();
  ASSERT_NE(List()[0]["digest"], digest);
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr), 0) << moult_last_error();
  EXPECT_EQ(std::string(streamed_.begin(), streamed_.end()), Pages());
}

TEST_F(DaxPoolTest, Attach_ByCopySendsThePoolsPages) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  ASSERT_EQ(AttachFrom("sample", MOULT_PAGES_COPY, nullptr), 0) << moult_last_error();
  EXPECT_EQ(std::string(streamed_.begin(), streamed_.end()), Pages());
}

TEST_F(DaxPoolTest, DamagedTemplate_IsRefused_BeforeTheAgentHearsOfIt) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  FlipBit(PagesAt() + 270000);
  agent_->ForgetVerbs();
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, nullptr), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("pages: chunk 1 (offset 262144, "));
  EXPECT_EQ(AttachFrom("sample", MOULT_PAGES_IN_PLACE, nullptr, "00ff"), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("asked for was 00ff"));
  EXPECT_EQ(AttachFrom("none", MOULT_PAGES_IN_PLACE, nullptr), -ENOENT);
  EXPECT_THAT(agent_->Verbs(), ElementsAre());
  EXPECT_EQ(moult_pool_verify(pool_, "sample"), -EBADMSG);
  ASSERT_EQ(moult_store_remove(store_, "sample"), 0);
  EXPECT_EQ(moult_pool_pull(pool_, "sample", store_), -EBADMSG);
  EXPECT_EQ(moult_store_verify(store_, "sample"), -ENOENT);
}

TEST_F(DaxPoolTest, DamagedDirectory_IsNoReasonToGuess) {
  ASSERT_EQ(Push(), 0) << moult_last_error();
  const std::string name = "sample";
  std::string all((std::istreambuf_iterator<char>(std::ifstream(path_, std::ios::binary).rdbuf())), {});
  FlipBit(static_cast<off_t>(all.find(name, 8192)));
  char* text = nullptr;
  EXPECT_EQ(moult_pool_list_json(pool_, &text), -EBADMSG);
  EXPECT_THAT(moult_last_error(), HasSubstr("directory: does not match its checksum"));
  EXPECT_EQ(Push(), -EBADMSG);
}

}  // namespace
}  // namespace moult::host::testing
