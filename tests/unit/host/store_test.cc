// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "host_test.h"
#include "moult/protocol/template_writer.h"
#include "pool/file/store.h"
#include "push_progress.h"

namespace moult::host::testing {
namespace {

using ::testing::HasSubstr;

class StoreTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    auto writer = image::TemplateWriter::Create(root_ + "/dump");
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::vector<uint8_t> pages = sample::Pages();
    const struct iovec part = {pages.data(), pages.size()};
    ASSERT_TRUE((*writer)->AppendPages({&part, 1}).ok());
    ASSERT_TRUE((*writer)->Commit(sample::Image(), sample::Manifest()).ok());
  }
  int Import(const char* name) {
    moult_import_options options = MOULT_INIT(options);
    options.function_json = R"({"name": "f", "argv": ["x"]})";
    options.tenant = "red";
    return moult_store_import(store_, name, (root_ + "/dump").c_str(), &options);
  }
  nlohmann::json List() {
    char* text = nullptr;
    EXPECT_EQ(moult_store_list_json(store_, &text), 0) << moult_last_error();
    const auto json = nlohmann::json::parse(text);
    moult_free(text);
    return json;
  }
};

TEST_F(StoreTest, Template_ComesAndGoes) {
  ASSERT_EQ(Import("a"), 0) << moult_last_error();
  const auto list = List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0]["name"], "a");
  EXPECT_EQ(list[0]["tenant"], "red");
  EXPECT_EQ(list[0]["function"]["name"], "f");
  char* text = nullptr;
  ASSERT_EQ(moult_store_show_json(store_, "a", &text), 0);
  EXPECT_EQ(nlohmann::json::parse(text)["requirements"]["arch"], "x86_64");
  moult_free(text);
  EXPECT_EQ(moult_store_verify(store_, "a"), 0) << moult_last_error();
  EXPECT_EQ(Import("a"), -EEXIST);
  EXPECT_EQ(moult_store_remove(store_, "a"), 0) << moult_last_error();
  EXPECT_EQ(moult_store_remove(store_, "a"), -ENOENT);
  EXPECT_EQ(moult_store_verify(store_, "a"), -ENOENT);
  EXPECT_TRUE(List().empty());
  for (const auto& entry : std::filesystem::directory_iterator(store_path_)) {
    EXPECT_EQ(entry.path().filename(), ".lock");
  }
}

TEST_F(StoreTest, Names_CannotLeaveTheStore) {
  for (const char* name : {"", ".", "..", "../a", "a/b", ".lock", "/etc", "a.partial-1", "a b"}) {
    EXPECT_EQ(Import(name), -EINVAL) << name;
    EXPECT_EQ(moult_store_remove(store_, name), -EINVAL) << name;
    EXPECT_EQ(moult_store_verify(store_, name), -EINVAL) << name;
  }
}

TEST_F(StoreTest, DamagedTemplate_IsNamed_AndDoesNotHideOthers) {
  ASSERT_EQ(Import("a"), 0);
  ASSERT_EQ(Import("b"), 0);
  chmod((store_path_ + "/a").c_str(), 0700);
  chmod((store_path_ + "/a/image").c_str(), 0600);
  std::fstream(store_path_ + "/a/image", std::ios::in | std::ios::out | std::ios::binary).seekp(50).put('x');
  const auto list = List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_THAT(list[0]["error"].get<std::string>(), HasSubstr("image: does not match its digest"));
  EXPECT_EQ(list[1]["name"], "b");
  EXPECT_EQ(moult_store_verify(store_, "a"), -EBADMSG);
  EXPECT_EQ(moult_store_remove(store_, "a"), 0);
}

TEST_F(StoreTest, SameName_IsWonByOneProcess) {
  constexpr int kProcesses = 4;
  std::vector<pid_t> children;
  int start[2];
  ASSERT_EQ(pipe(start), 0);
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      close(start[1]);
      char c;
      if (read(start[0], &c, 1) != 0) _exit(3);  // All begin when the parent closes it.
      moult_store* store = nullptr;
      if (moult_store_open(store_path_.c_str(), nullptr, &store) != 0) _exit(4);
      const int result = moult_store_import(store, "a", (root_ + "/dump").c_str(), nullptr);
      _exit(result == 0 ? 0 : result == -EEXIST ? 1 : 2);
    }
    children.push_back(child);
  }
  close(start[0]);
  close(start[1]);
  int won = 0;
  int lost = 0;
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    won += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    lost += WIFEXITED(status) && WEXITSTATUS(status) == 1;
  }
  EXPECT_EQ(won, 1);
  EXPECT_EQ(lost, kProcesses - 1);
  EXPECT_EQ(moult_store_verify(store_, "a"), 0) << moult_last_error();
}

TEST_F(StoreTest, Leftovers_AreSwept_WhenNobodyWrites) {
  std::filesystem::create_directories(store_path_ + "/a.partial-1");
  std::filesystem::create_directories(store_path_ + "/.trash-1-0-a");
  moult_store* other = nullptr;
  ASSERT_EQ(moult_store_open(store_path_.c_str(), nullptr, &other), 0);
  moult_store_close(other);
  EXPECT_FALSE(std::filesystem::exists(store_path_ + "/a.partial-1"));
  EXPECT_FALSE(std::filesystem::exists(store_path_ + "/.trash-1-0-a"));
}

