// SPDX-License-Identifier: Apache-2.0
#include "host_test.h"
#include "moult/pages.h"
#include "moult/protocol/page_runs.h"

namespace moult::host::testing {
namespace {

using rpc::PageClass;
using rpc::PageFlag;
using rpc::PageKind;
using rpc::PageRun;
using ::testing::HasSubstr;

constexpr uint64_t kRamPages = kRamBytes / kPageBytes;

uint64_t At(uint64_t page) { return kRamGpa + page * kPageBytes; }

PageRun Of(uint64_t page, uint64_t count, PageClass page_class, PageKind kind = PageKind::None, uint64_t function = 0,
           uint64_t va = 0, uint32_t file = 0) {
  return {At(page), count * kPageBytes, va, 0x3000, function, va != 0 ? 312u : 0u, file, page_class, kind, 3, rpc::Segment::None, PageFlag::Sample};
}

class PagesTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    Offer({"copy", "window", "pages"});
    CreateVm();
    agent_->On(rpc::RequestBody::List, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::ListReplyT list;
      list.functions.push_back(std::move(FunctionReply(7).function));
      return Respond(channel, id, rpc::MakeResponse(std::move(list)));
    });
  }
  void Offer(std::vector<std::string> features) {
    rpc::HelloReplyT hello;
    hello.version = 1;
    hello.features = std::move(features);
    agent_->SetHello(std::move(hello));
  }
  // Pages 0 to 9 are function 7's, 10 to 19 a file's that it maps, 20 to 21 kernel memory for it, 30 on are free; the
  // guest's kernel knows nothing of 22 to 29.
  static std::vector<PageRun> Runs() {
    return {Of(0, 10, PageClass::UserPrivate, PageKind::Anonymous, 7, 0x7000),
            Of(10, 10, PageClass::UserFile, PageKind::File, 7, 0x70000, 1),
            Of(20, 2, PageClass::System, PageKind::PageTable, 7), Of(30, kRamPages - 30, PageClass::Free)};
  }
  static rpc::PagesReportT Report() {
    rpc::PagesReportT report;
    report.ram = {rpc::GpaRun(At(0), 22 * kPageBytes), rpc::GpaRun(At(30), (kRamPages - 30) * kPageBytes)};
    report.functions.push_back(std::make_unique<rpc::PagesFunctionT>());
    report.functions[0]->id = 7;
    report.functions[0]->exact = true;
    report.processes.push_back(std::make_unique<rpc::PagesProcessT>());
    report.processes[0]->pid = 312;
    report.processes[0]->comm = "python3";
    report.processes[0]->function = 7;
    report.files = {"/usr/bin/python3.11"};
    return report;
  }
  void ScriptPages(std::vector<PageRun> runs, rpc::PagesReportT (*make)() = Report, uint64_t missing = 0) {
    agent_->On(rpc::RequestBody::Pages, [runs, make, missing](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::PagesReportT report = make();
      report.run_count = runs.size() + missing;
      return Respond(channel, id, rpc::MakeResponse(std::move(report))) &&
             channel.SendData(id, {reinterpret_cast<const std::byte*>(runs.data()), runs.size() * sizeof(PageRun)},
                              rpc::Clock::now() + std::chrono::seconds(20)).ok();
    });
  }
  int Pages(OpHandle* op, uint32_t flags = 0, uint32_t timeout_ms = 0) {
    moult_pages_options pages = MOULT_INIT(pages);
    pages.flags = flags;
    moult_op_options options = MOULT_INIT(options);
    options.timeout_ms = timeout_ms;
    const int failed = moult_vm_pages(vm_, &pages, &options, op->out());
    return failed != 0 ? failed : op->Wait();
  }
  void ExpectRefused(const char* message) {
    OpHandle op;
    EXPECT_EQ(Pages(&op), -EBADMSG);
    EXPECT_THAT(moult_last_error(), HasSubstr(message));
    const moult_page_run* runs = nullptr;
    size_t count = 0;
    EXPECT_EQ(moult_op_pages(op.get(), &runs, &count), -ENOENT);
  }
};

