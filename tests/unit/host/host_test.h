// SPDX-License-Identifier: Apache-2.0
//
// A guest of memory alone, an agent that a test scripts, a store in a temporary folder, and the C API
// between.
#ifndef MOULT_TESTS_UNIT_HOST_HOST_TEST_H_
#define MOULT_TESTS_UNIT_HOST_HOST_TEST_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "../protocol/sample_image.h"
#include "fake_agent.h"
#include "moult/moult.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/template_reader.h"
#include "nlohmann/json.hpp"

namespace moult::host::testing {

namespace sample = moult::image::sample;
inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kRamGpa = 1ull << 32;
inline constexpr uint64_t kRamBytes = 4 << 20;
inline constexpr uint64_t kWindowGpa = 1ull << 40;
inline constexpr uint64_t kWindowBytes = 4 << 20;
inline constexpr uint64_t kSlotEnd = 2 << 20;  // of the first slot

// Guest RAM on a memfd, and a window.
struct FakeGuest {
  FakeGuest() : ram_fd(memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    EXPECT_EQ(ftruncate(ram_fd.get(), kRamBytes), 0);
    ram = Map(kRamBytes, MAP_SHARED, ram_fd.get());
    window = Map(kWindowBytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (uint64_t i = 0; i < kRamBytes; ++i) ram[i] = static_cast<uint8_t>(i * 7 + i / kPageBytes + 1);
  }
  ~FakeGuest() {
    munmap(ram, kRamBytes);
    munmap(window, kWindowBytes);
  }
  static uint8_t* Map(uint64_t size, int flags, int fd) {
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
    EXPECT_NE(at, MAP_FAILED);
    return static_cast<uint8_t*>(at);
  }
  uint64_t AllocatedBytes() const {
    struct stat info;
    EXPECT_EQ(fstat(ram_fd.get(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }
  UniqueFd ram_fd;
  uint8_t* ram;
  uint8_t* window;
};

// Where page `i` of a captured function is in guest RAM: scattered, and not in order.
inline uint64_t PageGpa(uint64_t i) { return kRamGpa + (900 - i * 11 % 800) * kPageBytes; }

class OpHandle {
 public:
  ~OpHandle() { moult_op_free(op_); }
  moult_op** out() { return &op_; }
  moult_op* get() const { return op_; }
  // 0, or -errno.
  int Wait() { return moult_op_wait(op_, 30000); }
  nlohmann::json Json() const { return nlohmann::json::parse(moult_op_result_json(op_)); }
  moult_result Numbers() const {
    moult_result result = MOULT_INIT(result);
    EXPECT_EQ(moult_op_numbers(op_, &result), 0);
    return result;
  }

 private:
  moult_op* op_ = nullptr;
};

class HostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "moult-host-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    store_path_ = root_ + "/store";
    moult_store_options options = MOULT_INIT(options);
    options.flags = MOULT_STORE_CREATE;
    ASSERT_EQ(moult_store_open(store_path_.c_str(), &options, &store_), 0) << moult_last_error();
    agent_ = std::make_unique<FakeAgent>(root_ + "/agent", 1075);
  }
  void TearDown() override {
    moult_vm_close(vm_);
    agent_.reset();
    moult_store_close(store_);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root_)) {
      if (entry.is_directory()) chmod(entry.path().c_str(), 0700);
    }
    std::filesystem::remove_all(root_);
  }

