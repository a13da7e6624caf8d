// SPDX-License-Identifier: Apache-2.0
#include "messages.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <utility>

#include "../unit/protocol/sample_image.h"
#include "absl/types/span.h"
#include "moult/base/page.h"
#include "moult/protocol/parse.h"

namespace moult::fuzz {
namespace {

namespace sample = image::sample;
constexpr uint64_t kRamGpa = 1ull << 32;  // As session_fuzz has it.
constexpr uint64_t kWindowGpa = 1ull << 40;
constexpr size_t kRuns = 4;
constexpr size_t kMoveRuns = 2;

std::vector<uint8_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

std::unique_ptr<rpc::HookT> Hook(rpc::HookKind kind) {
  auto hook = std::make_unique<rpc::HookT>();
  hook->kind = kind;
  hook->path = "/hook";
  hook->command = {"/bin/true"};
  hook->timeout_ms = 50;
  return hook;
}

rpc::FunctionInfoT Info(uint64_t id) {
  rpc::FunctionInfoT info;
  info.id = id;
  info.spec = std::make_unique<rpc::FunctionSpecT>(Spec());
  info.state = rpc::FunctionState::Running;
  info.template_name = "t";
  return info;
}

std::vector<std::unique_ptr<rpc::PhaseT>> Phases() {
  std::vector<std::unique_ptr<rpc::PhaseT>> phases;
  phases.push_back(std::make_unique<rpc::PhaseT>());
  phases.back()->name = "freeze";
  phases.back()->us = 12;
  return phases;
}

template <typename T>
T OnFunction() {
  T body;
  body.function = 7;
  return body;
}

rpc::AttachT Attach() {
  rpc::AttachT attach;
  attach.name = "t";
  attach.spec = std::make_unique<rpc::FunctionSpecT>(Spec());
  attach.manifest = Bytes(image::EncodeManifestFile(image::SerializeManifest(sample::Manifest())));
  attach.image = Bytes(image::SerializeImage(sample::Image()));
  attach.pages_size = sample::kPagesSize;
  return attach;
}

rpc::CaptureReportT CaptureReport(bool in_place) {
  rpc::CaptureReportT report;
  report.image = Bytes(image::SerializeImage(sample::Image()));
  image::ManifestT draft = sample::Manifest();
  for (auto* digest : {&draft.image, &draft.pages}) *digest = std::make_unique<image::ContentDigestT>();
  report.manifest = Bytes(image::SerializeManifest(draft));
  report.spec = std::make_unique<rpc::FunctionSpecT>(Spec());
  report.pages_size = sample::kPagesSize;
  for (uint64_t i = 0; in_place && i < sample::kPages; ++i)
    report.pages.emplace_back(kRamGpa + i * kPage, kPage);
  report.phases = Phases();
  return report;
}

rpc::DetachReportT DetachReport() {
  rpc::DetachReportT report;
  for (uint64_t i = 0; i < 20; ++i) report.exclusive.emplace_back(kRamGpa + i * 2 * kPage, kPage);
  report.phases = Phases();
  return report;
}

rpc::HelloReplyT HelloReply() {
  rpc::HelloReplyT hello;
  hello.version = 1;
  hello.agent_version = "0.1.0";
  hello.features = {"copy", "window", "pages", "release"};
  hello.boot_id = "6b1e";
  hello.kernel_release = "6.1.0";
  hello.verbs = {"Run"};
  hello.windows.push_back(std::make_unique<rpc::WindowT>());
  hello.windows.back()->gpa = kWindowGpa;
  hello.windows.back()->size = 2 << 20;
  return hello;
}

rpc::DoctorReplyT DoctorReply() {
  rpc::DoctorReplyT doctor;
  doctor.checks.push_back(std::make_unique<rpc::DoctorCheckT>());
  doctor.checks.back()->name = "driver";
  doctor.checks.back()->detail = "absent";
  doctor.checks.back()->remedy = "modprobe moult";
  return doctor;
}

// A good message that its own receiver refuses would make the fuzzer look at nothing.
template <auto kParse>
int KindOf(const std::string& message) {
  const auto parsed = kParse(message);
  if (parsed.ok()) return static_cast<int>((*parsed)->body.type);
  std::fprintf(stderr, "a good message is refused: %s\n", parsed.status().ToString().c_str());
  std::abort();
}

template <auto kParse>
const std::vector<std::string>* Checked(std::vector<std::string>* messages, size_t kinds) {
  std::set<int> seen;
  for (const std::string& message : *messages) seen.insert(KindOf<kParse>(message));
  if (seen.size() == kinds) return messages;
  std::fprintf(stderr, "messages of %zu kinds, there are %zu\n", seen.size(), kinds);
  std::abort();
}

}  // namespace

rpc::FunctionSpecT Spec() {
  rpc::FunctionSpecT spec;
  spec.name = "web";
  spec.argv = {"/usr/bin/python3", "app.py"};
  spec.env = {"A=1", "PATH=/bin"};
  spec.cwd = "/tmp";
  spec.endpoint = std::make_unique<rpc::EndpointT>();
  spec.endpoint->kind = rpc::EndpointKind::Tcp;
  spec.endpoint->port = 8080;
  spec.readiness = std::make_unique<rpc::ReadinessT>();
  spec.readiness->kind = rpc::ReadinessKind::Line;
  spec.readiness->path = "/ready";
  spec.readiness->line = "ready";
  spec.before_capture = Hook(rpc::HookKind::HttpGet);
  spec.after_attach = Hook(rpc::HookKind::Command);
  return spec;
}

rpc::PagesReportT PagesReport() {
  rpc::PagesReportT pages;
  pages.run_count = kRuns;
  pages.ram = {rpc::GpaRun(kRamGpa, 160 * kPage), rpc::GpaRun(kRamGpa + 192 * kPage, 64 * kPage)};
  pages.functions.push_back(std::make_unique<rpc::PagesFunctionT>());
  pages.functions.back()->id = 7;
  pages.functions.back()->exact = true;
  pages.processes.push_back(std::make_unique<rpc::PagesProcessT>());
  pages.processes.back()->pid = 312;
  pages.processes.back()->comm = "python3";
  pages.processes.back()->function = 7;
  pages.files = {"/usr/bin/python3.11"};
  pages.phases = Phases();
  return pages;
}

std::string Bytes(absl::Span<const rpc::PageRun> runs) {
  // SAFETY: reads plain numbers as bytes.
  return {reinterpret_cast<const char*>(runs.data()), runs.size() * sizeof(rpc::PageRun)};
}

std::string PageRuns() {
  using rpc::PageClass;
  using rpc::PageKind;
  using rpc::Segment;
  const auto flags = rpc::PageFlag::Dirty;
  const rpc::PageRun runs[kRuns] = {{kRamGpa, 100 * kPage, 0x7000, 0, 7, 312, 0, PageClass::UserPrivate,
                                     PageKind::Anonymous, 3, Segment::Init, flags},
                                    {kRamGpa + 100 * kPage, 60 * kPage, 0x400000, kPage, 7, 312, 1,
                                     PageClass::UserFile, PageKind::File, 5, Segment::None, flags},
                                    {kRamGpa + 192 * kPage, 64 * kPage, 0, 0, 0, 0, 0, PageClass::Free,
                                     PageKind::None, 0, Segment::None, flags},
                                    {kWindowGpa, 20 * kPage, 0x90000, 0, 7, 312, 0, PageClass::Template,
                                     PageKind::Anonymous, 1, Segment::None, flags}};
  return Bytes(runs);
}

const std::vector<std::string>& MoveRuns() {
  using rpc::PageClass;
  using rpc::PageKind;
  using rpc::Segment;
  constexpr auto kNone = rpc::PageFlag{};
  static const auto* all = [] {
    const rpc::PageRun mine[kMoveRuns] = {
        {kRamGpa, 100 * kPage, 0x7000, 0, 7, 312, 0, PageClass::UserPrivate, PageKind::Anonymous, 3, Segment::Init, kNone},
        {kRamGpa + 100 * kPage, 60 * kPage, 0x700000, 0, 7, 312, 0, PageClass::UserShared, PageKind::Anonymous, 3, Segment::Exec, kNone}};
    const rpc::PageRun whole[kMoveRuns] = {
        {kRamGpa, 80 * kPage, 0, 0, 0, 0, 0, PageClass::Free, PageKind::None, 0, Segment::None, kNone},
        {kRamGpa + 80 * kPage, 176 * kPage, 0, 0, 0, 0, 0, PageClass::System, PageKind::Slab, 0, Segment::None, kNone}};
    return new std::vector<std::string>{Bytes(mine), Bytes(whole)};
  }();
  return *all;
}

const std::vector<std::string>& Requests() {
  static const auto* all = [] {
    auto* out = new std::vector<std::string>;
    const auto add = [out](auto body) {
      out->push_back(rpc::Serialize(rpc::MakeRequest(std::move(body), 1000)));
    };
    rpc::HelloT hello;
    hello.version_min = hello.version_max = 1;
    hello.client = "host";
    add(std::move(hello));
    add(rpc::ListT{});
    add(rpc::DoctorT{});
    rpc::RunT run;
    run.spec = std::make_unique<rpc::FunctionSpecT>(Spec());
    add(std::move(run));
    add(OnFunction<rpc::FreezeT>());
    add(OnFunction<rpc::ThawT>());
    add(OnFunction<rpc::KillT>());
    add(OnFunction<rpc::ForgetT>());
    add(OnFunction<rpc::CaptureT>());
    rpc::CaptureEndT capture_end;
    capture_end.outcome = rpc::CaptureOutcome::End;
    add(capture_end);
    add(OnFunction<rpc::DetachT>());
    rpc::DetachEndT detach_end;
    detach_end.commit = true;
    add(detach_end);
    add(Attach());
    add(OnFunction<rpc::TunnelT>());
    add(OnFunction<rpc::LogsT>());
    rpc::ReleaseT release;
    release.offset = 2 * kPage;
    release.length = 4 * kPage;
    add(release);
    add(rpc::DetachPagesT{});
    add(OnFunction<rpc::PagesT>());
    return Checked<rpc::ParseRequest>(out, static_cast<size_t>(rpc::RequestBody::MAX));
  }();
  return *all;
}

const std::vector<std::string>& Responses() {
  static const auto* all = [] {
    auto* out = new std::vector<std::string>;
    const auto add = [out](auto body) { out->push_back(rpc::Serialize(rpc::MakeResponse(std::move(body)))); };
    out->push_back(rpc::Serialize(rpc::ErrorResponse(absl::NotFoundError("no function 7"))));
    add(HelloReply());
    add(DoctorReply());
    rpc::ListReplyT list;
    list.functions.push_back(std::make_unique<rpc::FunctionInfoT>(Info(7)));
    list.functions.push_back(std::make_unique<rpc::FunctionInfoT>(Info(8)));
    add(std::move(list));
    rpc::FunctionReplyT function;
    function.function = std::make_unique<rpc::FunctionInfoT>(Info(7));
    function.phases = Phases();
    function.notes = {"a connection is closed"};
    add(std::move(function));
    add(CaptureReport(true));
    add(CaptureReport(false));
    add(DetachReport());
    rpc::DoneT done;
    done.phases = Phases();
    add(std::move(done));
    add(PagesReport());
    return Checked<rpc::ParseResponse>(out, static_cast<size_t>(rpc::ResponseBody::MAX));
  }();
  return *all;
}

const std::vector<std::string>& MoveResponses() {
  static const auto* all = [] {
    auto* out = new std::vector<std::string>{rpc::Serialize(rpc::ErrorResponse(absl::NotFoundError("no function 7")))};
    const auto add = [out](auto body) { out->push_back(rpc::Serialize(rpc::MakeResponse(std::move(body)))); };
    for (const auto state : {rpc::FunctionState::Running, rpc::FunctionState::Ended}) {
      rpc::ListReplyT list;
      list.functions.push_back(std::make_unique<rpc::FunctionInfoT>(Info(7)));
      list.functions.back()->state = state;
      add(std::move(list));
    }
    rpc::FunctionReplyT function;
    function.function = std::make_unique<rpc::FunctionInfoT>(Info(7));
    add(std::move(function));
    for (const bool whole : {false, true}) {
      rpc::PagesReportT pages = PagesReport();
      pages.run_count = kMoveRuns;
      pages.ram.clear();
      if (whole) pages.ram = {rpc::GpaRun(kRamGpa, 256 * kPage)};
      add(std::move(pages));
    }
    for (const std::string& message : *out) (void)KindOf<rpc::ParseResponse>(message);
    return out;
  }();
  return *all;
}

std::string Changed(const std::vector<std::string>& messages, std::string_view changes) {
  if (changes.empty()) return messages.front();
  std::string message = messages[static_cast<uint8_t>(changes[0]) % messages.size()];
  for (size_t i = 1; i + 2 < changes.size(); i += 3) {
    const size_t at =
        static_cast<uint8_t>(changes[i]) | static_cast<size_t>(static_cast<uint8_t>(changes[i + 1])) << 8;
    message[at % message.size()] = static_cast<char>(message[at % message.size()] ^ changes[i + 2]);
  }
  return message;
}

}  // namespace moult::fuzz