TEST_F(PagesTest, Sums_AddUpToRam_HolesIncluded) {
  ScriptPages(Runs());
  OpHandle op;
  ASSERT_EQ(Pages(&op), 0) << moult_last_error();
  const nlohmann::json json = op.Json();
  EXPECT_EQ(json["ram_bytes"], kRamBytes);
  EXPECT_EQ(json["classes"]["user_private"], 10 * kPageBytes);
  EXPECT_EQ(json["classes"]["user_file"], 10 * kPageBytes);
  EXPECT_EQ(json["classes"]["system"], 2 * kPageBytes);
  EXPECT_EQ(json["classes"]["reserved"], 8 * kPageBytes);
  uint64_t sum = 0;
  for (const auto& [name, bytes] : json["classes"].items()) sum += bytes.get<uint64_t>();
  EXPECT_EQ(sum, kRamBytes);
  ASSERT_EQ(json["functions"].size(), 1u);
  const nlohmann::json& function = json["functions"][0];
  EXPECT_EQ(function["id"], 7);
  EXPECT_EQ(function["exact"], true);
  EXPECT_EQ(function["state"], "running");
  EXPECT_EQ(function["on_behalf"], 2 * kPageBytes);
  EXPECT_FALSE(json.contains("runs"));
}

TEST_F(PagesTest, Run_MayCrossRegionsThatTouch) {
  moult_vm_close(vm_);
  Options halves = DefaultOptions(&guest_);
  halves.halves = true;
  vm_ = Create(halves);
  // Ten pages of a file, three of which are behind the border.
  constexpr uint64_t kFirst = kRamPages / 2 - 7;
  std::vector<PageRun> all = Runs();
  all.back() = Of(30, kFirst - 30, PageClass::Free);
  all.push_back(Of(kFirst, 10, PageClass::UserFile, PageKind::File, 7, 0x90000, 1));
  all.push_back(Of(kFirst + 10, kRamPages - kFirst - 10, PageClass::Free));
  ScriptPages(all);
  OpHandle op;
  ASSERT_EQ(Pages(&op), 0) << moult_last_error();
  EXPECT_EQ(op.Json()["classes"]["user_file"], 20 * kPageBytes);
  const moult_page_run* run = nullptr;
  ASSERT_EQ(moult_op_page_at(op.get(), At(kRamPages / 2 - 1), &run), 0) << moult_last_error();
  EXPECT_EQ(run->length, 7 * kPageBytes);
  ASSERT_EQ(moult_op_page_at(op.get(), At(kRamPages / 2), &run), 0) << moult_last_error();
  EXPECT_EQ(run->gpa, At(kRamPages / 2));
  EXPECT_EQ(run->length, 3 * kPageBytes);
  EXPECT_EQ(run->va, 0x90000 + 7 * kPageBytes);
  EXPECT_EQ(run->file_offset, 0x3000 + 7 * kPageBytes);
}

TEST_F(PagesTest, Runs_AreInTheJson_WhenAskedFor) {
  ScriptPages(Runs());
  OpHandle op;
  ASSERT_EQ(Pages(&op, MOULT_PAGES_JSON_RUNS), 0) << moult_last_error();
  const nlohmann::json json = op.Json();
  ASSERT_EQ(json["runs"].size(), 5u);  // with the hole
  EXPECT_EQ(json["runs"][1], nlohmann::json({At(10), 10 * kPageBytes, 2, 4, 7, 312, 0x70000, 0, 0x3000, 3, 0, 128}));
  EXPECT_EQ(json["class_names"][2], "user_file");
  EXPECT_EQ(json["kind_names"][4], "file");
  EXPECT_EQ(json["flag_names"][7], "sample");
  EXPECT_EQ(json["run_fields"].size(), json["runs"][0].size());
}

TEST_F(PagesTest, Pages_AreFoundByAddress) {
  ScriptPages(Runs());
  OpHandle op;
  ASSERT_EQ(Pages(&op), 0) << moult_last_error();
  const moult_page_run* run = nullptr;
  ASSERT_EQ(moult_op_page_at(op.get(), At(12) + 77, &run), 0) << moult_last_error();
  EXPECT_EQ(run->gpa, At(10));
  EXPECT_EQ(run->page_class, MOULT_PAGE_USER_FILE);
  EXPECT_STREQ(moult_op_page_file(op.get(), run->file), "/usr/bin/python3.11");
  EXPECT_STREQ(moult_op_page_file(op.get(), 0), "");
  EXPECT_STREQ(moult_op_page_file(op.get(), 2), "");
  ASSERT_EQ(moult_op_page_at(op.get(), At(25), &run), 0);
  EXPECT_EQ(run->kind, MOULT_KIND_HOLE);
  EXPECT_EQ(moult_op_page_at(op.get(), At(kRamPages), &run), -ENOENT);
  const moult_page_run* runs = nullptr;
  size_t count = 0;
  ASSERT_EQ(moult_op_pages(op.get(), &runs, &count), 0);
  EXPECT_EQ(count, 5u);
}