TEST_F(StoreTest, LookAtAFolder_LeavesNothingThere) {
  const std::string folder = root_ + "/folder";
  std::filesystem::create_directory(folder);
  moult_store* other = nullptr;
  ASSERT_EQ(moult_store_open(folder.c_str(), nullptr, &other), 0);
  moult_store_close(other);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST_F(StoreTest, Remove_ByDigest_LeavesAnothersTemplate) {
  const auto store = Store::Open(store_path_, /*create=*/false);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_EQ(Import("a"), 0) << moult_last_error();
  const std::string digest = (*store)->Read("a").value()->digest;
  ASSERT_EQ(moult_store_remove(store_, "a"), 0);
  EXPECT_EQ((*store)->Remove("a", digest).code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(moult_store_import(store_, "a", (root_ + "/dump").c_str(), nullptr), 0) << moult_last_error();
  ASSERT_NE((*store)->Read("a").value()->digest, digest);
  const absl::Status removed = (*store)->Remove("a", digest);
  EXPECT_EQ(removed.code(), absl::StatusCode::kNotFound) << removed;
  EXPECT_THAT(std::string(removed.message()), HasSubstr("another has its name by now"));
  EXPECT_EQ(moult_store_verify(store_, "a"), 0) << moult_last_error();
  EXPECT_TRUE((*store)->Remove("a", (*store)->Read("a").value()->digest).ok());
}

// What is mounted while one of these lives.
class Mounted {
 public:
  Mounted(std::string path, const char* type, const char* options) : path_(std::move(path)) {
    std::filesystem::create_directory(path_);
    failed_ = mount("none", path_.c_str(), type, 0, options) != 0 ? errno : 0;
  }
  Mounted(const Mounted&) = delete;
  ~Mounted() {
    if (failed_ == 0) umount(path_.c_str());
  }
  int failed() const { return failed_; }

 private:
  const std::string path_;
  int failed_;
};

TEST_F(StoreTest, Hugetlbfs_IsRefused) {
  const Mounted huge(root_ + "/huge", "hugetlbfs", "");
  if (huge.failed() != 0) GTEST_SKIP() << "needs the right to mount hugetlbfs: " << std::strerror(huge.failed());
  const auto store = Store::Open(root_ + "/huge", false);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(store.status().message(), HasSubstr("is on hugetlbfs, whose files cannot be written; use tmpfs"));
}

TEST_F(StoreTest, TmpfsOfHugePages_HoldsTemplates) {
  const Mounted huge(root_ + "/huge", "tmpfs", "huge=always,size=64m");
  if (huge.failed() != 0) GTEST_SKIP() << "needs the right to mount tmpfs: " << std::strerror(huge.failed());
  ASSERT_EQ(Import("a"), 0) << moult_last_error();
  const auto from = Store::Open(store_path_, false);
  const auto store = Store::Open(root_ + "/huge", false);
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status added = (*store)->Add("a", **(*from)->Read("a"));
  ASSERT_TRUE(added.ok()) << added;
  EXPECT_TRUE((*store)->Get("a").ok());
  EXPECT_EQ((*(*store)->Read("a"))->digest, (*(*from)->Read("a"))->digest);
  EXPECT_TRUE((*store)->Remove("a").ok());
}

TEST_F(StoreTest, Add_EndsAtItsDeadline_AndLeavesNothing) {
  ASSERT_EQ(Import("a"), 0) << moult_last_error();
  const auto from = Store::Open(store_path_, false);
  const auto to = Store::Open(root_ + "/to", true);
  ASSERT_TRUE(from.ok() && to.ok());
  const auto content = (*from)->Read("a");
  ASSERT_TRUE(content.ok()) << content.status();
  const absl::Status late = (*to)->Add("a", **content, Store::Clock::now());
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded) << late;
  EXPECT_THAT(late.message(), HasSubstr("give it longer"));
  EXPECT_TRUE((*to)->Names()->empty());
  EXPECT_TRUE((*to)->Add("a", **content).ok());
}

TEST_F(StoreTest, Add_TellsHowMuchIsCopied) {
  const absl::Status written = WriteBigTemplate(root_ + "/big");
  ASSERT_TRUE(written.ok()) << written;
  const auto from = Store::Open(store_path_, false);
  const auto to = Store::Open(root_ + "/to", true);
  ASSERT_TRUE(from.ok() && to.ok());
  ASSERT_TRUE((*from)->Import("a", root_ + "/big", nullptr, nullptr).ok());
  ToldProgress told;
  const absl::Status added = (*to)->Add("a", **(*from)->Read("a"), Store::Clock::time_point::max(), told.teller());
  ASSERT_TRUE(added.ok()) << added;
  told.ExpectGrownTo(kBigBytes);
}

// xfs in a file: one of the file systems that can clone.
class CloneTest : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    mounted_ = root_ + "/xfs";
    const std::string image = root_ + "/xfs.img";
    std::filesystem::create_directory(mounted_);
    std::ofstream(image).close();
    std::filesystem::resize_file(image, 320u << 20);
    there_ = system(("mkfs.xfs -q " + image + " >/dev/null 2>&1 && mount -o loop " + image + " " + mounted_ + " 2>/dev/null").c_str()) == 0;
    if (!there_) GTEST_SKIP() << "needs mkfs.xfs and the right to mount its file";
    for (const char* name : {"one", "two"}) stores_.push_back(*Store::Open(mounted_ + "/" + name, true));
    ASSERT_TRUE(stores_[0]->Import("a", root_ + "/dump", nullptr, nullptr).ok());
  }
  void TearDown() override {
    stores_.clear();
    if (there_) {
      EXPECT_EQ(system(("umount " + mounted_).c_str()), 0);
    }
    StoreTest::TearDown();
  }
  std::string PagesOf(size_t store, const char* name) const { return stores_[store]->path() + "/" + name + "/pages"; }
  // Whether all blocks of the file are another's, too.
  static bool IsShared(const std::string& path) {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    constexpr uint32_t kMost = 32;
    std::vector<std::byte> memory(sizeof(fiemap) + kMost * sizeof(fiemap_extent));
    // SAFETY: memory for a fiemap and kMost extents behind it.
    auto* const map = reinterpret_cast<fiemap*>(memory.data());
    map->fm_length = UINT64_MAX;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = kMost;
    if (ioctl(fd.get(), FS_IOC_FIEMAP, map) != 0 || map->fm_mapped_extents == 0) return false;
    return std::all_of(map->fm_extents, map->fm_extents + map->fm_mapped_extents,
                       [](const fiemap_extent& one) { return (one.fe_flags & FIEMAP_EXTENT_SHARED) != 0; });
  }

  std::string mounted_;
  bool there_ = false;
  std::vector<std::shared_ptr<Store>> stores_;
};