  // Options for the fake guest; change them, then Create.
  struct Options {
    moult_region region{};
    moult_window window{};
    moult_vm_options vm{};
    bool halves = false;  // the region as two that touch
  };
  Options DefaultOptions(FakeGuest* guest) {
    Options options;
    options.region = {kRamGpa, guest->ram, kRamBytes, 0, guest->ram_fd.get(), 0};
    options.window = {kWindowGpa, guest->window, kWindowBytes, 0, 0};
    options.vm.size = sizeof(options.vm);
    options.vm.name = "test";
    options.vm.tenant = "red";
    options.vm.store = store_;
    options.vm.transport.kind = MOULT_TRANSPORT_CONNECT;
    options.vm.transport.path = agent_->path().c_str();
    return options;
  }
  static moult_vm* Create(Options options) {
    options.vm.regions = &options.region;
    options.vm.region_count = options.region.hva != nullptr ? 1 : 0;
    options.vm.region_size = sizeof(options.region);
    moult_region halves[2] = {options.region, options.region};
    if (options.halves) {
      const uint64_t half = options.region.length / 2;
      halves[0].length = halves[1].length = half;
      halves[1].gpa += half;
      halves[1].hva = static_cast<uint8_t*>(options.region.hva) + half;
      halves[1].fd_offset += half;
      options.vm.regions = halves;
      options.vm.region_count = 2;
    }
    options.vm.windows = &options.window;
    options.vm.window_count = options.window.hva != nullptr ? 1 : 0;
    options.vm.window_size = sizeof(options.window);
    moult_vm* vm = nullptr;
    EXPECT_EQ(moult_vm_create(&options.vm, &vm), 0) << moult_last_error();
    return vm;
  }
  void CreateVm() { vm_ = Create(DefaultOptions(&guest_)); }
  nlohmann::json Info() {
    char* text = nullptr;
    EXPECT_EQ(moult_vm_info_json(vm_, &text), 0);
    const auto json = nlohmann::json::parse(text);
    moult_free(text);
    return json;
  }
  // The agent still answers, on whatever connection.
  void ExpectServing() {
    OpHandle op;
    ASSERT_EQ(moult_vm_list(vm_, nullptr, op.out()), 0);
    EXPECT_EQ(op.Wait(), 0) << moult_last_error();
  }

  static rpc::HelloReplyT WindowHello() {
    rpc::HelloReplyT hello;
    hello.version = 1;
    hello.boot_id = "boot-1";
    hello.features = {"copy", "window"};
    hello.windows.push_back(std::make_unique<rpc::WindowT>());
    hello.windows[0]->gpa = kWindowGpa;
    hello.windows[0]->size = kWindowBytes;
    return hello;
  }
  void OfferWindow() { agent_->SetHello(WindowHello()); }