TEST_F(PagesTest, Compare_TellsOnlyOfWhatDiffers) {
  ScriptPages(Runs());
  OpHandle before, after;
  ASSERT_EQ(Pages(&before), 0) << moult_last_error();
  auto runs = Runs();
  // Pages 4 and 5 have been freed, 30 is the function's now.
  runs[0] = Of(0, 4, PageClass::UserPrivate, PageKind::Anonymous, 7, 0x7000);
  runs.insert(runs.begin() + 1, {Of(4, 2, PageClass::Free), Of(6, 4, PageClass::UserPrivate, PageKind::Anonymous, 7, 0x7000 + 6 * kPageBytes)});
  runs.back() = Of(30, 1, PageClass::UserPrivate, PageKind::Anonymous, 7, 0x100000);
  runs.push_back(Of(31, kRamPages - 31, PageClass::Free));
  ScriptPages(runs);
  ASSERT_EQ(Pages(&after), 0) << moult_last_error();
  std::vector<std::string> told;
  ASSERT_EQ(moult_pages_compare(before.get(), after.get(), [](void* user, const moult_page_change* change) {
              static_cast<std::vector<std::string>*>(user)->push_back(
                  absl::StrCat((change->gpa - kRamGpa) / kPageBytes, "+", change->length / kPageBytes, ":",
                               change->before->page_class, ">", change->after->page_class));
            }, &told), 0) << moult_last_error();
  EXPECT_THAT(told, ::testing::ElementsAre("4+2:0>6", "30+1:6>0"));
  told.clear();
  ASSERT_EQ(moult_pages_compare(after.get(), after.get(), [](void* user, const moult_page_change*) {
              static_cast<std::vector<std::string>*>(user)->emplace_back("changed");
            }, &told), 0);
  EXPECT_TRUE(told.empty());
}

TEST_F(PagesTest, Why_SaysWhoHasAPage) {
  ScriptPages(Runs());
  const std::pair<uint64_t, const char*> reasons[] = {
      {At(3), "anonymous memory of process 312 (python3) of function 7"},
      {At(11), "page cache of /usr/bin/python3.11, mapped by process 312 (python3) of function 7"},
      {At(20), "a page table, on behalf of function 7"},
      {At(25), "memory that the guest's kernel does not use"},
      {At(40), "a free page"},
  };
  for (const auto& [gpa, reason] : reasons) {
    OpHandle op;
    ASSERT_EQ(moult_vm_why(vm_, gpa + 5, nullptr, nullptr, op.out()), 0);
    ASSERT_EQ(op.Wait(), 0) << moult_last_error();
    EXPECT_THAT(op.Json()["reason"].get<std::string>(), HasSubstr(reason));
    EXPECT_EQ(op.Json()["gpa"], gpa + 5);
  }
  OpHandle op;
  ASSERT_EQ(moult_vm_why(vm_, 0, guest_.ram + 3 * kPageBytes, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_EQ(op.Json()["gpa"], At(3));
  EXPECT_EQ(op.Json()["va"], 0x7000 + 3 * kPageBytes);
  OpHandle none;
  EXPECT_EQ(moult_vm_why(vm_, 0, &none, nullptr, none.out()), -ERANGE);
  ASSERT_EQ(moult_vm_why(vm_, 1ull << 50, nullptr, nullptr, none.out()), 0);
  EXPECT_EQ(none.Wait(), -ENOENT);
  EXPECT_THAT(moult_last_error(), HasSubstr("neither RAM of this VM nor a template's page"));
}

TEST_F(PagesTest, LiesOfAnAgent_AreRefused) {
  auto runs = Runs();
  runs[0] = Of(0, 11, PageClass::UserPrivate);
  ScriptPages(runs);
  ExpectRefused("is not rising");
  // RAM that this VM does not have.
  runs = Runs();
  runs.back() = Of(30, kRamPages, PageClass::Free);
  ScriptPages(runs, [] {
    rpc::PagesReportT report = Report();
    report.ram[1] = rpc::GpaRun(At(30), kRamBytes);
    return report;
  });
  ExpectRefused("not the guest's RAM");
}

TEST_F(PagesTest, MoreRunsThanPages_AreRefused_BeforeTheyCome) {
  ScriptPages({}, Report, 3 * kRamPages);
  ExpectRefused("more than there are pages");
}

TEST_F(PagesTest, RunsThatDoNotCome_EndInTime) {
  ScriptPages(Runs(), Report, 3);
  OpHandle op;
  EXPECT_EQ(Pages(&op, 0, 300), -ETIMEDOUT);
}

TEST_F(PagesTest, IsUnimplemented_WhenTheAgentHasNoLedger) {
  Offer({"copy"});
  OpHandle op;
  EXPECT_EQ(Pages(&op), -EOPNOTSUPP);
  EXPECT_THAT(moult_last_error(), HasSubstr("the guest's agent has no page ledger"));
}

}  // namespace
}  // namespace moult::host::testing