TEST_F(CloneTest, Add_SharesBlocks) {
  EXPECT_FALSE(IsShared(PagesOf(0, "a")));
  const auto content = *stores_[0]->Read("a");
  const absl::Status added = stores_[1]->Add("b", *content);
  ASSERT_TRUE(added.ok()) << added;
  EXPECT_TRUE(IsShared(PagesOf(1, "b")));
  EXPECT_TRUE(IsShared(PagesOf(0, "a")));
  EXPECT_TRUE(stores_[1]->Verify("b").ok());
  EXPECT_EQ((*stores_[1]->Read("b"))->digest, content->digest);
  EXPECT_EQ(stores_[1]->Add("b", *content).code(), absl::StatusCode::kAlreadyExists);
  // It lives without the first.
  ASSERT_TRUE(stores_[0]->Remove("a").ok());
  EXPECT_TRUE(stores_[1]->Verify("b").ok());
}

TEST_F(CloneTest, Add_TellsHowMuchIsChecked) {
  const absl::Status written = WriteBigTemplate(root_ + "/big");
  ASSERT_TRUE(written.ok()) << written;
  ASSERT_TRUE(stores_[0]->Import("big", root_ + "/big", nullptr, nullptr).ok());
  ToldProgress told;
  const absl::Status added = stores_[1]->Add("big", **stores_[0]->Read("big"), Store::Clock::time_point::max(), told.teller());
  ASSERT_TRUE(added.ok()) << added;
  EXPECT_TRUE(IsShared(PagesOf(1, "big")));
  told.ExpectGrownTo(kBigBytes);
}

TEST_F(CloneTest, Add_RefusesWhatIsDamaged_AndLeavesNothing) {
  std::filesystem::permissions(PagesOf(0, "a"), std::filesystem::perms::owner_all);
  std::fstream pages(PagesOf(0, "a"), std::ios::in | std::ios::out);
  pages.seekp(5000);
  pages << "damaged" << std::flush;
  const absl::Status added = stores_[1]->Add("b", **stores_[0]->Read("a"));
  EXPECT_EQ(added.code(), absl::StatusCode::kDataLoss) << added;
  for (const auto& entry : std::filesystem::directory_iterator(stores_[1]->path())) EXPECT_EQ(entry.path().filename(), ".lock");
}

TEST_F(CloneTest, Add_Copies_FromAnotherFileSystem) {
  ASSERT_EQ(Import("c"), 0) << moult_last_error();
  const auto from = *Store::Open(store_path_, false);
  const absl::Status added = stores_[1]->Add("c", **from->Read("c"));
  ASSERT_TRUE(added.ok()) << added;
  EXPECT_FALSE(IsShared(PagesOf(1, "c")));
  EXPECT_TRUE(stores_[1]->Verify("c").ok());
}

TEST_F(StoreTest, Open_SaysWhatIsMissing) {
  moult_store* store = nullptr;
  EXPECT_EQ(moult_store_open((root_ + "/none").c_str(), nullptr, &store), -ENOENT);
  EXPECT_EQ(store, nullptr);
  std::ofstream(root_ + "/file") << "x";
  EXPECT_EQ(moult_store_open((root_ + "/file").c_str(), nullptr, &store), -EBUSY);
}

}  // namespace
}  // namespace moult::host::testing