  // A report of the sample image with its pages scattered over guest RAM.
  static rpc::CaptureReportT Report(bool in_place) {
    rpc::CaptureReportT report;
    const std::string image = image::SerializeImage(sample::Image());
    report.image.assign(image.begin(), image.end());
    image::ManifestT draft = sample::Manifest();
    draft.image = std::make_unique<image::ContentDigestT>();
    draft.pages = std::make_unique<image::ContentDigestT>();
    const std::string manifest = image::SerializeManifest(draft);
    report.manifest.assign(manifest.begin(), manifest.end());
    report.spec = std::make_unique<rpc::FunctionSpecT>(Spec());
    report.pages_size = sample::kPagesSize;
    report.stopped_us = 10;
    for (uint64_t i = 0; in_place && i < sample::kPages; ++i)
      report.pages.emplace_back(PageGpa(i), kPageBytes);
    return report;
  }
  // Puts the sample's content where Report says that it is. Pages 0 (of a file) and 5, 6 (anonymous) are
  // zero.
  static std::vector<uint8_t> Content() {
    std::vector<uint8_t> pages = sample::Pages();
    for (const uint64_t zero : {uint64_t{0}, uint64_t{5}, uint64_t{6}}) std::memset(&pages[zero * kPageBytes], 0, kPageBytes);
    return pages;
  }
  void FillRam() {
    const std::vector<uint8_t> pages = Content();
    for (uint64_t i = 0; i < sample::kPages; ++i) {
      std::memcpy(guest_.ram + (PageGpa(i) - kRamGpa), &pages[i * kPageBytes], kPageBytes);
    }
  }
  void ScriptCapture() {
    FillRam();
    agent_->On(rpc::RequestBody::Capture, [](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
      const bool in_place = request.body.AsCapture()->mode == rpc::PageMode::InPlace;
      if (!Respond(channel, id, rpc::MakeResponse(Report(in_place)))) return false;
      if (in_place) return true;
      const std::vector<uint8_t> pages = Content();
      return channel
          .SendData(id, {reinterpret_cast<const std::byte*>(pages.data()), pages.size()},
                    rpc::Clock::now() + std::chrono::seconds(20))
          .ok();
    });
    agent_->On(rpc::RequestBody::CaptureEnd,
               [this](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
                 outcome_ = static_cast<int>(request.body.AsCaptureEnd()->outcome);
                 return RespondDone(channel, id);
               });
  }
  int Capture(const char* name, uint32_t pages = MOULT_PAGES_AUTO, nlohmann::json* json = nullptr) {
    moult_capture_options capture = MOULT_INIT(capture);
    capture.function = 7;
    capture.name = name;
    capture.pages = pages;
    OpHandle op;
    if (const int failed = moult_vm_capture(vm_, &capture, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  // A captured template "sample" in the store, by whatever vm_ is there.
  void MakeTemplate(const char* name = "sample") {
    ScriptCapture();
    ASSERT_EQ(Capture(name), 0) << moult_last_error();
  }
  int Attach(const char* name, uint32_t pages = MOULT_PAGES_AUTO, nlohmann::json* json = nullptr,
             moult_vm* vm = nullptr) {
    moult_attach_options attach = MOULT_INIT(attach);
    attach.name = name;
    attach.pages = pages;
    return Attach(attach, json, vm);
  }
  int Attach(const moult_attach_options& attach, nlohmann::json* json, moult_vm* vm) {
    OpHandle op;
    if (const int failed = moult_vm_attach(vm != nullptr ? vm : vm_, &attach, nullptr, op.out()); failed != 0)
      return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }
  // Answers Attach with ever new functions, and keeps what was asked.
  void ScriptAttach() {
    agent_->On(rpc::RequestBody::Attach, [this](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
      const rpc::AttachT& attach = *request.body.AsAttach();
      attach_source_ = static_cast<int>(attach.source);
      attach_offset_ = attach.window_offset;
      if (attach.source == rpc::PageSource::Stream) {
        const std::lock_guard<std::mutex> lock(streamed_mutex_);
        streamed_.resize(attach.pages_size);
        if (!channel
                 .ReceiveData(
                     id, absl::MakeSpan(reinterpret_cast<std::byte*>(streamed_.data()), streamed_.size()),
                     rpc::Clock::now() + std::chrono::seconds(20))
                 .ok()) {
          return false;
        }
      }
      return Respond(channel, id, rpc::MakeResponse(FunctionReply(next_function_++, attach.name)));
    });
  }
  void ScriptDetach(std::vector<rpc::GpaRun> runs) {
    agent_->On(rpc::RequestBody::Detach,
               [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) { return RespondDone(channel, id); });
    agent_->On(rpc::RequestBody::DetachPages, [runs](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::DetachReportT report;
      report.exclusive = runs;
      return Respond(channel, id, rpc::MakeResponse(std::move(report)));
    });
    agent_->On(rpc::RequestBody::DetachEnd,
               [this](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
                 committed_ = request.body.AsDetachEnd()->commit;
                 return RespondDone(channel, id);
               });
  }
  int Detach(uint64_t function, nlohmann::json* json = nullptr) {
    OpHandle op;
    if (const int failed = moult_vm_detach(vm_, function, nullptr, op.out()); failed != 0) return failed;
    const int result = op.Wait();
    if (json != nullptr) *json = op.Json();
    return result;
  }

  FakeGuest guest_;
  std::string root_;
  std::string store_path_;
  moult_store* store_ = nullptr;
  std::unique_ptr<FakeAgent> agent_;
  moult_vm* vm_ = nullptr;
  std::atomic<int> outcome_ = -1;
  std::atomic<int> attach_source_ = -1;
  std::atomic<uint64_t> attach_offset_ = 0;
  std::atomic<uint64_t> next_function_ = 100;
  std::atomic<bool> committed_ = false;
  std::mutex streamed_mutex_;
  std::vector<uint8_t> streamed_;
};

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_HOST_TEST_H_
