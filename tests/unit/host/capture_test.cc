// SPDX-License-Identifier: Apache-2.0
#include <sys/mount.h>

#include <fstream>

#include "host_test.h"

namespace moult::host::testing {
namespace {

using rpc::GpaRun;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CaptureTest : public HostTest {
 protected:
  // Content of the template as the image's runs say: by address, or by offset in the object.
  void ExpectTemplateHoldsContent(const std::string& name) {
    auto reader = image::TemplateReader::Open(store_path_ + "/" + name);
    ASSERT_TRUE(reader.ok()) << reader.status();
    ASSERT_TRUE((*reader)->VerifyPages().ok());
    const std::vector<uint8_t> expected = Content();
    const auto original = sample::Image();
    const image::ProcessImageT& restored = (*reader)->image();
    ExpectRuns(**reader, original.processes[0]->memory->runs, restored.processes[0]->memory->runs, expected);
    for (size_t i = 0; i < original.objects.size(); ++i) {
      ExpectRuns(**reader, original.objects[i]->runs, restored.objects[i]->runs, expected);
    }
  }
  static void ExpectRuns(const image::TemplateReader& reader, const std::vector<image::PageRun>& original,
                         const std::vector<image::PageRun>& restored, const std::vector<uint8_t>& content) {
    for (const image::PageRun& run : original) {
      for (uint64_t at = 0; at < run.length(); at += kPageBytes) {
        std::vector<uint8_t> page(kPageBytes);  // Zero when no run has it.
        for (const image::PageRun& kept : restored) {
          const uint64_t address = run.start() + at;
          if (address < kept.start() || address >= kept.start() + kept.length()) continue;
          const uint64_t offset = kept.pages_offset() + (address - kept.start());
          ASSERT_TRUE(
              reader.ReadPages(offset, {reinterpret_cast<std::byte*>(page.data()), page.size()}).ok());
        }
        EXPECT_EQ(std::memcmp(page.data(), &content[run.pages_offset() + at], kPageBytes), 0)
            << "page at " << run.start() + at;
      }
    }
  }
  bool StoreIsEmpty() {
    for (const auto& entry : std::filesystem::directory_iterator(store_path_)) {
      if (entry.path().filename() != ".lock") return false;
    }
    return true;
  }
};

TEST_F(CaptureTest, InPlace_HoldsWhatGuestRamHolds_WithoutZeroPages) {
  CreateVm();
  ScriptCapture();
  nlohmann::json json;
  ASSERT_EQ(Capture("a", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::Resume));
  ExpectTemplateHoldsContent("a");
  // Of the three zero pages the one that hides a file's content stays.
  EXPECT_EQ(json["counters"]["zero_pages"], 2);
  EXPECT_EQ(json["counters"]["bytes"], (sample::kPages - 2) * kPageBytes);
  EXPECT_EQ(json["template"]["tenant"], "red");
  EXPECT_EQ(json["template"]["function"]["name"], "sample");
  EXPECT_GE(json["stopped_us"], 10);
  EXPECT_FALSE(json["phases"].empty());
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Capture", "CaptureEnd"));
  struct stat info;
  ASSERT_EQ(stat((store_path_ + "/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0222, 0u) << "not sealed";
}

// The report was on its way while the function stood still, which the host cannot see.
TEST_F(CaptureTest, StoppedTime_HoldsWhatTheAgentTook_SinceItReported) {
  CreateVm();
  ScriptCapture();
  agent_->On(rpc::RequestBody::CaptureEnd, [](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::DoneT done;
    for (const char* name : {"report", "resume"}) {
      auto& phase = done.phases.emplace_back(std::make_unique<rpc::PhaseT>());
      phase->name = name;
      phase->us = 3'600'000'000;
    }
    return Respond(channel, id, rpc::MakeResponse(std::move(done)));
  });
  nlohmann::json json;
  ASSERT_EQ(Capture("a", MOULT_PAGES_IN_PLACE, &json), 0) << moult_last_error();
  EXPECT_EQ(json["stopped_us"], 7'200'000'010);  // with what the report says
}

TEST_F(CaptureTest, Copy_MakesTheSamePages_AsInPlace) {
  CreateVm();
  ScriptCapture();
  ASSERT_EQ(Capture("a", MOULT_PAGES_IN_PLACE), 0) << moult_last_error();
  ASSERT_EQ(Capture("b", MOULT_PAGES_COPY), 0) << moult_last_error();
  ExpectTemplateHoldsContent("b");
  auto a = image::TemplateReader::Open(store_path_ + "/a");
  auto b = image::TemplateReader::Open(store_path_ + "/b");
  EXPECT_EQ((*a)->manifest().pages->sha256, (*b)->manifest().pages->sha256);
  EXPECT_EQ((*a)->image_file(), (*b)->image_file());
}

TEST_F(CaptureTest, End_ComesAfterTheTemplateIsThere) {
  CreateVm();
  ScriptCapture();
  bool there = false;
  agent_->On(rpc::RequestBody::CaptureEnd, [&](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
    outcome_ = static_cast<int>(request.body.AsCaptureEnd()->outcome);
    there = image::TemplateReader::Open(store_path_ + "/a").ok();
    return RespondDone(channel, id);
  });
  moult_capture_options capture = MOULT_INIT(capture);
  capture.function = 7;
  capture.name = "a";
  capture.end = 1;
  OpHandle op;
  ASSERT_EQ(moult_vm_capture(vm_, &capture, nullptr, op.out()), 0);
  ASSERT_EQ(op.Wait(), 0) << moult_last_error();
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::End));
  EXPECT_TRUE(there);
}

TEST_F(CaptureTest, PagesInTheWindow_AreReadFromTheTemplateThere) {
  OfferWindow();
  CreateVm();
  MakeTemplate("base");
  ScriptAttach();
  ASSERT_EQ(Attach("base", MOULT_PAGES_IN_PLACE), 0) << moult_last_error();
  const uint64_t slot = kWindowGpa + attach_offset_;
  // Pages 0 to 4 of the sample are the first of the template's content.
  agent_->On(rpc::RequestBody::Capture, [slot](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
    rpc::CaptureReportT report = Report(true);
    for (const uint64_t i : {1u, 3u, 4u}) report.pages[i] = GpaRun(slot + i * kPageBytes, kPageBytes);
    return Respond(channel, id, rpc::MakeResponse(std::move(report)));
  });
  std::memset(guest_.ram + (PageGpa(3) - kRamGpa), 0xee, kPageBytes);  // Not to be read.
  ASSERT_EQ(Capture("again"), 0) << moult_last_error();
  ExpectTemplateHoldsContent("again");
  for (const uint64_t outside : {kWindowGpa + kWindowBytes - kPageBytes, slot + (2 << 20)}) {
    agent_->On(rpc::RequestBody::Capture, [outside](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::CaptureReportT report = Report(true);
      report.pages[3] = GpaRun(outside, kPageBytes);
      return Respond(channel, id, rpc::MakeResponse(std::move(report)));
    });
    EXPECT_EQ(Capture("outside"), -EBADMSG);
    EXPECT_THAT(moult_last_error(), HasSubstr("not inside one template there"));
  }
}

// Answers the first `times` of what `outcome` asks for with ABORTED.
class MovedPagesTest : public CaptureTest {
 protected:
  void ScriptMoves(rpc::CaptureOutcome outcome, int times) {
    left_ = times;
    CreateVm();
    ScriptCapture();
    agent_->On(rpc::RequestBody::CaptureEnd,
               [this, outcome](rpc::Channel& channel, uint64_t id, rpc::RequestT& request) {
                 outcome_ = static_cast<int>(request.body.AsCaptureEnd()->outcome);
                 if (request.body.AsCaptureEnd()->outcome != outcome || left_-- <= 0) return RespondDone(channel, id);
                 return Respond(channel, id, rpc::ErrorResponse(absl::AbortedError("the kernel moved pages")));
               });
  }
  int CaptureAndEnd(const char* name) {
    moult_capture_options capture = MOULT_INIT(capture);
    capture.function = 7;
    capture.name = name;
    capture.end = 1;
    OpHandle op;
    EXPECT_EQ(moult_vm_capture(vm_, &capture, nullptr, op.out()), 0);
    return op.Wait();
  }
  std::atomic<int> left_ = 0;
};

TEST_F(MovedPagesTest, Capture_IsDoneAgain) {
  ScriptMoves(rpc::CaptureOutcome::Resume, 2);
  ASSERT_EQ(Capture("a", MOULT_PAGES_IN_PLACE), 0) << moult_last_error();
  ExpectTemplateHoldsContent("a");
  EXPECT_THAT(agent_->Verbs(),
              ElementsAre("Capture", "CaptureEnd", "Capture", "CaptureEnd", "Capture", "CaptureEnd"));
}

TEST_F(MovedPagesTest, Capture_GivesUp_WhenTheyAlwaysMove) {
  ScriptMoves(rpc::CaptureOutcome::Resume, 100);
  EXPECT_EQ(Capture("a", MOULT_PAGES_IN_PLACE), -EAGAIN);
  EXPECT_EQ(moult_last_error_code(), MOULT_ABORTED);
  EXPECT_THAT(moult_last_error(), HasSubstr("moved pages"));
  EXPECT_TRUE(StoreIsEmpty());
  ExpectServing();
}

TEST_F(MovedPagesTest, NothingIsPublished_BeforeTheFunctionThatEndsWasChecked) {
  ScriptMoves(rpc::CaptureOutcome::Check, 100);
  EXPECT_EQ(CaptureAndEnd("a"), -EAGAIN);
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::Check));
  EXPECT_TRUE(StoreIsEmpty());
}

TEST_F(MovedPagesTest, Template_Stays_WhenTheEndFails) {
  ScriptMoves(rpc::CaptureOutcome::End, 100);
  EXPECT_EQ(CaptureAndEnd("a"), -EAGAIN);
  EXPECT_THAT(moult_last_error(), HasSubstr("template a is written"));
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Capture", "CaptureEnd", "CaptureEnd"));
  ExpectTemplateHoldsContent("a");
}

TEST_F(CaptureTest, LyingReport_IsRefused_AndTheAgentIsAskedAgain) {
  CreateVm();
  const struct {
    const char* message;
    std::function<void(rpc::CaptureReportT*)> lie;
  } lies[] = {
      {"not inside one region", [](auto* r) { r->pages[3] = GpaRun(0, kPageBytes); }},
      {"not inside one region", [](auto* r) { r->pages[3] = GpaRun(kRamGpa + kRamBytes, kPageBytes); }},
      {"not inside one region", [](auto* r) { r->pages[3] = GpaRun(kWindowGpa, kPageBytes); }},
      {"not inside one region", [](auto* r) { r->pages[3] = GpaRun(kRamGpa - kPageBytes, kPageBytes); }},
      {"not inside one region",
       [](auto* r) { r->pages = {GpaRun(kRamGpa + kRamBytes - kPageBytes, sample::kPagesSize)}; }},
      {"twice", [](auto* r) { r->pages[3] = r->pages[4]; }},
      {"not page aligned", [](auto* r) { r->pages[3] = GpaRun(kRamGpa + 8, kPageBytes); }},
      {"not whole pages", [](auto* r) { r->pages[3] = GpaRun(kRamGpa, 0); }},
      {"wraps around", [](auto* r) { r->pages[3] = GpaRun(~4095ull, 8192); }},
      {"but pages_size is", [](auto* r) { r->pages.pop_back(); }},
      {"no pages in place", [](auto* r) { r->pages.clear(); }},
      {"not whole pages", [](auto* r) { r->pages_size += 1; }},
      {"image: not a FlatBuffer", [](auto* r) { r->image.assign(100, 0xff); }},
      {"manifest: not a FlatBuffer", [](auto* r) { r->manifest.assign(100, 0xff); }},
      {"is past", [](auto* r) { r->pages.resize(1), r->pages_size = kPageBytes; }},
      {"argv: empty", [](auto* r) { r->spec->argv.clear(); }},
  };
  for (const auto& lie : lies) {
    agent_->On(rpc::RequestBody::Capture, [&](rpc::Channel& channel, uint64_t id, rpc::RequestT&) {
      rpc::CaptureReportT report = Report(true);
      lie.lie(&report);
      return Respond(channel, id, rpc::MakeResponse(std::move(report)));
    });
    EXPECT_EQ(Capture("a"), -EBADMSG) << lie.message;
    EXPECT_EQ(moult_last_error_code(), MOULT_DATA_LOSS);
    EXPECT_THAT(moult_last_error(), HasSubstr(lie.message));
    EXPECT_TRUE(StoreIsEmpty());
    ExpectServing();
  }
}

TEST_F(CaptureTest, Function_RunsOn_WhenTheNameIsTaken) {
  CreateVm();
  MakeTemplate("a");
  agent_->ForgetVerbs();
  EXPECT_EQ(Capture("a"), -EEXIST);
  EXPECT_THAT(moult_last_error(), HasSubstr("is there already"));
  EXPECT_TRUE(agent_->Verbs().empty());
}

TEST_F(CaptureTest, Function_RunsOn_WhenTheStoreIsFull) {
  const std::string small = root_ + "/small";
  mkdir(small.c_str(), 0700);
  if (mount("none", small.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "needs the right to mount a small tmpfs: " << std::strerror(errno);
  }
  moult_store* store = nullptr;
  ASSERT_EQ(moult_store_open(small.c_str(), nullptr, &store), 0);
  Options options = DefaultOptions(&guest_);
  options.vm.store = store;
  vm_ = Create(options);
  ScriptCapture();
  EXPECT_EQ(Capture("a"), -ENOSPC);
  EXPECT_EQ(moult_last_error_code(), MOULT_RESOURCE_EXHAUSTED);
  EXPECT_FALSE(std::filesystem::exists(small + "/a"));
  // The agent is told, so that the function goes on at once.
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Capture", "CaptureEnd"));
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::Resume));
  agent_->ForgetVerbs();
  moult_capture_options capture = MOULT_INIT(capture);
  capture.function = 7;
  capture.name = "a";
  capture.end = 1;
  {
    OpHandle op;
    ASSERT_EQ(moult_vm_capture(vm_, &capture, nullptr, op.out()), 0);
    EXPECT_EQ(op.Wait(), -ENOSPC);
  }
  EXPECT_THAT(agent_->Verbs(), ElementsAre("Capture", "CaptureEnd", "CaptureEnd"));
  EXPECT_EQ(outcome_, static_cast<int>(rpc::CaptureOutcome::Resume));
  ExpectServing();
  moult_vm_close(vm_);
  vm_ = nullptr;
  moult_store_close(store);
  EXPECT_EQ(umount(small.c_str()), 0);
}

TEST_F(CaptureTest, Work_RunsOnTheEmbeddersThread_WhenItHasOne) {
  struct Worker {
    std::thread thread;
    int result = 1;
  } worker;
  Options options = DefaultOptions(&guest_);
  options.vm.user = &worker;
  options.vm.work = [](void* user, moult_op* op) {
    auto* to = static_cast<Worker*>(user);
    to->thread = std::thread([to, op] { to->result = moult_op_run(op); });
  };
  vm_ = Create(options);
  ScriptCapture();
  ASSERT_EQ(Capture("a"), 0) << moult_last_error();
  worker.thread.join();
  EXPECT_EQ(worker.result, 0);
  ExpectTemplateHoldsContent("a");
}

}  // namespace
}  // namespace moult::host::testing
