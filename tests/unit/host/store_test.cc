// SPDX-License-Identifier: Apache-2.0
#include <sys/wait.h>

#include <fstream>

#include "host_test.h"
#include "moult/protocol/template_writer.h"

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

TEST_F(StoreTest, Open_SaysWhatIsMissing) {
  moult_store* store = nullptr;
  EXPECT_EQ(moult_store_open((root_ + "/none").c_str(), nullptr, &store), -ENOENT);
  EXPECT_EQ(store, nullptr);
  std::ofstream(root_ + "/file") << "x";
  EXPECT_EQ(moult_store_open((root_ + "/file").c_str(), nullptr, &store), -EBUSY);
}

}  // namespace
}  // namespace moult::host::testing
