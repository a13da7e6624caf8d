// SPDX-License-Identifier: Apache-2.0
//
// A function with pages that can be offloaded, a scripted agent that tells of them, and real userfaultfd.
#ifndef MOULT_TESTS_UNIT_HOST_OFFLOAD_FIXTURE_H_
#define MOULT_TESTS_UNIT_HOST_OFFLOAD_FIXTURE_H_

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "capi/capi.h"
#include "host_test.h"
#include "moult/pager.h"
#include "moult/pages.h"
#include "moult/protocol/page_runs.h"

namespace moult::host::testing {

using rpc::PageClass;
using rpc::PageFlag;
using rpc::PageKind;
using rpc::PageRun;
using rpc::RequestBody;

inline constexpr uint64_t kFunction = 7;
inline constexpr uint64_t kMine = 64;  // pages of RAM, of the function

class OffloadTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    rpc::HelloReplyT hello;
    hello.version = 1;
    hello.features = {"copy", "pages"};
    agent_->SetHello(std::move(hello));
    for (const auto verb : {RequestBody::Freeze, RequestBody::Thaw}) {
      agent_->On(verb, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
        return Respond(channel, id, rpc::MakeResponse(FunctionReply(kFunction)));
      });
    }
    ScriptList(rpc::FunctionState::Running);
    ScriptPages();
  }
  void TearDown() override {
    StopPager();
    HostTest::TearDown();
  }
  void CreateWithPool(uint64_t pool_bytes = 0) {
    Options options = DefaultOptions(&guest_);
    const std::string pool = "file:" + root_;
    options.vm.pool = pool.c_str();
    options.vm.pool_bytes = pool_bytes;
    vm_ = Create(options);
  }
  // With a pool that has no URI; `config` says the rest. The function is out then.
  void CreateWith(std::shared_ptr<PagePool> pool, VmConfig config) {
    config.transport.kind = TransportConfig::Kind::kConnect;
    config.transport.path = agent_->path();
    config.transport.port = 1075;
    config.regions.push_back({{GuestPhys(kRamGpa), kRamBytes}, reinterpret_cast<std::byte*>(guest_.ram), guest_.ram_fd.get(), 0});
    config.pool = std::move(pool);
    auto vm = Vm::Create(std::move(config));
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = new moult_vm{std::make_shared<Vm*>(vm->get()), std::move(*vm)};
    StartPager();
  }
  // As many as a file: pool wants.
  void RunPagers() {
    for (int i = 0; i < 2; ++i) RunPager();
  }
  void RunPager() {
    pagers_.emplace_back([this] { EXPECT_EQ(moult_pager_run(vm_), 0) << moult_last_error(); });
  }
  // An offload wants to see them there.
  static bool TooFewPagers() { return std::string(moult_last_error()).find("serves faults of this vm") != std::string::npos; }
  void StartPager() {
    RunPagers();
    while (Offload() == -EBUSY && TooFewPagers()) std::this_thread::yield();
    agent_->ForgetVerbs();
  }
  void StopPager() {
    if (pagers_.empty()) return;
    EXPECT_EQ(moult_pager_stop(vm_), 0);
    for (std::thread& pager : pagers_) pager.join();
    pagers_.clear();
  }
  void ScriptList(rpc::FunctionState state) {
    agent_->On(RequestBody::List, [state](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::ListReplyT list;
      list.functions.push_back(std::move(FunctionReply(kFunction).function));
      list.functions[0]->state = state;
      return Respond(channel, id, rpc::MakeResponse(std::move(list)));
    });
  }
  // Every other page from 0 on is the function's private one, in falling order of addresses, of each segment in turn; one
  // more is page cache.
  static std::vector<PageRun> Runs() {
    std::vector<PageRun> runs;
    for (uint64_t i = 0; i < kMine; ++i) {
      const auto flags = i < 8 ? PageFlag::Accessed : PageFlag{};
      runs.emplace_back(kRamGpa + 2 * i * kPageBytes, kPageBytes, 0x10000 + (kMine - i) * kPageBytes, 0, kFunction, 300, 0,
                        PageClass::UserPrivate, PageKind::Anonymous, 3, static_cast<rpc::Segment>(i % 4), flags);
    }
    runs.emplace_back(kRamGpa + 512 * kPageBytes, kPageBytes, 0x900000, 0, kFunction, 300, 0, PageClass::UserFile, PageKind::File, 5,
                      rpc::Segment::None, PageFlag{});
    return runs;
  }
  // `functions`: those that the report of one names.
  void ScriptPages(std::vector<PageRun> of_function = Runs(), std::vector<uint64_t> functions = {kFunction}) {
    agent_->On(RequestBody::Pages, [of_function, functions, of_all = whole_](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
      rpc::PagesReportT report;
      const bool whole = request.body.AsPages()->function == 0;
      const std::vector<PageRun>& runs = whole ? of_all : of_function;
      if (whole) {
        report.ram = {rpc::GpaRun(kRamGpa, kRamBytes)};
      }
      for (const uint64_t function : functions) {
        report.functions.push_back(std::make_unique<rpc::PagesFunctionT>());
        report.functions.back()->id = function;
        report.functions.back()->access = rpc::AccessSource::Page;
      }
      report.processes.push_back(std::make_unique<rpc::PagesProcessT>());
      report.processes[0]->pid = 300;
      report.run_count = runs.size();
      return Respond(channel, id, rpc::MakeResponse(std::move(report))) &&
             channel.SendData(id, {reinterpret_cast<const std::byte*>(runs.data()), runs.size() * sizeof(PageRun)},
                              rpc::Clock::now() + std::chrono::seconds(20)).ok();
    });
  }
  int Offload(uint32_t flags = 0, nlohmann::json* json = nullptr) {
    moult_offload_options offload = MOULT_INIT(offload);
    offload.function = kFunction;
    offload.flags = flags;
    return Offload(offload, json);
  }
  int Offload(const moult_offload_options& offload, nlohmann::json* json) {
    OpHandle op;
    if (const int failed = moult_vm_offload(vm_, &offload, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  int Recall(uint32_t prefetch, nlohmann::json* json = nullptr) {
    moult_recall_options recall = MOULT_INIT(recall);
    recall.function = kFunction;
    recall.prefetch = prefetch;
    OpHandle op;
    if (const int failed = moult_vm_recall(vm_, &recall, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  nlohmann::json PagerInfo() { return Info()["pager"]; }
  void ExpectAllIsWell() {
    for (uint64_t i = 0; i < kRamBytes; ++i) ASSERT_EQ(guest_.ram[i], static_cast<uint8_t>(i * 7 + i / kPageBytes + 1)) << i;
  }

  // The report of all of the guest, once the function has ended: nobody has anything.
  std::vector<PageRun> whole_ = {PageRun(kRamGpa, kRamBytes, 0, 0, 0, 0, 0, PageClass::Free, PageKind::None, 0, rpc::Segment::None, PageFlag{})};
  std::vector<std::thread> pagers_;
};

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_OFFLOAD_FIXTURE_H_
